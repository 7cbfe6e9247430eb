"""Small files scored together: whatever happens to them, each row of the corpus as it is counts
once.
"""

import json
import os
import random

import pyarrow as pa
import pytest

import rsr_ray.store.packs
from rsr_ray.config.score import ScoreConfig
from rsr_ray.corpus.shards import list_corpus
from rsr_ray.corpus.units import read_units
from rsr_ray.run.counts import WrittenUnit
from rsr_ray.run.ledger import Run
from rsr_ray.schema import SCORES
from rsr_ray.store.beside import Generation
from rsr_ray.store.packs import FILES, Pack, pack_up
from rsr_ray.store.store import Store

from .conftest import few

FINGERPRINT = "f" * 16


class Corpus:
    """Small files that come, go and are replaced; each content is written once only."""

    def __init__(self, folder, rng):
        self.folder, self.rng, self.files, self.n = folder, rng, {}, 0
        self.ever = {}  # all rows that a file ever had
        folder.mkdir()

    def write(self, name: str) -> None:
        rows = []
        for _ in range(self.rng.randint(1, 3)):
            self.n += 1
            rows.append({"id": f"r{self.n}", "prompt": f"{self.n}?", "response": "Yes."})
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.utime(self.folder / name, ns=(self.n * 10**9, self.n * 10**9))
        self.files[name] = [row["id"] for row in rows]
        self.ever.setdefault(name, set()).update(self.files[name])

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()
        del self.files[name]

    @property
    def rows(self) -> list[str]:
        return sorted(row for rows in self.files.values() for row in rows)


def run_on(
    corpus: Corpus, store: Store, *, stop_after: int | None = None, unit_rows: int = 16
) -> Run:
    """A run without a student: what it reads is written as if it were scored.

    May be killed after some units.
    """
    run = Run(
        ScoreConfig(
            corpus=(str(corpus.folder),),
            student="s",
            store=store.uri,
            log="json",
            unit_rows=unit_rows,
        )
    )
    run.generation = Generation(fingerprint=FINGERPRINT, same=frozenset([FINGERPRINT]))
    files = list_corpus((str(corpus.folder),), None)
    objects = run.units.find(store, run.generation, files)
    todo = run.plan(objects)
    for n, unit in enumerate(read_units(todo, None, unit_rows, run.config.reading)):
        if n == stop_after:
            return run
        (rows,) = unit["rows"].to_pylist()
        scores = [
            {name: row.get(name) for name in SCORES.names} | {"fingerprint": FINGERPRINT}
            for row in rows
        ]
        column = pa.array([scores], pa.list_(pa.struct(list(SCORES))))
        written = store.write_unit(
            unit.set_column(unit.schema.get_field_index("rows"), "rows", column), FINGERPRINT
        )
        work = {"seconds": 0, "splits": 0, "padded": 0, "positions": 0, "added": ""}
        (told,) = written.drop_columns(["again"]).to_pylist()
        run.count(WrittenUnit.of(told | work))
    run.check_equation()
    run.units.tidy(store, FINGERPRINT, objects, list_corpus((str(corpus.folder),), None))
    return run


def counted(store: Store) -> list[str]:
    names = list(store.counted(FINGERPRINT))
    return sorted(
        row
        for name in names
        for row in store.read_unit(FINGERPRINT, name, ["trajectory_id"])[
            "trajectory_id"
        ].to_pylist()
    )


@pytest.fixture
def of_few(monkeypatch):
    """Packs of at most five files, from three on."""
    monkeypatch.setattr(rsr_ray.store.packs, "FEWEST", 3)
    monkeypatch.setattr(rsr_ray.store.packs, "FILES", 5)


@pytest.mark.parametrize("seed", range(few(20, 4)))
@pytest.mark.usefixtures("of_few")
def test_each_row_of_the_corpus_counts_once_whatever_happens(tmp_path, seed):
    rng = random.Random(seed)
    corpus, store = Corpus(tmp_path / "teacher=T", rng), Store(str(tmp_path / "store"), "s", None)
    for n in range(rng.randint(3, 14)):
        corpus.write(f"{n:03}.jsonl")
    gone: set[str] = set()
    for step in range(8):
        run = run_on(corpus, store, stop_after=rng.choice([None, None, 0, 1, 2]))
        for _ in range(2):
            run = run_on(corpus, store)
        assert run.n_read >= len(corpus.rows)
        assert (run.n_read == len(corpus.rows)) == (not run.units.n_files_gone)
        assert run.n_scored + run.rejected.total() == 0
        found = counted(store)
        assert [row for row in found if row not in gone] == corpus.rows
        assert len(set(found)) == len(found)
        for _ in range(rng.randint(0, 3)):
            names = sorted(corpus.files)
            what = rng.choice(["add", "add", "replace", "remove", "lose a unit"])
            if what == "add":
                corpus.write(f"{100 * (step + 1) + corpus.n:05}.jsonl")
            elif what == "replace":
                corpus.write(rng.choice(names))
            elif what == "remove" and len(names) > 1:
                name = rng.choice(names)
                gone |= corpus.ever[name]
                corpus.remove(name)
            elif what == "lose a unit" and (units := sorted(store.counted(FINGERPRINT))):
                store.drop(FINGERPRINT, [rng.choice(units)])


@pytest.mark.usefixtures("of_few")
def test_a_file_that_is_replaced_takes_only_its_pack_along(tmp_path):
    corpus, store = (
        Corpus(tmp_path / "teacher=T", random.Random(0)),
        Store(str(tmp_path / "store"), "s", None),
    )
    for n in range(20):
        corpus.write(f"{n:03}.jsonl")
    first = run_on(corpus, store)
    assert (
        sum(
            isinstance(obj, Pack)
            for obj in pack_up(
                list_corpus((str(corpus.folder),), None), store, store.units()[FINGERPRINT]
            )[0]
        )
        == 4
    )
    corpus.write("007.jsonl")
    second = run_on(corpus, store)
    pack = [name for name in corpus.files if "005" <= name[:3] <= "009"]
    assert second.n_scored + second.rejected.total() == sum(
        len(corpus.files[name]) for name in pack
    )
    assert first.n_read
    assert counted(store) == corpus.rows


def test_few_small_files_and_large_ones_are_objects_of_their_own(tmp_path):
    corpus, store = (
        Corpus(tmp_path / "teacher=T", random.Random(0)),
        Store(str(tmp_path / "store"), "s", None),
    )
    for n in range(rsr_ray.store.packs.FEWEST - 1):
        corpus.write(f"{n:03}.jsonl")
    files = list_corpus((str(corpus.folder),), None)
    assert pack_up(files, store, []) == (files, [])
    corpus.write("999.jsonl")
    files = list_corpus((str(corpus.folder),), None)
    (pack,), _ = pack_up(files, store, [])
    assert isinstance(pack, Pack)
    assert len(pack.members) == len(files) <= FILES
    large = files[3]
    large = type(large)(uri=large.uri, version=large.version, size=10**6)
    assert pack_up([*files[:3], large, *files[4:]], store, [])[0] == [*files[:3], large, *files[4:]]
