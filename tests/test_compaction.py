import contextlib
import datetime
import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from rsr_ray.errors import StoreError
from rsr_ray.files.objects import list_files
from rsr_ray.run.check import check_store
from rsr_ray.schema import SCORES
from rsr_ray.store import compaction, manifest, parts
from rsr_ray.store.compaction import compact, compact_once, find_work
from rsr_ray.store.lease import HELD, Claim
from rsr_ray.store.status import read_status
from rsr_ray.store.store import Store

from .test_score_files import FINGERPRINT, digest, write

KEYS = ["0" * 16, "1" * 16, "a" * 16]
MARK = '{"per_turn": false, "segments": null}'


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Three units are worth it, and forty rows a part."""
    monkeypatch.setattr(compaction, "FEWEST_UNITS", 3)
    monkeypatch.setattr(compaction, "FEWEST_ROWS", 30)
    monkeypatch.setattr(compaction, "PART_ROWS", 40)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path), "demo", None)


def fill(store: Store, keys=KEYS) -> None:
    for key in keys:
        for start in range(0, 40, 10):
            write(store, start, start + 10, key)
        write(store, 40, 40, key)


def whole(store: Store) -> list[dict]:
    """All rows that count, with their units, in one order."""
    tables = [
        store.read_score_file(FINGERPRINT, file, [*SCORES.names, "unit", "row_hash", "prompt_hash"])
        for file in store.score_files(FINGERPRINT)
    ]
    rows = [row for table in tables for row in table.to_pylist()]
    return sorted(rows, key=lambda row: (row["source"], row["source_row"]))


def left(store: Store) -> tuple[int, int, int]:
    """How many files of units, parts and manifests there are."""
    files = list_files(store.scores_uri, None)
    parts = [name for name in files if "/parts/" in name and name.endswith(".parquet")]
    manifests = [name for name in files if name.endswith(".json")]
    return len(files) - len(parts) - len(manifests), len(parts), len(manifests)


def test_rows_and_units_are_the_same_in_parts(store):
    fill(store)
    rows, units = whole(store), store.listing().units
    each = {name: store.read_unit(FINGERPRINT, name) for name in units[FINGERPRINT]}
    assert len(rows) == 120
    assert compact_once(store, FINGERPRINT)
    assert whole(store) == rows
    assert store.listing().units == units  # with their versions
    assert {n: store.read_unit(FINGERPRINT, n) for n in units[FINGERPRINT]} == each
    names = pa.table({"name": sorted(each)})
    together = store.read_units(names, FINGERPRINT, SCORES.names)
    assert together.sort_by([("source", "ascending"), ("source_row", "ascending")]).to_pylist() == [
        {name: row[name] for name in SCORES.names} for row in rows
    ]
    assert left(store) == (0, 3, 1)
    assert not find_work(store.laid(FINGERPRINT))


def test_a_part_is_sorted_by_the_hash_of_the_prompt_and_read_in_places(store):
    fill(store)
    compact_once(store, FINGERPRINT)
    files = store.score_files(FINGERPRINT)
    assert all(file.is_part for file in files)
    for file in files:
        hashes = store.read_score_file(FINGERPRINT, file, ["prompt_hash"])["prompt_hash"]
        assert hashes.to_pylist() == sorted(hashes.to_pylist())
    middle = digest("p2")
    for bounds in ((middle, middle + 1), (-(2**63), middle), (middle, 2**63)):
        found = [
            row
            for file in files
            for row in store.read_score_file(FINGERPRINT, file, ["prompt_id"], bounds).to_pylist()
        ]
        assert sorted(row["prompt_id"] for row in found) == sorted(
            row["prompt_id"]
            for row in whole(store)
            if bounds[0] <= digest(row["prompt_id"]) < bounds[1]
        )


def test_other_tools_read_parts_and_units_at_once(store):
    fill(store, KEYS[:2])
    compact_once(store, FINGERPRINT)
    write(store, 0, 5, KEYS[2])
    query = "select count(*), count(distinct teacher), sum(n_tokens) from "
    (rows,) = duckdb.sql(f"{query} '{store.uri}/scores/student=*/**/*.parquet'").fetchall()
    there = whole(store)
    assert rows == (85, 3, sum(row["n_tokens"] for row in there))


def test_a_small_store_stays_as_it_is(store):
    write(store, 0, 5)
    write(store, 5, 9)
    compact(store, FINGERPRINT)
    assert left(store) == (2, 0, 0)


def test_units_with_something_else_beside_their_scores_are_in_another_part(store):
    fill(store, KEYS[:1])
    named = write(store, 0, 9, KEYS[1], mark=MARK)
    compact_once(store, FINGERPRINT)
    marks = {name: store.read_mark(FINGERPRINT, name) for name in store.units()[FINGERPRINT]}
    assert marks == {name: MARK if name == named else None for name in marks}
    assert left(store)[1] == 2


def test_a_later_one_takes_small_parts_in(store):
    fill(store, KEYS[:1])
    write(store, 0, 5, KEYS[1])
    compact_once(store, FINGERPRINT)
    assert left(store) == (0, 2, 1)
    rows = whole(store)
    for start in range(10, 40, 10):
        write(store, start, start + 10, KEYS[1])
    compact_once(store, FINGERPRINT)
    assert left(store) == (0, 2, 1)
    assert len(whole(store)) == len(rows) + 30


def test_the_last_run_at_work_compacts(store):
    fill(store)
    other = Claim(f"{store.uri}/claims/student=demo", 60, None)
    other.take(FINGERPRINT)
    HELD.discard(other)  # as if another process held it
    compact(store, FINGERPRINT)
    assert left(store) == (15, 0, 0)
    other.release()
    compact(store, FINGERPRINT)
    assert left(store) == (0, 3, 1)


class DiedError(BaseException):
    """As if the process had been killed."""


class Mortal:
    """Writes, creates and deletes until it dies."""

    def __init__(self, lives: int, monkeypatch):
        self.lives = lives
        self.lock = threading.Lock()
        for module, name in (
            (compaction, "put"), (compaction, "delete"), (manifest, "create"), (manifest, "delete"),
        ):  # fmt: skip
            monkeypatch.setattr(module, name, self.until_dead(getattr(module, name)))

    def until_dead(self, act):
        def acted(*given):
            with self.lock:
                self.lives -= 1
                if self.lives < 0:
                    raise DiedError
                return act(*given)

        return acted


def test_one_that_dies_anywhere_loses_nothing_and_doubles_nothing(tmp_path):
    """After each of its writes, deletions and the manifest; some parts are rewritten, some units
    replaced.
    """
    first = Store(str(tmp_path / "first"), "demo", None)
    fill(first, KEYS[:2])
    compact_once(first, FINGERPRINT)
    fill(first, KEYS[2:])
    write(first, 10, 20, KEYS[0], n_tokens=99)
    first.drop(FINGERPRINT, [name for name in first.units()[FINGERPRINT] if name[0] == "1"][:1])
    rows, units = whole(first), first.listing().units
    for lives in range(60):
        store = Store(str(tmp_path / str(lives)), "demo", None)
        shutil.copytree(first.uri, store.uri)
        with pytest.MonkeyPatch.context() as patch:
            mortal = Mortal(lives, patch)
            with contextlib.suppress(DiedError):
                compact_once(store, FINGERPRINT)
        assert whole(store) == rows, lives
        assert {*store.listing().units[FINGERPRINT]} == {*units[FINGERPRINT]}
        compact_once(store, FINGERPRINT)
        assert whole(store) == rows, lives
        assert left(store)[0] == 0
        assert left(store)[1] == len(store.score_files(FINGERPRINT))
        assert left(store)[2] == 1
        if mortal.lives >= 0:
            break
    assert lives > 12


def test_of_two_at_once_nothing_is_lost(store):
    for seed in range(3):
        fill(store, [f"{seed}{n}" * 8 for n in range(2)])
        rows = whole(store)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda _: compact_once(store, FINGERPRINT), range(3)))
        assert whole(store) == rows
        compact_once(store, FINGERPRINT)
        assert whole(store) == rows
        assert left(store) == (0, len(store.score_files(FINGERPRINT)), 1)


def test_a_reader_beside_compactions_always_sees_a_whole_store(store):
    fill(store)
    rows = whole(store)
    done = threading.Event()

    def change() -> None:
        """Units come, go into parts, and are replaced by the same again."""
        chosen = random.Random(1)
        for _ in range(25):
            key = chosen.choice(KEYS)
            start = chosen.randrange(0, 40, 10)
            write(store, start, start + 10, key)
            for start in range(0, 40, 10) if chosen.random() < 0.3 else ():
                write(store, start, start + 10, chosen.choice(KEYS))
            compact_once(store, FINGERPRINT)
        done.set()

    n = 0
    with ThreadPoolExecutor(1) as pool:
        changed = pool.submit(change)
        while not done.is_set() and not changed.done():
            assert whole(store) == rows
            n += 1
        changed.result()
    assert n > 5


def test_a_unit_that_is_dropped_is_gone_and_its_part_is_rewritten(store):
    fill(store)
    compact_once(store, FINGERPRINT)
    rows = whole(store)
    name = store.score_files(FINGERPRINT)[0].units[1]
    store.drop(FINGERPRINT, [name])
    assert name not in store.units()[FINGERPRINT]
    with pytest.raises(FileNotFoundError):
        store.read_unit(FINGERPRINT, name)
    kept = [row for row in rows if row["unit"] != name]
    assert len(kept) == len(rows) - 10
    assert whole(store) == kept
    before = {*list_files(store.scores_uri, None)}
    compact_once(store, FINGERPRINT)
    assert whole(store) == kept
    assert len({*list_files(store.scores_uri, None)} - before) == 2  # one part, and the manifest


def test_a_unit_that_is_dropped_while_it_is_compacted_does_not_come_back(store, monkeypatch):
    fill(store)
    (name, *_) = store.units()[FINGERPRINT]
    real = compaction.put

    def put(*given):
        store.drop(FINGERPRINT, [name])
        real(*given)

    monkeypatch.setattr(compaction, "put", put)
    compact_once(store, FINGERPRINT)
    assert name not in store.units()[FINGERPRINT]
    assert name not in {row["unit"] for row in whole(store)}


def test_a_unit_written_while_it_is_compacted_stays(store, monkeypatch):
    fill(store)
    real = compaction.put

    def put(*given):
        real(*given)
        write(store, 10, 20, n_tokens=99)

    monkeypatch.setattr(compaction, "put", put)
    compact_once(store, FINGERPRINT)
    changed = [row for row in whole(store) if row["n_tokens"] == 99]
    assert len(changed) == 10
    assert len(whole(store)) == 120


def test_a_manifest_that_others_have_passed_does_not_count(store):
    fill(store)
    folder = store.parts(FINGERPRINT)
    late = folder.read()[0]
    compact_once(store, FINGERPRINT)
    fill(store, ["b" * 16])
    compact_once(store, FINGERPRINT)
    rows, now = whole(store), folder.read()[0]
    assert now.number > late.number + 1
    assert not folder.put(late)
    assert whole(store) == rows
    assert folder.read()[0] == now
    assert len([name for name in folder.files() if name.endswith(".json")]) == 1


def test_a_unit_written_again_counts_before_its_part(store):
    fill(store)
    compact_once(store, FINGERPRINT)
    name = write(store, 10, 20, n_tokens=99)
    assert {row["n_tokens"] for row in whole(store) if row["unit"] == name} == {99}
    assert len(whole(store)) == 120
    compact_once(store, FINGERPRINT)
    assert len(whole(store)) == 120
    assert left(store)[0] == 1  # a unit is not worth it, but its old rows are gone
    parts = [p for p in store.laid(FINGERPRINT).manifest.parts if not p.is_whole]
    assert not parts


def test_a_broken_part_is_refused_and_its_units_are_found(store):
    fill(store)
    compact_once(store, FINGERPRINT)
    part = store.laid(FINGERPRINT).manifest.parts[0]
    turn_a_bit(store.parts(FINGERPRINT).uri(part.name))
    names = [*store.units()[FINGERPRINT]]
    broken = store.find_broken(FINGERPRINT, names, tokens=False)
    assert broken.keys() == {*part.units}
    with pytest.raises(StoreError, match="digest"):
        whole(store)
    store.drop(FINGERPRINT, list(broken))
    assert len(whole(store)) == 120 - part.n_rows


def test_no_bit_of_a_part_is_read_otherwise(store):
    """Any one that is turned over is found, or what is read is the same."""
    fill(store, KEYS[:1])
    compact_once(store, FINGERPRINT)
    rows = whole(store)
    (part,) = store.laid(FINGERPRINT).manifest.parts
    path = Path(store.parts(FINGERPRINT).uri(part.name))
    data = path.read_bytes()
    chosen = random.Random(3)
    refused = 0
    for _ in range(150):
        turned = bytearray(data)
        turned[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        path.write_bytes(turned)
        try:
            assert whole(store) == rows
        except StoreError:
            refused += 1
    assert refused > 20


def test_a_footer_that_was_turned_over_is_refused(store):
    """What it says of columns nobody else checks; it is read anew."""
    fill(store, KEYS[:1])
    compact_once(store, FINGERPRINT)
    (part, *_) = store.laid(FINGERPRINT).manifest.parts
    path = Path(store.parts(FINGERPRINT).uri(part.name))
    data = path.read_bytes()
    at = data.rindex(b"rsr_ray:place:")
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    parts._footers.clear()
    with pytest.raises(StoreError, match="digest"):
        whole(store)


def turn_a_bit(path: str) -> None:
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 3] ^= 1
    Path(path).write_bytes(data)


def test_check_finds_a_broken_part_and_removes_its_units(store):
    fill(store)
    compact_once(store, FINGERPRINT)
    assert check_store(store.uri, None).files == {"parts": 3, "manifest": 1}
    part = store.laid(FINGERPRINT).manifest.parts[0]
    turn_a_bit(store.parts(FINGERPRINT).uri(part.name))
    checked = check_store(store.uri, None, repair=True)
    assert [(f.kind, f.place.rpartition("/")[2]) for f in checked.findings] == [
        ("broken", part.name)
    ]
    assert checked.is_well
    assert check_store(store.uri, None).findings == []
    assert not {*store.units()[FINGERPRINT]} & {*part.units}
    assert len(whole(store)) == 120 - part.n_rows


def test_check_makes_a_broken_manifest_again_from_the_parts(store):
    fill(store)
    compact_once(store, FINGERPRINT)
    write(store, 10, 20, n_tokens=99)
    fill(store, ["b" * 16])
    compact_once(store, FINGERPRINT)
    rows, units, laid = whole(store), store.units(), store.laid(FINGERPRINT)
    turn_a_bit(store.parts(FINGERPRINT).uri(f"{laid.manifest.number:012d}.json"))
    with pytest.raises(StoreError, match="--repair"):
        store.units()
    assert check_store(store.uri, None, repair=True).is_well
    assert (whole(store), store.units()) == (rows, units)
    assert store.laid(FINGERPRINT).manifest.part_of.keys() == laid.manifest.part_of.keys()


def test_a_part_that_is_gone_is_not_in_the_store(store):
    fill(store)
    compact_once(store, FINGERPRINT)
    part = store.laid(FINGERPRINT).manifest.parts[0]
    Path(store.parts(FINGERPRINT).uri(part.name)).unlink()
    assert not {*store.units()[FINGERPRINT]} & {*part.units}
    assert len(whole(store)) == 120 - part.n_rows
    compact_once(store, FINGERPRINT)
    assert part.name not in {p.name for p in store.laid(FINGERPRINT).manifest.parts}


def test_a_copied_store_is_the_same_but_for_the_times_of_its_files(store, tmp_path):
    fill(store)
    rows = whole(store)
    compact_once(store, FINGERPRINT)
    before = store.listing().units[FINGERPRINT]
    shutil.copytree(store.uri, tmp_path / "other" / "copy", copy_function=shutil.copy)
    copied = Store(str(tmp_path / "other" / "copy"), "demo", None)
    assert whole(copied) == rows
    after = copied.listing().units[FINGERPRINT]
    assert after.keys() == before.keys()
    assert not {*after.items()} & {*before.items()}  # so that they are looked at again


def test_rejects_status_and_nights_know_units_in_parts(store):
    fill(store)
    unit, rejected = next(iter(sorted(store.find_rejects(None).items())))
    counted, known = store.count_rejects(FINGERPRINT), store.find_rejects(None)
    (before,) = read_status(store.uri, None).students[0].generations
    now = datetime.datetime.now(datetime.UTC)
    until = store.units_until(FINGERPRINT, now)
    compact_once(store, FINGERPRINT)
    write(store, 100, 104)
    found = store.find_rejects(None)
    assert {at: sorted(map(str, rows)) for at, rows in found.items()} == {
        at: sorted(map(str, rows)) for at, rows in known.items()
    }
    assert store.count_rejects(FINGERPRINT)["not_text"].n == counted["not_text"].n
    (after,) = read_status(store.uri, None).students[0].generations
    assert after.units == before.units + 1
    assert after.bytes < before.bytes
    assert after.written >= before.written
    assert store.units_until(FINGERPRINT, now) == until
    store.drop(FINGERPRINT, [unit[1]])
    assert store.find_rejects(None).keys() == known.keys() - {unit}
    assert rejected
