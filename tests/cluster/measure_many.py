"""Driver memory over the number of trajectories: python tests/cluster/measure_many.py [1000 100000]

Writes short made-up trajectories and a trivial student (one layer, random weights), scores them
through the command line, and prints a line a size: trajectories, seconds, peak memory of the driver
process.
"""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import Qwen3Config, Qwen3ForCausalLM

from rsr_ray.demo.corpus import TEACHERS, make_problem, prompt
from rsr_ray.student.tokenizer import load_tokenizer

DEMO_STUDENT = Path(__file__).parents[2] / "rsr_ray" / "demo" / "student"


def write(folder: Path, n: int) -> None:
    rng = random.Random(0)
    for shard in range(20):
        path = folder / f"teacher=terse-{shard % 5}" / f"{shard}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            for i in range(n // 20):
                problem = make_problem(rng)
                file.write(
                    json.dumps(
                        {
                            "id": f"{shard}/{i}",
                            "prompt": prompt(problem),
                            "response": TEACHERS["terse-7b"](problem, rng),
                        }
                    )
                    + "\n"
                )


def main(sizes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = Qwen3Config(
            vocab_size=640, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=1, num_key_value_heads=1, head_dim=16, max_position_embeddings=1024,
        )  # fmt: skip
        Qwen3ForCausalLM(config).save_pretrained(folder / "student")
        load_tokenizer(str(DEMO_STUDENT)).save_pretrained(folder / "student")
        for n in sizes:
            write(folder / f"corpus-{n}", n)
            options = [
                "--corpus",
                f"{folder}/corpus-{n}",
                "--student",
                f"{folder}/student",
                "--store",
                f"{folder}/store-{n}",
                "--json",
            ]
            done = subprocess.run(
                [sys.executable, "-m", "rsr_ray", "score", *options],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            run = json.loads(done.stdout.splitlines()[-1])
            assert run["equation"]["scored"] == n
            print(
                (
                    f"{n:,} trajectories: {run['seconds']:.0f} s, driver peak "
                    f"{run['driver_peak_rss_bytes'] / 2**20:.0f} MiB"
                ),
                flush=True,
            )


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [1000, 100_000])
