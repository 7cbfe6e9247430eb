"""Many small files as one, in whole runs, on a local disk and on S3."""

import json
import os

import pyarrow.parquet as pq
import pytest

from ..conftest import DEMO_STUDENT
from .conftest import rsr_ray, score, stored

N = 80


def row(n: int, version: str = "a") -> str:
    return (
        json.dumps(
            {
                "id": f"{n}{version}",
                "prompt_id": f"p{n // 2}",
                "prompt": f"{n} and 2?",
                "response": f"It is {n + 2}, {version}.",
            }
        )
        + "\n"
    )


def test_small_files_are_scored_together_and_each_counts_for_itself(local_ray, here, tmp_path):
    corpus, store = tmp_path / "corpus", tmp_path / "store"
    for n in range(N):
        path = corpus / f"teacher=T{n % 2}" / f"{n:03}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row(n))
    first = score(corpus, store)
    assert first.n_scored == N
    assert {t["teacher"]: t["n_trajectories"] for t in first.teachers.to_pylist()} == {
        "T0": N / 2,
        "T1": N / 2,
    }
    rows = stored(store)
    assert {r["source"].rpartition("/")[2]: r["source_row"] for r in rows} == {
        f"{n:03}.jsonl": 0 for n in range(N)
    }
    assert len(list((store / "scores").rglob("*.parquet"))) == 1
    path = corpus / "teacher=T1" / "007.jsonl"
    path.write_text(row(7, "b"))
    os.utime(path, (2e9, 2e9))
    (corpus / "teacher=T1" / "999.jsonl").write_text(row(999))
    second = score(corpus, store)
    assert second.n_read == N + 1
    assert {
        t["teacher"]: (t["n_trajectories"], t["n_duplicates"]) for t in second.teachers.to_pylist()
    } == {"T0": (N // 2, 0), "T1": (N // 2 + 1, 0)}
    ids = {r["trajectory_id"] for r in stored(store)}
    assert "7b" in ids
    assert "7a" not in ids
    third = score(corpus, store)
    assert (third.n_scored, third.n_already) == (0, N + 1)
    assert rsr_ray("check", "--store", store).returncode == 0
    done = rsr_ray("choose", "--store", store, "--student", "student", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    chosen = [
        r for path in (tmp_path / "out").glob("*.parquet") for r in pq.read_table(path).to_pylist()
    ]
    assert len(chosen) == N // 2 + 1
    assert all(r["messages"][1]["content"].startswith("It is") for r in chosen)
    race = rsr_ray(
        "race",
        "--corpus",
        corpus,
        "--student",
        DEMO_STUDENT,
        "--store",
        store,
        "--json",
    )
    assert race.returncode == 0, race.stderr
    assert json.loads(race.stdout)["rounds"][-1]["cost_share"] == 0  # all was scored already


CEPH = pytest.param("ceph", marks=[pytest.mark.ceph, pytest.mark.slow])  # see test_s3.py


@pytest.mark.parametrize("s3", ["moto", CEPH], indirect=True, scope="module")
def test_the_same_on_s3(local_ray, s3):
    fs, endpoint = s3
    for n in range(N):
        with fs.open_output_stream(
            f"rsr/corpus/teacher=T{n % 2}/{n:03}.jsonl", compression=None
        ) as stream:
            stream.write(row(n).encode())
    first = score("s3://rsr/corpus", "s3://rsr/store", s3_endpoint=endpoint)
    assert first.n_scored == N
    with fs.open_output_stream("rsr/corpus/teacher=T1/007.jsonl", compression=None) as stream:
        stream.write(row(7, "b").encode())
    second = score("s3://rsr/corpus", "s3://rsr/store", s3_endpoint=endpoint)
    assert second.n_read == N
    assert {
        t["teacher"]: (t["n_trajectories"], t["n_duplicates"]) for t in second.teachers.to_pylist()
    } == {"T0": (N // 2, 0), "T1": (N // 2, 0)}
    third = score("s3://rsr/corpus", "s3://rsr/store", s3_endpoint=endpoint)
    assert (third.n_scored, third.n_already) == (0, N)
