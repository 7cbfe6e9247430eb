"""Stores whose units went into parts: killed while they do, read meanwhile, and used in whole runs.

Compactions run in processes of their own, on a local disk and on real S3 servers.
"""

import contextlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rsr_ray.files.objects import list_files
from rsr_ray.store import compaction
from rsr_ray.store.compaction import compact_once
from rsr_ray.store.store import Store

from ..conftest import REPOSITORY
from ..test_compaction import whole
from ..test_score_files import FINGERPRINT, write
from .conftest import kill, on_moto, rsr_ray, score
from .test_nights import write_shard

COMPACTS = f"""
import sys
from rsr_ray.store import compaction
from rsr_ray.store.store import Store
compaction.FEWEST_UNITS, compaction.FEWEST_ROWS, compaction.PART_ROWS = 3, 300, 400
store = Store(sys.argv[1], "demo", sys.argv[2] or None)
print("begins", flush=True)
getattr(compaction, sys.argv[3])(store, "{FINGERPRINT}")
print("ended", flush=True)
"""
KEYS = [16 * digit for digit in "0123456789ab"]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(compaction, "FEWEST_UNITS", 3)
    monkeypatch.setattr(compaction, "FEWEST_ROWS", 30)
    monkeypatch.setattr(compaction, "PART_ROWS", 40)


@pytest.fixture(params=["local", "s3"])
def empty(request, tmp_path):
    """A store of its own, on a disk or on a server."""
    if request.param == "local":
        return Store(str(tmp_path / "store"), "demo", None)
    endpoint = request.getfixturevalue("s3")[1]
    return Store(f"s3://rsr/{tmp_path.name}", "demo", endpoint)


def fill(store: Store, keys: list[str]) -> None:
    """The same units again, ten of each key, of 20 rows."""
    for key in keys:
        for start in range(0, 200, 20):
            write(store, start, start + 20, key)


