"""Summaries that are kept: what a night makes of the last one's and of what is new is what all rows
come to.
"""

import contextlib
import dataclasses
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rsr_ray.decide import buckets, kept, loading
from rsr_ray.decide.ends import Ends
from rsr_ray.decide.kept import count_rejects
from rsr_ray.decide.loading import load_ends, load_scored
from rsr_ray.decide.ranking import rank_teachers
from rsr_ray.metrics import RSR
from rsr_ray.run import medians, reduce, summary
from rsr_ray.run.check import check_store
from rsr_ray.run.medians import Middle
from rsr_ray.run.pipeline import make_teachers
from rsr_ray.run.reduce import reduce_scores
from rsr_ray.store import compaction, parts
from rsr_ray.store.compaction import compact_once
from rsr_ray.store.store import Store

from .big_store import FINGERPRINT, shard_rows, write_units
from .conftest import few

SHARD = 2_000


@pytest.fixture
def small(monkeypatch):
    """What is very many is few."""
    for module, name, value in (
        (loading, "MOST_ROWS", 3_000),
        (reduce, "MOST_ROWS", 3_000),
        (reduce, "HERE_ROWS", 500), (buckets, "BUCKET_ROWS", 1_500), (buckets, "FLUSHED_ROWS", 500),
        (medians, "KEPT_LEAST", 50), (summary, "MOST_NEW", 0.7), (compaction, "PART_ROWS", 3_000),
        (compaction, "FEWEST_UNITS", 3), (compaction, "FEWEST_ROWS", 300),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


class Corpus:
    """Shards of teachers, which come, go and are replaced."""

    def __init__(self, store: Store, seed: int):
        self.store, self.chosen = store, random.Random(seed)
        self.n_repeats = 0
        self.shards: dict[str, int] = {}
        self.last: dict[str, object] = {}

    def add(self, t: int, rows: int = SHARD, unit_rows: int = 300) -> None:
        """The next shard of a teacher; its last rows repeat some of the one before."""
        teacher = f"t{t:02d}"
        shard = self.shards.get(teacher, 0)
        self.shards[teacher] = shard + 1
        before = self.last.get(teacher)
        start = shard * SHARD
        some, _ = shard_rows(t, start, start + rows, shard, before, fewest=100)
        self.last[teacher] = some
        write_units(self.store, some, unit_rows)

    def repeat(self) -> None:
        """Write some rows of a unit again, as answers to other prompts, from another shard: one
        that comes before all others, or after them.
        """
        rows = self.store.read_unit(FINGERPRINT, self.chosen.choice(self.names())).slice(0, 40)
        rows = rows.filter(pc.is_valid(rows["teacher"]))
        self.n_repeats += 1
        source = f"/corpus/{self.chosen.choice('az')}/{self.n_repeats}.parquet"
        prompts = np.roll(rows["prompt_id"].to_numpy(zero_copy_only=False), 7)
        other = {"source": pa.repeat(source, len(rows)), "prompt_id": pa.array(prompts)}
        other |= {"source_row": pa.array(range(len(rows)))}
        for name, column in other.items():
            at = rows.schema.get_field_index(name)
            rows = rows.set_column(at, rows.schema.field(at), column)
        write_units(self.store, rows, 300)

    def names(self) -> list[str]:
        return list(self.store.counted(FINGERPRINT))

    def drop(self) -> None:
        self.store.drop(FINGERPRINT, [self.chosen.choice(self.names())])

    def replace(self) -> None:
        """Write a unit again with other scores."""
        name = self.chosen.choice(self.names())
        rows = self.store.read_unit(FINGERPRINT, name)
        at = rows.schema.get_field_index("rank_sum")
        more = rows["rank_sum"].to_numpy() * 2.0
        field = rows.schema.field("rank_sum")
        own = pa.array(more, mask=np.isnan(more)).cast(field.type)
        self.store.write_scores(FINGERPRINT, name, rows.set_column(at, field, own))


def night(store: Store) -> dict:
    """All that a night says of a store."""
    (store_units,) = [store.counted(FINGERPRINT)]
    table = make_teachers(store, FINGERPRINT)
    assert store_units == store.made_of().units
    scored = load_scored(store, [RSR])
    values = RSR.values(scored.columns, scored.prompt)
    ends, of_ends = load_ends(store, scored, values)
    return {
        "table": table.to_pylist(),
        "told": scored.told,
        "every": scored.whole.every,
        "lacking": scored.whole.lacking,
        "columns": scored.columns,
        "rows": scored.rows.to_pylist(),
        "prompts": scored.prompts.to_pylist(),
        "notes": scored.notes,
        "ends": ends.rows.to_pylist(),
        "of_ends": of_ends,
        "rejects": dict(count_rejects(store)),
    }


@contextlib.contextmanager
def without_summaries():
    with pytest.MonkeyPatch.context() as patch:
        for module in (kept, loading, summary):
            patch.setattr(module, "find_kept", lambda *_: None)
        patch.setattr(summary, "write_kept", lambda *_: None)
        patch.setattr(Store, "current_teachers", lambda *_: None)
        yield


def whole_night(store: Store) -> dict:
    """The same of all rows, without what is kept."""
    with without_summaries():
        found = night(store)
    units = list(store.counted(FINGERPRINT))
    assert found["table"] == reduce_scores(store, FINGERPRINT, units).to_pylist()
    return found


def alike(a, b, at: str = "") -> None:
    """The same, but for the rounding of sums."""
    if dataclasses.is_dataclass(a):
        assert type(a) is type(b), at
        a, b = vars(a), vars(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys(), at
        for name in a:
            alike(a[name], b[name], f"{at}/{name}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), at
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            alike(one, other, f"{at}/{i}")
    elif isinstance(a, np.ndarray) and a.dtype.kind == "f":
        np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-13, err_msg=at)
    elif isinstance(a, np.ndarray):
        assert np.array_equal(a, b), at
    elif isinstance(a, float):
        assert b == pytest.approx(a, rel=1e-9, abs=1e-12, nan_ok=True), at
    else:
        assert a == b, at


@pytest.fixture
def anew(monkeypatch):
    """How often all rows were read."""
    times = []
    real = summary._made_anew

    def counted(*given):
        times.append(1)
        return real(*given)

    monkeypatch.setattr(summary, "_made_anew", counted)
    return times


def check(store: Store) -> None:
    found, whole = night(store), whole_night(store)
    assert found["table"] == whole["table"]
    alike(whole, found)
    kept._latest.clear()  # as the next process has it
    alike(whole, night(store))


@pytest.mark.parametrize("seed", range(few(10, 1)))
def test_nights_at_random(small, anew, tmp_path, seed):
    store = Store(str(tmp_path), "s", None)
    corpus = Corpus(store, seed)
    for t in (0, 1, 2, 4):
        corpus.add(t)
    check(store)
    assert len(anew) == 2  # and once without what is kept
    n_kept, others = 0, ["drop", "replace", "teacher"]
    for step in range(6):
        before = len(anew)
        what = corpus.chosen.choice(["add", "more", "repeat", "repeat", *others])
        if what in ("add", "more"):
            corpus.add(corpus.chosen.choice([0, 1, 2, 4]))
        if what == "more":  # a part of a shard, and one whose rows are in many prompts
            corpus.add(corpus.chosen.choice([0, 1, 2, 4]), rows=corpus.chosen.randrange(1, SHARD))
        if what == "repeat":
            corpus.repeat()
        if what == "drop":
            corpus.drop()
        if what == "replace":
            corpus.replace()
        if what == "teacher":
            corpus.add(5 + step)
        if corpus.chosen.random() < 0.5:
            compact_once(store, FINGERPRINT)
        check(store)
        n_kept += len(anew) - before == 1
        assert (len(anew) - before == 2) >= (what in others)
        if corpus.chosen.random() < 0.5:
            compact_once(store, FINGERPRINT)
    assert n_kept
    ranking = rank_teachers(load_scored(store, [RSR]), RSR)
    json.dumps(ranking.to_json())
    with without_summaries():
        alike(rank_teachers(load_scored(store, [RSR]), RSR).to_json(), ranking.to_json())


def test_last_nights_numbers_are_of_one_definition(small, anew, tmp_path, monkeypatch):
    store = Store(str(tmp_path), "s", None)
    corpus = Corpus(store, 0)
    corpus.add(0)
    corpus.add(1)
    check(store)
    corpus.add(1)
    anew.clear()
    monkeypatch.setattr(kept, "DEFINITION", "other limits of the guard")
    check(store)
    assert len(anew) == 2


def test_a_broken_summary_is_made_anew(small, anew, tmp_path):
    store = Store(str(tmp_path), "s", None)
    corpus = Corpus(store, 0)
    corpus.add(0)
    corpus.add(1)
    check(store)
    path = tmp_path / "summaries" / "student=s.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    kept._latest.clear()
    assert check_store(store.uri, None).findings[0].place == "summaries/student=s.parquet"
    assert rank_teachers(load_scored(store, [RSR]), RSR).teachers
    corpus.add(0)
    check(store)
    assert check_store(store.uri, None).findings == []


def test_parts_of_an_earlier_version_have_no_hash_of_ids(small, anew, tmp_path):
    store = Store(str(tmp_path), "s", None)
    corpus = Corpus(store, 0)
    corpus.add(0)
    corpus.add(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(parts.HASHED, "id_hash")
        compact_once(store, FINGERPRINT)
    check(store)
    corpus.add(1)
    check(store)
    assert len(anew) == 3


def test_few_rows_are_read_again(small, tmp_path, monkeypatch):
    """Of the rows that are known little but hashes, where new ones answer other prompts."""
    store = Store(str(tmp_path), "s", None)
    corpus = Corpus(store, 0)
    for _ in range(4):
        for t in range(4):
            corpus.add(t)
    compact_once(store, FINGERPRINT)
    night(store)
    read = []
    real = Store.read_score_file

    def counted(self, fingerprint, file, columns, prompts=None):
        rows = real(self, fingerprint, file, columns, prompts)
        if not {*columns} <= {*summary.HASHES}:
            read.append(len(rows))
        return rows

    monkeypatch.setattr(Store, "read_score_file", counted)
    corpus.add(0, rows=300)
    make_teachers(store, FINGERPRINT)
    assert sum(read) < 3 * 300
    read.clear()
    load_scored(store, [RSR])
    assert sum(read) < 1.5 * loading.MOST_ROWS


def test_a_median_stays_known_while_it_is_among_what_is_kept(monkeypatch):
    monkeypatch.setattr(medians, "KEPT_LEAST", 5)
    rng = np.random.default_rng(0)
    n_unknown = 0
    for _ in range(200):
        values = rng.integers(0, 60, rng.integers(1, 100)).astype(float)
        middle = Middle.of(values)
        assert middle.median == np.median(values)
        for _ in range(4):
            gone = rng.choice(len(values), rng.integers(0, 4), replace=False)
            come = rng.integers(0, 60, rng.integers(1, 12)).astype(float)
            middle = middle.exchange(values[gone], come)
            values = np.concatenate([np.delete(values, gone), come])
            if middle is None:
                n_unknown += 1
                break
            assert middle.median == np.median(values)
    assert 0 < n_unknown < 100


def test_a_trajectory_that_goes_may_let_another_one_in():
    rows = np.zeros(20, [("teacher", "i4"), ("prompt_hash", "i8"), ("row_hash", "i8"),
                         ("rank_sum", "f8"), ("surprisal_sum", "f8")])  # fmt: skip
    rows["prompt_hash"] = rows["row_hash"] = np.arange(20)
    rows["rank_sum"] = np.arange(1, 21)
    rows["surprisal_sum"] = 1
    every = Ends.of(RSR, rows[[0, 1, 2, 17, 18, 19]])
    assert not every.exchange(np.array([1]), Ends.of(RSR, rows[:0]))
    again = Ends.of(RSR, rows[[0, 1, 2, 17, 18, 19]])
    assert again.exchange(np.array([1]), Ends.of(RSR, rows[[1]]))
    assert again.rows["row_hash"].tolist() == [0, 1, 2, 17, 18, 19]
    better = rows[[1]].copy()
    better["rank_sum"] = 0
    assert again.exchange(np.array([1]), Ends.of(RSR, better))
    assert again.rows["row_hash"].tolist() == [1, 0, 2, 17, 18, 19]
