"""Very many score rows: what a pass over buckets of prompts says is what all rows at once say."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rsr_ray.cli import main
from rsr_ray.decide import buckets, loading
from rsr_ray.decide.comparison import compare_sides
from rsr_ray.decide.loading import load_scored
from rsr_ray.decide.matrices import Matrices
from rsr_ray.decide.ranking import Measured, Ranking, TeacherPlace, rank_teachers
from rsr_ray.decide.sides import open_side
from rsr_ray.decide.strata_ranking import rank_strata
from rsr_ray.decide.sums import LEAST_BITS, Rows, TermSums
from rsr_ray.errors import UserError
from rsr_ray.metrics import REGISTRY, RSR
from rsr_ray.run import reduce
from rsr_ray.run.reduce import reduce_scores
from rsr_ray.store.store import Store

from . import big_store
from .big_store import FINGERPRINT, SHARD_ROWS, make_store
from .conftest import few
from .simulate import prompts_of

ROWS = 9_000
LIKE = {"low": 0.03, "high": 0.03, "error": 0.1, "p_best": 0.1}  # of blocks of prompts
LIKE |= {"median": 0.1, "q25": 0.1, "q75": 0.1}  # of a sample


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Of teachers t00, t01 and t02, and t03, most of whose trajectories are degenerate."""
    patch = pytest.MonkeyPatch()
    patch.setattr(big_store, "SHARD_ROWS", 1_500)
    patch.setattr(big_store, "_guard", _loops_of_one(big_store._guard))
    made = make_store(str(tmp_path_factory.mktemp("big")), ROWS, 4, unit_rows=400, processes=1)
    patch.undo()
    return made


def _loops_of_one(guard):
    teachers: list[int] = []

    def looping(n_tokens, loops, rng):
        columns = guard(n_tokens, loops, rng)
        teachers.append(len(teachers))
        if teachers[-1] * 1_500 >= ROWS * 3 // 4:  # the last teacher's shards
            columns["repeated_ngrams"] = np.where(rng.random(len(loops)) < 0.7, 0.9, 0.1)
        return columns

    return looping


@pytest.fixture
def in_buckets(monkeypatch):
    """Has rows go through buckets of so many, and a sample of so many."""

    def of(rows: int, sample: int = 3_000) -> None:
        monkeypatch.setattr(loading, "MOST_ROWS", sample)
        monkeypatch.setattr(reduce, "HERE_ROWS", sample)
        monkeypatch.setattr(buckets, "BUCKET_ROWS", rows)
        monkeypatch.setattr(buckets, "FLUSHED_ROWS", 1_000)

    return of


def ranked(store: Store, by: str = "rsr", **how) -> Ranking:
    return rank_teachers(load_scored(store, [REGISTRY[by]], **how), REGISTRY[by])


def places(ranking: Ranking) -> Iterator[tuple[TeacherPlace, int]]:
    without = ranking.degeneration.without
    yield from ((t, ranking.n_prompts) for t in ranking.teachers)
    yield from ((t, without.n_prompts) for t in without.teachers)


@pytest.mark.parametrize("by", ["rsr", "lark", "hes"])
def test_what_is_summed_is_what_all_rows_come_to(store, in_buckets, by):
    exact = ranked(store, by)
    in_buckets(1_000)
    found = ranked(store, by)
    assert exact.degeneration.left_out == found.degeneration.left_out == ["t03"]
    for name in ("n_prompts", "n_prompts_all", "n_trajectories", "matched", "best"):
        assert getattr(found, name) == getattr(exact, name), name
    for name in ("n_degenerate", "n_cut_off", "n_unknown", "warning"):
        assert getattr(found.degeneration, name) == getattr(exact.degeneration, name), name
    assert found.notes[-1].split(";")[0] == exact.notes[-1].split(";")[0]
    for (a, n_a), (b, n_b) in zip(places(exact), places(found), strict=True):
        assert (a.teacher, n_a, a.all.n_prompts) == (b.teacher, n_b, b.all.n_prompts)
        close(dataclasses.asdict(a), dataclasses.asdict(b))