@contextlib.contextmanager
def compacting(store: Store, how: str = "compact_once"):
    """A process that has begun to compact a store."""
    run = subprocess.Popen(
        [sys.executable, "-c", COMPACTS, store.uri, store.endpoint or "", how],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    try:
        assert run.stdout.readline() == "begins\n"
        yield run
    finally:
        run.kill()
        run.communicate()


def is_tidy(store: Store) -> bool:
    """Whether nothing is there that is not read, but for writes that were cut off on a disk."""
    found = [n for n in list_files(store.scores_uri, store.endpoint) if not n.endswith(".part")]
    files = {f"scores/student=demo/{name}" for name in found}
    read = {file.place for file in store.score_files(FINGERPRINT)}
    return len(files - read) == 1  # the manifest


def killed_at_random_times(store: Store, times: int, keys: list[str] = KEYS) -> None:
    """Compactions that are killed so many times, and read meanwhile; units go into parts, some
    again, so that parts are rewritten.
    """
    fill(store, keys)
    rows = whole(store)
    with compacting(store) as run:
        begun = time.monotonic()
        run.wait()
        lasts = time.monotonic() - begun
    assert whole(store) == rows
    n_read = killed = ended = 0
    while killed < times:
        fill(store, random.sample(keys, len(keys) // 2))
        with compacting(store) as run:
            until = time.monotonic() + random.uniform(0, 0.7 * lasts)
            while time.monotonic() < until:
                if (killed + ended) % 2:
                    assert whole(store) == rows
                    n_read += 1
                else:
                    time.sleep(0.002)
            is_over = run.poll() is not None
            kill(run.pid)
        killed, ended = killed + (not is_over), ended + is_over
        assert ended <= 20 + 2 * times
        assert whole(store) == rows
    fill(store, KEYS[:1])
    with compacting(store) as run:
        assert run.wait() == 0
    assert whole(store) == rows
    assert is_tidy(store)
    print(f"{killed} killed within {lasts:.2f} s, {ended} had ended; read beside {n_read} times")


@pytest.mark.parametrize("empty", ["local"], indirect=True)
def test_a_killed_compaction_on_a_disk(empty):
    killed_at_random_times(empty, 3, KEYS[:4])


@pytest.mark.parametrize("s3", ["moto"], indirect=True, scope="module")
@pytest.mark.parametrize("empty", ["s3"], indirect=True)
def test_a_killed_compaction_on_s3(s3, empty):
    killed_at_random_times(empty, 2, KEYS[:4])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_compaction_killed_at_twenty_random_times_on_a_disk(tmp_path):
    killed_at_random_times(Store(str(tmp_path), "demo", None), 20)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("empty", ["s3"], indirect=True)
def test_a_compaction_killed_at_twenty_random_times_on_s3(s3, empty):
    killed_at_random_times(empty, 20)


@on_moto
@pytest.mark.parametrize("empty", ["s3"], indirect=True)
def test_two_compactions_at_once_in_processes(s3, empty):
    """The one waits for the other, or comes first: either way the store is whole."""
    fill(empty, KEYS[:3])
    rows = whole(empty)
    for how in ("compact", "compact_once"):
        fill(empty, KEYS[:3])
        with compacting(empty, how) as one, compacting(empty, how) as other:
            while one.poll() is None or other.poll() is None:
                assert whole(empty) == rows
            assert (one.wait(), other.wait()) == (0, 0)
        assert whole(empty) == rows
    compact_once(empty, FINGERPRINT)
    assert is_tidy(empty)


# --- whole runs -----------------------------------------------------------------------------------

SETTINGS = {"unit_rows": 4, "max_rejects": 1.0}


def rows_of(folder: Path) -> list[dict]:
    store = Store(str(folder), "student", None)
    (fingerprint,) = store.units()
    tables = [store.read_unit(fingerprint, name).to_pylist() for name in store.units()[fingerprint]]
    return sorted((row for table in tables for row in table), key=str)


def is_compacted(folder: Path) -> bool:
    store = Store(str(folder), "student", None)
    (fingerprint,) = store.units()
    laid = store.laid(fingerprint)
    return bool(laid.in_part)


@pytest.fixture
def both(tmp_path, here):
    """A corpus, and two stores of it: what is done is done to both, and one is compacted."""
    corpus = tmp_path / "corpus"
    for teacher in "AB":
        write_shard(corpus / f"{teacher}.jsonl", teacher, range(12), "terse-7b")
    with (corpus / "B.jsonl").open("a") as shard:
        shard.write(json.dumps({"id": "bad", "teacher": "B", "messages": []}) + "\n")

    def do(what):
        """What comes of both; the rows and the teachers are the same."""
        plain = what(tmp_path / "plain")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compaction, "FEWEST_UNITS", 2)
            patch.setattr(compaction, "PART_ROWS", 10)
            compacted = what(tmp_path / "compacted")
        assert rows_of(tmp_path / "plain") == rows_of(tmp_path / "compacted")
        assert is_compacted(tmp_path / "compacted")
        assert not is_compacted(tmp_path / "plain")
        one, other = (Store(str(tmp_path / n), "student", None) for n in ("plain", "compacted"))
        assert one.read_teachers() == other.read_teachers()
        assert one.made_of().units.keys() == other.made_of().units.keys()
        return plain, compacted

    return corpus, do


def test_runs_on_a_store_with_parts_are_as_on_any(both, tmp_path, local_ray):
    corpus, do = both

    def run(**more):
        done = do(lambda store: score(corpus, store, **SETTINGS, **more))
        store = Store(str(tmp_path / "compacted"), "student", None)
        assert all(part.is_whole for part in store.laid(store.generation()).manifest.parts)
        return done

    first = run()
    assert {r.n_scored for r in first} == {24}
    table = (tmp_path / "compacted" / "teachers" / "student=student.parquet").stat().st_mtime_ns
    assert {(r.n_scored, r.n_already) for r in run()} == {(0, 25)}
    again = (tmp_path / "compacted" / "teachers" / "student=student.parquet").stat().st_mtime_ns
    assert again == table  # nothing was read for it
    write_shard(corpus / "C.jsonl", "C", range(9), "formal-72b")
    assert {(r.n_scored, r.n_already) for r in run()} == {(9, 25)}
    write_shard(corpus / "A.jsonl", "A", range(3, 13), "formal-72b")  # in place of the other
    assert {(r.n_scored, r.n_already) for r in run()} == {(10, 22)}
    retried = do(
        lambda store: rsr_ray("rejects", "--store", store, "--student", "student", "--retry").stdout
    )
    assert {*retried} == {
        "Deleted 1 work unit with 1 rejected row; the next run scores them again\n"
    }
    after = run()
    assert {(r.rejected.total(), r.n_already) for r in after} == {(1, 31)}
    added = run(per_turn=True, token_scores=True)
    assert {r.counts.added.trajectories for r in added} == {31}
    assert {r.counts.n_units for r in run(per_turn=True, token_scores=True)} == {0}
    checked = do(lambda store: json.loads(rsr_ray("check", "--store", store, "--json").stdout))
    assert all(found["well"] and not found["findings"] for found in checked)
    units = do(lambda store: json.loads(rsr_ray("status", "--store", store, "--json").stdout))
    assert len({found["students"][0]["generations"][0]["units"] for found in units}) == 1
    rescored = do(
        lambda store: rsr_ray("rescore", "--store", store, "--student", "student", "--json").stdout
    )
    assert [json.loads(told)["difference"] for told in rescored] == [0.0, 0.0]
