"""Long rows and half precision: memory follows the work, and batches change no more than the stated budget."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rsr_ray.lm_head import token_stats
from rsr_ray.score import Work, score_rows
from rsr_ray.student import Student

from .conftest import DEMO_STUDENT

MOST = 131_072
GIB = 1 << 30

SCORE_ONE = """
import json, sys
import numpy as np, torch
from rsr_ray.bench import peak_memory
from rsr_ray.score import Work, score_rows
from rsr_ray.student import Student

student = Student(sys.argv[1], "float32", "cpu")
ids = np.random.default_rng(0).integers(0, 5000, int(sys.argv[2])).astype(np.int32)
score_rows(student, [ids[:64]], [np.array([1, 64])], Work(4096), 100)
with peak_memory("cpu") as used:
    sums = score_rows(student, [ids], [np.array([len(ids) // 3, len(ids)])], Work(4096), 100)
print(json.dumps({"peak": used[0]} | {name: values.tolist()[0] for name, values in sums.items()}))
"""


@pytest.mark.parametrize("length", [MOST * 3 // 8, pytest.param(MOST, marks=pytest.mark.slow)])
def test_a_long_row_on_a_cpu(tmp_path, length):
    """Its memory is a fixed sum and what grows with the length alone, not with its square or with length times vocabulary."""
    config = Qwen3Config(
        vocab_size=5000, hidden_size=256, intermediate_size=1024, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        max_position_embeddings=MOST, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).eval()
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.3)
    model.save_pretrained(tmp_path)
    done = subprocess.run([sys.executable, "-c", SCORE_ONE, str(tmp_path), str(length)], capture_output=True, text=True, check=True)
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["peak"] < 2 * GIB * length / MOST

    # The full logits, through the model's own forward, a piece of the sequence at a time.
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 5000, length))
    first = length // 3
    rank_sum, surprisal_sum, entropy_sum = 0, 0.0, 0.0
    with torch.inference_mode():
        hidden = model.model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        for start in range(first, length, 8192):
            at = slice(start - 1, min(start + 8192, length) - 1)
            stats = token_stats(model.lm_head(hidden[at]), ids[at.start + 1 : at.stop + 1])
            rank_sum += int(stats.rank.clamp_max(100).sum())
            surprisal_sum += float(stats.surprisal.double().sum())
            entropy_sum += float(stats.entropy.double().sum())
    print(f"peak above weights {got['peak'] / GIB:.2f} GiB; rank sums {got['rank_sum']} and {rank_sum}")
    assert got["n_tokens"] == length - first
    assert got["rank_sum"] == pytest.approx(rank_sum, rel=1e-6)  # near ties
    assert got["surprisal_sum"] == pytest.approx(surprisal_sum, rel=1e-6)
    assert got["entropy_sum"] == pytest.approx(entropy_sum, rel=1e-6)


def test_what_batch_composition_changes_in_bfloat16():
    """bfloat16 keeps 8 bits: two ways of adding the same hidden state differ by up to 2^-8 of a logit's size, so a rank may move
    where other logits lie that near. The budget: sums of ranks within 2%, of surprisals within 0.5%, a row; no drift over rows."""
    student = Student(str(DEMO_STUDENT), "bfloat16", "cpu")
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 600, n).astype(np.int32) for n in rng.integers(40, 200, 60)]
    spans = [np.array([1, len(row)], np.int32) for row in ids]
    alone, together = (score_rows(student, ids, spans, Work(tokens), 100) for tokens in (1, 8192))
    moved = np.abs(together["rank_sum"] - alone["rank_sum"])
    print(f"bfloat16: rank sums that differ between batches of one and of many: {np.mean(moved > 0):.0%} of rows, "
          f"{moved.sum() / alone['rank_sum'].sum():.2e} of all ranks")  # fmt: skip
    assert (moved <= 0.02 * alone["rank_sum"]).all()
    np.testing.assert_allclose(together["surprisal_sum"], alone["surprisal_sum"], rtol=5e-3)
    assert together["rank_sum"].sum() == pytest.approx(alone["rank_sum"].sum(), rel=2e-3)