def close(exact: dict, found: dict) -> None:
    """The same to the rounding of sums; of a sample, or of groups of prompts, nearly."""
    for name, value in exact.items():
        if isinstance(value, dict):
            close(value, found[name])
        elif name in LIKE:
            assert found[name] == pytest.approx(value, rel=LIKE[name], abs=LIKE[name] / 10), name
        elif name in ("first_place", "last_place"):
            assert abs(found[name] - value) <= 1, name
        elif isinstance(value, float):
            assert found[name] == pytest.approx(value, rel=1e-12), name
        else:
            assert found[name] == value, name


def test_neither_buckets_nor_the_order_of_files_move_a_bit(store, in_buckets, monkeypatch):
    in_buckets(100_000)
    want = load_scored(store, [RSR], stratum="source")
    files = store.score_files(FINGERPRINT)
    for rows, seed in ((2_000, 0), (500, 1)):
        in_buckets(rows)
        shuffled = [files[i] for i in np.random.default_rng(seed).permutation(len(files))]
        monkeypatch.setattr(Store, "score_files", lambda *_, some=shuffled: some)
        found = load_scored(store, [RSR], stratum="source")
        assert np.array_equal(found.prompt, want.prompt)
        for name in want.columns:
            assert np.array_equal(found.columns[name], want.columns[name], equal_nan=True)
        assert same(found.told, want.told)
        assert found.whole.strata.keys() == want.whole.strata.keys()
        assert all(same(found.whole.strata[n], told) for n, told in want.whole.strata.items())


def same(a, b) -> bool:
    """Whether two dataclasses of arrays, and of such dataclasses, are the same to the bit."""
    if dataclasses.is_dataclass(a):
        fields = [field.name for field in dataclasses.fields(a)]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in fields)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    return np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray) else a == b


def test_strata_are_those_of_all_rows(store, in_buckets):
    def strata():
        return rank_strata(load_scored(store, [RSR], stratum="source"), RSR, "source")

    exact = strata()
    in_buckets(1_000)
    found = strata()
    assert (found.n_trajectories, found.n_without) == (exact.n_trajectories, exact.n_without)
    assert found.overall.n_prompts == exact.overall.n_prompts
    for a, b in zip(exact.strata, found.strata, strict=True):
        assert (a.stratum, a.ranking.n_prompts) == (b.stratum, b.ranking.n_prompts)
        for p, q in zip(a.ranking.teachers, b.ranking.teachers, strict=True):
            assert (p.teacher, q.n_trajectories) == (q.teacher, p.n_trajectories)
            assert q.value == pytest.approx(p.value, rel=1e-12)
            assert q.all.n_prompts == p.all.n_prompts
    for p, q in zip(exact.overall.teachers, found.overall.teachers, strict=True):
        assert (p.teacher, q.value) == (q.teacher, pytest.approx(p.value, rel=1e-12))


def test_some_teachers_are_ranked_as_if_there_were_no_others(store, in_buckets):
    exact = ranked(store, teachers=["t00", "t02"])
    in_buckets(1_000)
    found = ranked(store, teachers=["t00", "t02"])
    assert [t.teacher for t in found.teachers] == [t.teacher for t in exact.teachers]
    assert (found.n_prompts, found.n_prompts_all) == (exact.n_prompts, exact.n_prompts_all)
    with pytest.raises(UserError, match="--teachers nobody: not in the store"):
        ranked(store, teachers=["nobody"])


