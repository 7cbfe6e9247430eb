"""Small runs without Ray: the same scores, and what may befall one."""

import json
import os
import subprocess
import sys
from pathlib import Path

from rsr_ray.config.score import ScoreConfig
from rsr_ray.run.cluster import Cluster
from rsr_ray.run.here import fits_here

from ..conftest import DEMO_STUDENT
from .conftest import REPOSITORY, in_a_process, score, stored, wait_for
from .poison.sitecustomize import POISON
from .test_bad_data import ENDLESS, TEMPLATE, turns
from .test_nights import write_shard


def command(corpus, store, *more) -> list[str]:
    options = ["--corpus", corpus, "--student", DEMO_STUDENT, "--store", store, *more]
    return ["score", *map(str, options)]


def last_record(store: Path) -> dict:
    return json.loads(max((store / "runs").glob("*.json")).read_text())


def test_a_small_run_gives_the_scores_that_ray_gives_and_starts_none(local_ray, tmp_path):
    for teacher in "AB":
        write_shard(tmp_path / "corpus" / f"{teacher}.jsonl", teacher, range(30), "terse-7b")
    ray = tmp_path / "ray"
    ray.mkdir()
    options = command(tmp_path / "corpus", tmp_path / "here", "--unit-rows", 8, "--per-turn")
    done = in_a_process(*options, RAY_TMPDIR=str(ray), RAY_ADDRESS="")
    assert done.returncode == 0, done.stderr
    assert not [*ray.iterdir()]
    run = score(tmp_path / "corpus", tmp_path / "on_ray", unit_rows=8, per_turn=True)
    assert stored(tmp_path / "here") == stored(tmp_path / "on_ray")
    here, on_ray = last_record(tmp_path / "here"), run.record.to_json()
    same = ("fingerprint", "equation", "scored_tokens", "prompt_tokens", "resources")
    assert {name: here[name] for name in same} == {name: on_ray[name] for name in same}


def test_what_is_scored_without_ray(local_ray, monkeypatch):
    """Small local runs of which nothing was said that only Ray can do."""

    def fits(address="local", uri="/corpus/a.jsonl", n_bytes=10_000, **settings) -> bool:
        config = ScoreConfig(corpus=("c",), student=str(DEMO_STUDENT), store="/s", **settings)
        return fits_here(config, Cluster(address), [uri], n_bytes)

    assert not fits()  # this process is connected to a Ray
    monkeypatch.setattr("rsr_ray.run.cluster.on_ray", lambda: False)
    assert fits()
    assert not fits(n_bytes=10**9)
    assert not fits(uri="s3://bucket/a.jsonl")
    assert not fits(replicas=1)
    assert not fits(gpus_per_replica=1)
    assert not fits("10.0.0.1:6379")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert not fits(None)


def test_from_a_script_of_five_lines(tmp_path):
    """No guard for processes that would import it again: a notebook and a first try have none."""
    write_shard(tmp_path / "corpus" / "A.jsonl", "A", range(3), "terse-7b")
    corpus, store = str(tmp_path / "corpus"), str(tmp_path / "store")
    (tmp_path / "script.py").write_text(
        "import rsr_ray\n"
        f"config = rsr_ray.ScoreConfig(corpus={corpus!r}, student={str(DEMO_STUDENT)!r}, "
        f"store={store!r})\n"
        "print(rsr_ray.score_corpus(config).equation)\n"
    )
    script = [sys.executable, tmp_path / "script.py"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "RAY_ADDRESS": ""}
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "read 3 = scored 3 + rejected 0 + already scored 0\n", done.stderr


def test_a_row_that_ends_the_process_that_encodes_it_is_one_reject(tmp_path):
    rows = [("good-0", "2+2?"), ("crash", POISON), ("good-1", "3+3?"), ("endless", ENDLESS)]
    folder = tmp_path / "teacher=t"
    folder.mkdir()
    lines = [json.dumps({"id": name, "messages": turns(question)}) for name, question in rows]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    more = ("--chat-template", tmp_path / "template.jinja", "--max-rejects", 1)
    path = f"{Path(__file__).parent / 'poison'}:{REPOSITORY}"
    done = in_a_process(
        *command(folder, tmp_path / "store", *more), PYTHONPATH=path, RAY_ADDRESS=""
    )
    assert done.returncode == 0, done.stderr
    found = {row["trajectory_id"]: row["reject_reason"] for row in stored(tmp_path / "store")}
    assert found == {
        "good-0": None,
        "crash": "tokenizer_error",
        "good-1": None,
        "endless": "template_error",
    }
    assert "Traceback" not in done.stderr


def test_one_that_is_ended_keeps_its_units_and_goes_on(tmp_path):
    for teacher in "AB":
        write_shard(tmp_path / "corpus" / f"{teacher}.jsonl", teacher, range(400), "terse-7b")
    options = command(tmp_path / "corpus", tmp_path / "store", "--unit-rows", 4)
    running = subprocess.Popen(
        [sys.executable, "-m", "rsr_ray", *options],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    scores = tmp_path / "store" / "scores"
    wait_for(lambda: running.poll() is not None or len([*scores.rglob("*.parquet")]) > 2)
    running.terminate()
    _, said = running.communicate(timeout=60)
    assert running.returncode == 143
    assert said.splitlines()[-1].startswith("rsr-ray: terminated; finished units are kept")
    assert "Traceback" not in said
    kept = len([*scores.rglob("*.parquet")])
    assert in_a_process(*options).returncode == 0
    equation = last_record(tmp_path / "store")["equation"]
    assert equation["holds"]
    assert equation["already_scored"] == 4 * kept
    assert len(stored(tmp_path / "store")) == equation["read"] == 800