def test_another_metric_than_the_first_is_ranked_on_the_sample_alone(store, in_buckets):
    in_buckets(1_000)
    scored = load_scored(store, [RSR, REGISTRY["hes"]])
    found = rank_teachers(scored, REGISTRY["hes"])
    assert found.n_trajectories == len(scored.teacher) < 0.6 * scored.n_trajectories
    assert "this is of that sample alone: load the scores with hes first" in found.notes
    assert len(found.notes) == len({*found.notes})


def test_a_table_added_up_in_buckets_is_the_one_added_up_at_once(store, in_buckets):
    """To the bit, with rows that repeat others of the same and of another prompt, and rejects."""
    units = list(store.counted(FINGERPRINT))
    exact = reduce_scores(store, FINGERPRINT, units).to_pylist()
    assert all(row["n_duplicates"] and row["n_repeated_ids"] and row["rejects"] for row in exact)
    for rows in (5_000, 700):
        in_buckets(rows)
        assert reduce_scores(store, FINGERPRINT, units[::-1]).to_pylist() == exact


def test_the_first_by_source_and_row_counts(store, in_buckets):
    """Of rows that repeat each other, the places that are kept are those of all rows at once."""
    exact = load_scored(store, [RSR]).rows
    in_buckets(1_000, sample=ROWS - 1)
    sample = load_scored(store, [RSR]).rows
    assert len(sample) > 0.9 * len(exact)
    kept = {*zip(exact["source"].to_pylist(), exact["source_row"].to_pylist(), strict=True)}
    assert {
        *zip(sample["source"].to_pylist(), sample["source_row"].to_pylist(), strict=True)
    } <= kept


def test_the_page_shows_the_same_trajectories(store, in_buckets, tmp_path, capsys):
    def page(name: str) -> dict:
        assert main(["report", "--store", store.uri, "--out", str(tmp_path / name)]) == 0
        capsys.readouterr()
        (student,) = json.loads((tmp_path / name / "teachers.json").read_text())["students"]
        return student

    exact = page("exact")
    in_buckets(1_000)
    found = page("found")
    assert found["trajectories"] == exact["trajectories"]
    for a, b in zip(exact["ranking"]["teachers"], found["ranking"]["teachers"], strict=True):
        for name in ("mean_rank", "mean_surprisal"):
            assert b[name] == pytest.approx(a[name], rel=1e-12)


def test_correlations_are_of_all_rows(store, in_buckets, tmp_path, capsys):
    table = Path(tmp_path / "accuracies.csv")
    table.write_text("student,teacher,accuracy\n" + "".join(f"s,t0{t},{t}\n" for t in range(4)))
    command = ["correlate", "--store", store.uri, "--accuracies", str(table), "--json"]

    def answer() -> dict:
        assert main(command) == 0
        return json.loads(capsys.readouterr().out)

    exact = answer()
    in_buckets(1_000)
    found = answer()
    for one, other in zip(exact["metrics"], found["metrics"], strict=True):
        assert (one["metric"], one["kendall"]) == (other["metric"], other["kendall"])
        assert other["pearson"] == pytest.approx(one["pearson"], rel=1e-9)
    (a,), (b,) = exact["agreement"]["students"], found["agreement"]["students"]
    assert (a["n_prompts"], a["n_pairs"]) == (b["n_prompts"], b["n_pairs"])
    seen = {m["metric"]: m["seen"] for m in a["metrics"]}
    assert {m["metric"]: m["seen"] for m in b["metrics"]} == seen


def test_two_sides_are_compared_on_the_same_sample_of_prompts(store, in_buckets):
    in_buckets(1_000, sample=4_500)
    found = compare_sides(open_side(store.uri), open_side(store.uri), RSR)
    assert found.trajectories.both
    assert (found.trajectories.only_a, found.trajectories.only_b) == (0, 0)
    assert any("is of 0.5 of the prompts, drawn at random" in note for note in found.notes)
    shown = [move.a.n_trajectories for move in found.teachers]
    assert sum(shown) == sum(row.n_trajectories for row in store.read_teacher_rows())
    assert max(move.n_prompts for move in found.teachers) < 0.6 * ROWS / 4


def test_a_store_of_rejects_alone_says_so(store, in_buckets, monkeypatch):
    def rejected(self, fingerprint, file, columns, prompts=None, read=Store.read_score_file):
        rows = read(self, fingerprint, file, columns, prompts)
        at = rows.schema.get_field_index("reject_reason")
        return rows.set_column(at, "reject_reason", pa.repeat("over_length", len(rows)))

    in_buckets(1_000)
    monkeypatch.setattr(Store, "read_score_file", rejected)
    with pytest.raises(UserError, match="every row was rejected"):
        load_scored(store, [RSR])


def test_without_room_for_the_rows_it_is_said_where(store, in_buckets, monkeypatch):
    in_buckets(1_000)
    real = shutil.disk_usage
    monkeypatch.setattr("shutil.disk_usage", lambda path: real(path)._replace(free=100_000))
    with pytest.raises(UserError, match=r"9,000 rows need up to 0\.0 GB in .*: set TMPDIR to a"):
        load_scored(store, [RSR])


def test_hashes_part_prompts_evenly(store):
    rows = pa.concat_tables(
        store.read_score_file(FINGERPRINT, file, ["prompt_hash"])
        for file in store.score_files(FINGERPRINT)
    )
    hashes = pc.unique(rows["prompt_hash"]).to_numpy()
    counts = np.bincount(buckets.first_bits(hashes, 4), minlength=16)
    assert counts.min() > 0.6 * len(hashes) / 16
    assert SHARD_ROWS > 1_500  # what the fixture sets is less: rows are repeated between shards


def in_blocks(rng: np.random.Generator, n_prompts: int, n_teachers: int) -> Matrices:
    """Sums over 512 blocks of prompts, a fiftieth of whose answers are missing; of each teacher the
    true value is 1.
    """
    x, y = prompts_of(rng, (n_prompts, n_teachers), "measured")
    cells = np.flatnonzero(rng.random(x.size) >= 0.02)
    numbers = {"rank_sum": x.ravel()[cells], "surprisal_sum": y.ravel()[cells]}
    numbers["n_tokens"] = np.ones(len(cells))
    sums = TermSums(RSR, n_teachers, LEAST_BITS)
    block = rng.integers(1 << buckets.BLOCK_BITS, size=n_prompts)
    sums.add(Rows(cells // n_teachers, block, cells % n_teachers, numbers))
    return sums.result()


@pytest.mark.simulation
def test_what_is_said_of_blocks_is_right_as_often_as_it_says(capsys):
    """Of equal teachers: no place is said to be sure, and intervals hold the true value."""
    rng, repetitions = np.random.default_rng(0), few(1_000, 60)
    wrong, misses, errors, seen = 0, [], [], []
    for _ in range(repetitions):
        found = Measured.of(in_blocks(rng, 4_000, 6), RSR, 0.95, 0)
        wrong += bool(found.certainty.places.before.any())
        misses += [found.interval.low > 1, found.interval.high < 1]
        errors.append(found.interval.error)
        seen.append(found.values[np.argsort(found.order)])
    below, above = np.mean(misses[::2]), np.mean(misses[1::2])
    ratio = np.mean(errors) / np.std(seen, axis=0, ddof=1).mean()
    with capsys.disabled():
        print(
            f"\n{repetitions} corpora of 4,000 prompts in 512 blocks: a wrong place in "
            f"{wrong / repetitions:.1%}, true values {below:.1%} below and {above:.1%} above their "
            f"95% intervals, standard errors {ratio:.2f} of what they should be"
        )
    slack = 3 * np.sqrt(0.05 * 0.95 / repetitions)
    assert wrong / repetitions <= 0.05 + slack
    assert max(below, above) <= 0.025 + slack / 2
    assert ratio == pytest.approx(1, abs=3 / np.sqrt(2 * repetitions))
