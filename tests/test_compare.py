"""What moved between two sides, against brute force; how often noise is taken for a move; real
stores by the command line.
"""

import dataclasses
import datetime
import io
import json
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from rsr_ray.cli import main
from rsr_ray.decide.bases import Basis, aligned, on_matched_prompts
from rsr_ray.decide.comparison import Comparison, compare_sides
from rsr_ray.decide.inference import DRAWS
from rsr_ray.decide.measured import Measured, measure_on_prompts
from rsr_ray.decide.moved import Move, find_moves, find_swaps, holm, kendall, p_values
from rsr_ray.decide.ranking import rank_teachers
from rsr_ray.decide.scored import Matrices, gives, load_scored
from rsr_ray.decide.shared_trajectories import SharedTrajectories, match_trajectories
from rsr_ray.decide.sides import open_side
from rsr_ray.errors import UserError
from rsr_ray.metrics import REGISTRY
from rsr_ray.report.terminal.comparison import print_comparison
from rsr_ray.schema import SCORES, SCORES_VERSION, TEACHERS
from rsr_ray.store.run_record import RunRecord
from rsr_ray.store.store import Store
from rsr_ray.store.teacher_rows import teacher_rows
from rsr_ray.store.units import unit_name

from .conftest import few
from .test_rank import FOUR, rows_of, scored_of
from .test_report import HOSTILE

RSR = REGISTRY["rsr"]
RUN = {
    "config": {
        "render": "template",
        "system_prompt": None,
        "quantize": None,
        "over_length": "reject",
        "r_max": 100,
        "steps": "sentence",
        "step_window": 4.0,
    },
    "resources": {"dtype": "float32"},
    "student": {
        "weights_hash": "w",
        "template_hash": "t",
        "tokenizer_hash": "k",
        "config_hash": "c",
    },
    "scores_version": SCORES_VERSION,
    "max_length": 4096,
    "versions": {"torch": "2.13.0"},
}


def store_of(
    folder,
    rows: pd.DataFrame,
    *,
    student: str = "s",
    fingerprint: str = "f",
    units: int = 2,
    run: dict | None = RUN,
) -> Store:
    """A store that holds rows of `rows_of`, as a run leaves it."""
    store = Store(str(folder), student, None)
    rows = rows.assign(sample=rows.groupby(["teacher", "prompt"]).cumcount())
    for unit in range(units):
        write_unit(store, rows.iloc[unit::units], fingerprint, unit)
    write_table(store, rows, fingerprint)
    if run:
        named = {
            "run_id": f"20261120T010000Z-{fingerprint}",
            "fingerprint": fingerprint,
            "config": run["config"] | {"student_name": store.student_name},
        }
        store.write_run(RunRecord.from_json(run | named))
    return store


def write_unit(store: Store, rows: pd.DataFrame, fingerprint: str, unit: int) -> str:
    scores = [
        {
            "trajectory_id": f"{r.teacher}-{r.prompt}-{r.sample}",
            "teacher": r.teacher,
            "prompt_id": f"p{r.prompt}",
            "source": "s",
            "source_row": 10_000 * unit + i,
            "n_tokens": int(r.n_tokens),
            "rank_sum": int(r.rank_sum),
            "surprisal_sum": float(r.surprisal_sum),
            "fingerprint": fingerprint,
        }
        for i, r in enumerate(rows.itertuples())
    ]
    facts = {
        "key": f"{unit:016x}",
        "version": "a" * 12,
        "start": 0,
        "stop": len(scores),
        "last": True,
    }
    columns = {name: [value] for name, value in facts.items()} | {
        "rows": pa.array([scores], pa.list_(pa.struct(list(SCORES))))
    }
    store.write_unit(pa.table(columns), fingerprint)
    return store.unit_uri(fingerprint, unit_name(facts))


def table_of(rows: pd.DataFrame, fingerprint: str) -> pa.Table:
    x, y = rows.rank_sum / rows.n_tokens, rows.surprisal_sum / rows.n_tokens
    every = pd.DataFrame({"teacher": rows.teacher, "x": x, "y": y, "r": x / y}).groupby("teacher")
    made = [
        {
            "teacher": name,
            "n_trajectories": len(t),
            "rsr": t.x.mean() / t.y.mean(),
            "rsr_std": t.r.std() if len(t) > 1 else None,
            "fingerprint": fingerprint,
        }
        for name, t in every
    ]
    return pa.Table.from_pylist(made, schema=TEACHERS)


def write_table(store: Store, rows: pd.DataFrame, fingerprint: str) -> None:
    store.write_teachers(table_of(rows, fingerprint), [])


def compared(a: Store | str, b: Store | str, **how) -> Comparison:
    sides = [open_side(side if isinstance(side, str) else side.uri) for side in (a, b)]
    return compare_sides(*sides, REGISTRY[how.pop("by", "rsr")], **how)


def by_teacher(found: Comparison) -> dict[str, Move]:
    return {move.teacher: move for move in found.teachers}


# --- against brute force---------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), missing=st.sampled_from([0.0, 0.3]), samples=st.integers(1, 2))
def test_values_on_matched_prompts_equal_a_table_of_pandas(seed, missing, samples):
    sides = [rows_of(seed + n, 12, FOUR, missing=missing, samples=samples) for n in (0, 1)]
    found = on_matched_prompts(*map(scored_of, sides), sorted(FOUR), RSR, 0.95, 0)
    for rows in sides:
        rows["x"], rows["y"] = rows.rank_sum / rows.n_tokens, rows.surprisal_sum / rows.n_tokens
    means = [rows.groupby(["teacher", "prompt"])[["x", "y"]].mean() for rows in sides]
    both = means[0].index.intersection(means[1].index)
    everywhere = set.intersection(*({p for t, p in both if t == name} for name in FOUR))
    for side, mean in enumerate(means):
        for t, name in enumerate(found.teachers):
            mine = mean.loc[both].loc[name]
            assert found.own.n[t] == len(mine)
            assert found.own.values[side, t] == pytest.approx(mine.x.mean() / mine.y.mean())
            if everywhere:
                mine = mine.loc[sorted(everywhere)]
                assert found.ranked.values[side, t] == pytest.approx(mine.x.mean() / mine.y.mean())
    assert everywhere or "interpret them with care" in found.notes[0]


def test_the_difference_is_paired_and_its_interval_scipys():
    a = rows_of(1, 80, {"a": 5.0})
    b = a.assign(rank_sum=(a.rank_sum * np.random.default_rng(1).lognormal(0.02, 0.05, 80)).round())
    found = on_matched_prompts(scored_of(a), scored_of(b), ["a"], RSR, 0.95, 0)
    (row,) = find_moves(found, np.ones((2, 1)), RSR, 0.95, same_student=True)
    xa, xb, y = a.rank_sum / a.n_tokens, b.rank_sum / b.n_tokens, a.surprisal_sum / a.n_tokens
    want = stats.bootstrap(
        (xa.to_numpy(), xb.to_numpy(), y.to_numpy()), lambda xa, xb, y,
        axis: (xb.mean(axis) - xa.mean(axis)) / y.mean(axis), paired=True, vectorized=True,
        n_resamples=4000, method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    width = want.high - want.low
    assert row.difference == pytest.approx((xb.mean() - xa.mean()) / y.mean())
    assert (row.low, row.high) == pytest.approx((want.low, want.high), abs=0.1 * width)
    assert width < 0.5 * (xa / y).std() * 4 / 80**0.5  # unpaired it would be so wide


@settings(max_examples=few(50, 25))
@given(a=st.lists(st.integers(0, 4), min_size=2, max_size=7), seed=st.integers(0, 99))
def test_kendall_is_scipys(a, seed):
    b = np.random.default_rng(seed).integers(0, 4, len(a))
    assert kendall(np.array(a), b) == pytest.approx(stats.kendalltau(a, b).statistic, nan_ok=True)


@given(st.lists(st.floats(0, 0.1) | st.floats(0, 1), max_size=8), st.integers(0, 3))
def test_holm_rejects_what_the_steps_of_its_definition_reject(p, unknown):
    rejected = set()
    for step, k in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        if not p[k] < 0.05 / (len(p) - step):
            break
        rejected.add(k)
    got = holm(np.array([*p, *[np.nan] * unknown]))
    assert {int(k) for k in np.flatnonzero(got < 0.05)} == rejected or np.isclose(
        got[: len(p)], 0.05
    ).any()
    assert np.isnan(got).sum() == unknown


def test_p_of_a_mean_is_the_t_tests():
    x = np.random.default_rng(0).normal(0.3, 1, 25)
    draws = np.random.default_rng(1).choice(x, (20_000, 25)).mean(1)
    got = p_values(np.array([x.mean()]), draws[:, None], np.array([25]))[0]
    assert got == pytest.approx(stats.ttest_1samp(x, 0).pvalue, rel=0.1)


def measured(x: np.ndarray) -> Measured:
    """Values x [2, P, T] over 1."""
    a, b = (Matrices(side, np.ones_like(side), np.ones_like(side)) for side in x)
    return measure_on_prompts(a, b, np.ones(x.shape[1:], bool), 0.95, 0)


@pytest.mark.simulation
def test_two_sides_that_are_alike_are_told_apart_no_oftener_than_they_may():
    """1,500 teachers whose sides differ by noise alone, five to a family: one p in twenty below
    0.05, and one family in twenty.
    """
    rng = np.random.default_rng(4)
    x = rng.lognormal(1, 0.5, (1, 30, 1)) + rng.gamma(2.0, 1.0, (2, 30, 1500))
    difference, draws = (both := measured(x)).difference()
    p = p_values(difference, draws, both.n)
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.02)
    families = np.array([holm(family).min() < 0.05 for family in p.reshape(-1, 5)])
    assert families.mean() == pytest.approx(0.05, abs=0.04)


@pytest.mark.simulation
def test_nights_that_are_alike_are_told_apart_no_oftener_than_they_may():
    """B has A's 40 prompts and 20 more of the same kind."""
    rng = np.random.default_rng(5)
    x = rng.gamma(2.0, 1.0, (60, 1500))
    a, b = (
        Matrices(x * n, 1.0 * n, n)
        for n in ((np.arange(60)[:, None] < 40) * np.ones_like(x), np.ones_like(x))
    )
    both = measure_on_prompts(a, b, np.ones(x.shape, bool), 0.95, 0)
    p = p_values(*both.difference(), both.n)
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.025)
    shifted = Matrices(np.where(np.arange(60)[:, None] < 40, x, x + 1.5), b.y, b.n)
    p = p_values(
        *(both := measure_on_prompts(a, shifted, np.ones(x.shape, bool), 0.95, 0)).difference(),
        both.n,
    )
    assert np.mean(p < 0.05) > 0.9


def test_teachers_that_are_alike_swap_by_more_than_noise_no_oftener_than_they_may():
    """300 pairs: on A their order is sure, on B it is a coin's."""
    rng = np.random.default_rng(6)
    flagged = []
    for _ in range(150):
        x = rng.normal(0, 1, (2, 30, 2))
        x[0, :, 1] += 3
        found = find_swaps(Basis("", ["a", "b"], (both := measured(x)), both, [], []), RSR, 0.95)
        flagged.append(any(pair.more_than_noise for pair in found))
    assert np.mean(flagged) < 0.06
    x[1, :, 0] += 3
    (pair,) = find_swaps(Basis("", ["a", "b"], (both := measured(x)), both, [], []), RSR, 0.95)
    assert (pair.before_in_a, pair.before_in_b, pair.more_than_noise, pair.share) == (
        "a",
        "b",
        True,
        1.0,
    )
    higher = REGISTRY["lark"]
    assert find_swaps(Basis("", ["a", "b"], both, both, [], []), higher, 0.95)[0].before_in_a == "b"


def test_a_share_of_swaps_is_counted_draw_by_draw():
    rng = np.random.default_rng(8)
    both = measured(rng.normal(0, 1, (2, 20, 3)) + np.array([[[0, 0.2, 0.4]], [[0.2, 0.1, 0.0]]]))
    (a, b), names = both.values, ["a", "b", "c"]
    for pair in (found := find_swaps(Basis("", names, both, both, [], []), RSR, 0.95)):
        i, j = names.index(pair.before_in_a), names.index(pair.before_in_b)
        assert a[i] < a[j]
        assert b[j] < b[i]
        seen = [
            one[i] < one[j] and other[j] < other[i] for one, other in zip(*both.draws, strict=True)
        ]
        assert (len(seen), np.mean(seen)) == (DRAWS, pair.share)
    assert found


# --- stores----------------------------------------------------------------------------------------


def test_the_same_scores_twice_have_not_moved(tmp_path):
    rows = rows_of(3, 20, FOUR, samples=2)
    a, b = store_of(tmp_path / "a", rows), store_of(tmp_path / "b", rows, units=5)
    found = compared(a, b)
    assert found.sentence == (
        "Nothing moved: the 160 trajectories have bit-for-bit the same scores on both sides."
    )
    assert [(t.difference, t.went, t.more_than_noise, t.p_up) for t in found.teachers] == [
        (0, "same", False, 0.5)
    ] * 4
    assert (found.swaps, found.kendall.value, found.basis) == (
        [],
        1.0,
        "matched prompts",
    )
    assert found.trajectories == SharedTrajectories(160, 0, 0, differ=0, largest=0.0)


def test_a_teacher_that_got_worse_and_lost_its_place(tmp_path):
    rows = rows_of(3, 60, FOUR)
    worse = rows.assign(rank_sum=np.where(rows.teacher == "a", rows.rank_sum * 3, rows.rank_sum))
    found = compared(store_of(tmp_path / "a", rows), store_of(tmp_path / "b", worse))
    moved = by_teacher(found)
    assert (moved["a"].went, moved["a"].more_than_noise, moved["a"].p_up) == (
        "worse",
        True,
        1.0,
    )
    assert moved["a"].low < moved["a"].difference < moved["a"].high
    assert (moved["a"].a.place, moved["a"].b.place) == (1, 4)
    assert found.teachers[-1].teacher == "a"
    assert not any(moved[name].more_than_noise for name in "bcd")
    assert {pair.before_in_a for pair in found.swaps} == {"a"}
    assert found.kendall.value == 0.0
    assert found.sentence.startswith(
        "1 of 4 teachers moved by more than noise: a (higher: worse); 3 of 6 pairs of "
        "teachers changed order, 3 by"
    )
    assert (found.trajectories.differ, found.trajectories.column) == (60, "rank_sum")
    assert found.trajectories.largest == pytest.approx(2 / 3)


def test_a_last_bit_is_seen(tmp_path):
    rows = rows_of(3, 20, {"a": 5.0})
    other = rows.copy()
    other.loc[7, "surprisal_sum"] = np.nextafter(other.surprisal_sum[7], np.inf)
    found = compared(store_of(tmp_path / "a", rows), store_of(tmp_path / "b", other)).trajectories
    assert (found.differ, found.column, found.where) == (1, "surprisal_sum", "a a-7-0")
    assert 0 < found.largest < 1e-15


def test_teachers_and_prompts_of_one_side(tmp_path):
    a = rows_of(3, 20, {"a": 5.0, "b": 6.0, "c": 7.0})
    b = rows_of(4, 25, {"b": 6.0, "c": 7.0, "d": 8.0})
    b.loc[b.teacher == "c", "prompt"] += 100
    found = compared(store_of(tmp_path / "a", a), store_of(tmp_path / "b", b))
    assert (found.only_a, found.only_b, found.unmatched) == (["a"], ["d"], ["c"])
    assert [
        (t.teacher, t.n_prompts, t.a.n_trajectories, t.b.n_trajectories) for t in found.teachers
    ] == [("b", 20, 20, 25)]
    assert (found.kendall, found.swaps) == (None, [])
    assert (
        found.trajectories.both,
        found.trajectories.only_a,
        found.trajectories.only_b,
    ) == (20, 40, 55)
    with pytest.raises(
        UserError, match="no prompt has answers by the same teacher on both sides; .*: c"
    ):
        compared(
            store_of(tmp_path / "c", a[a.teacher == "c"]),
            store_of(tmp_path / "d", b[b.teacher == "c"]),
        )
    with pytest.raises(UserError, match="no teacher is on both sides: A has a; B has d"):
        compared(
            store_of(tmp_path / "e", a[a.teacher == "a"]),
            store_of(tmp_path / "g", b[b.teacher == "d"]),
        )


def test_one_prompt_says_nothing_of_noise(tmp_path):
    found = compared(
        store_of(tmp_path / "a", rows_of(1, 1, FOUR), units=1),
        store_of(tmp_path / "b", rows_of(2, 1, FOUR), units=1),
    )
    assert "cannot be tested against noise" in found.sentence
    assert {(t.low, t.p_up, t.p_value, t.more_than_noise) for t in found.teachers} == {
        (None, None, None, None)
    }
    assert all(pair.more_than_noise is None for pair in found.swaps)
    assert found.kendall.low is None


def test_places_stand_on_prompts_that_all_have(tmp_path):
    """b answered only easy prompts: on its own it looks better than it is."""
    rows = rows_of(1, 40, {"a": 5.0, "b": 5.5})
    rows["rank_sum"] *= np.where(rows.prompt < 20, 1, 10)
    rows = rows[(rows.teacher == "a") | (rows.prompt < 20)]
    found = compared(store_of(tmp_path / "a", rows), store_of(tmp_path / "b", rows))
    moved = by_teacher(found)
    assert moved["b"].a.value < moved["a"].a.value
    assert (moved["a"].a.place, moved["b"].a.place, found.n_prompts_ranked) == (
        1,
        2,
        20,
    )
    assert "based on the 20 prompts" in found.notes[0]


def test_two_students_are_compared_by_order(tmp_path):
    rows = rows_of(3, 40, FOUR)
    other = RUN | {
        "student": RUN["student"] | {"weights_hash": "other", "tokenizer_hash": "other"},
        "max_length": 99,
    }
    store_of(tmp_path, rows, student="small")
    store = store_of(
        tmp_path,
        rows.assign(surprisal_sum=rows.surprisal_sum / 3),
        student="large",
        fingerprint="e",
        run=other,
    )
    found = compared(f"{store.uri}#small", f"{store.uri}#large")
    assert not found.same_student
    assert found.sentence == "The 4 teachers are in the same order."
    assert "different students, whose values of rsr are on different scales" in found.notes[0]
    assert (found.trajectories.both, found.trajectories.differ) == (160, None)
    with pytest.raises(UserError, match=r"name one as .*#STUDENT: large, small"):
        compared(store, store)


@pytest.mark.parametrize(
    ("changes", "by", "said"),
    [
        ({"config": RUN["config"] | {"r_max": 50}}, "rsr", "r_max 100 / 50"),
        ({"config": RUN["config"] | {"r_max": 50}}, "mean_surprisal", None),
        ({"resources": {"dtype": "bfloat16"}}, "rsr", "dtype float32 / bfloat16"),
        ({"student": RUN["student"] | {"template_hash": "u"}}, "rsr", "template_hash t / u"),
        ({"student": RUN["student"] | {"template_hash": "u", "weights_hash": "x"}}, "rsr", None),
        (
            {"config": RUN["config"] | {"over_length": "window"}},
            "rsr",
            "over_length reject / window",
        ),
        ({"max_length": 99}, "rsr", None),
        ({"scores_version": 1}, "rsr", f"scores_version {SCORES_VERSION} / 1"),
        ({"config": RUN["config"] | {"step_window": 2.0}}, "rsr", None),
    ],
)
def test_other_settings_are_refused_where_they_matter(tmp_path, changes, by, said):
    rows = rows_of(3, 10, FOUR)
    a, b = (
        store_of(tmp_path / "a", rows),
        store_of(tmp_path / "b", rows, fingerprint="e", run=RUN | changes),
    )
    if said is None:
        assert not any("different settings" in note for note in compared(a, b, by=by).notes)
        return
    with pytest.raises(UserError, match=f"settings and cannot be compared: {said}.*--anyway"):
        compared(a, b, by=by)
    assert said in compared(a, b, by=by, anyway=True).notes[0]


def test_settings_that_nobody_wrote_down_are_refused(tmp_path):
    rows = rows_of(3, 10, FOUR)
    a, b = store_of(tmp_path / "a", rows), store_of(tmp_path / "b", rows, fingerprint="e", run=None)
    with pytest.raises(UserError, match="its settings are unknown|their settings are unknown"):
        compared(a, b)
    assert compared(a, b, anyway=True).teachers
    assert compared(a, store_of(tmp_path / "c", rows, run=None)).same_student
    with pytest.raises(UserError, match="no direction"):
        compared(a, a, by="n_tokens")


def test_other_versions_of_the_same_student_are_named(tmp_path):
    rows = rows_of(3, 10, FOUR)
    newer = store_of(tmp_path / "b", rows, run=RUN | {"versions": {"torch": "2.14.0"}})
    assert "torch 2.13.0 / 2.14.0" in compared(store_of(tmp_path / "a", rows), newer).notes[0]


# --- nights----------------------------------------------------------------------------------------


def ranking_of(rows: pd.DataFrame) -> dict:
    return rank_teachers(scored_of(rows.reset_index(drop=True)), RSR).to_json()


def nights_of(folder, parts: dict[str, pd.DataFrame], *, ranked: bool = True) -> Store:
    """A store to which each night added a unit, a day apart by its clock."""
    store, seen = Store(str(folder), "s", None), []
    for day, (night, rows) in enumerate(parts.items()):
        seen.append(rows.assign(sample=day))
        moment = datetime.datetime(2026, 11, 1 + day, 2, tzinfo=datetime.UTC).timestamp()
        unit = write_unit(store, seen[-1], "f", day)
        table = [row.to_json() for row in teacher_rows(table_of(pd.concat(seen), "f"))]
        os.makedirs(f"{store.uri}/nightly", exist_ok=True)
        record = f"{store.uri}/nightly/{night}.json"
        with open(record, "w") as file:
            entry = {"error": None, "fingerprint": "f", "teachers": table} | (
                {"ranking": ranking_of(pd.concat(seen))} if ranked else {}
            )
            json.dump({"night": night, "students": {"s": entry}}, file)
        os.utime(unit, (moment, moment))
        os.utime(record, (moment + 60, moment + 60))
    write_table(store, pd.concat(seen), "f")
    return store


def test_nights_are_compared_by_the_rows_they_had(tmp_path):
    first, second = rows_of(1, 60, FOUR), rows_of(2, 60, FOUR | {"a": 15.0, "new": 7.0})
    second["prompt"] += 60
    store = nights_of(tmp_path, {"2026-11-01": first, "2026-11-02": second})
    found = compared(f"{store.uri}#s@2026-11-01", f"{store.uri}#@2026-11-02")
    assert (found.basis, found.only_b, found.a.night, found.b.night) == (
        "all prompts",
        ["new"],
        "2026-11-01",
        "2026-11-02",
    )
    moved, tables = (
        by_teacher(found),
        [table_of(rows, "f").to_pylist() for rows in (first, pd.concat([first, second]))],
    )
    for side, table in zip("ab", tables, strict=True):
        for t in table:
            if t["teacher"] != "new":
                assert getattr(moved[t["teacher"]], side).value == pytest.approx(t["rsr"])
                assert getattr(moved[t["teacher"]], side).n_trajectories == t["n_trajectories"]
    assert [name for name, t in moved.items() if t.more_than_noise] == ["a"]
    assert (
        found.trajectories.both,
        found.trajectories.only_b,
        found.trajectories.differ,
    ) == (240, 300, 0)
    assert compared(f"{store.uri}#@2026-11-02", store).sentence.startswith("Nothing moved")
    assert compared(f"{store.uri}#@2026-11-01", store).teachers == found.teachers


def test_a_night_whose_rows_are_gone_is_compared_by_its_aggregates(tmp_path):
    """The store was copied: all files are of one time.

    The record is of use all the same, and it is said what it cannot tell.
    """
    first, second = rows_of(1, 60, FOUR), rows_of(2, 60, FOUR | {"a": 50.0})
    store = nights_of(tmp_path, {"n1": first, "n2": second})
    os.utime(f"{store.uri}/nightly/n1.json")
    found = compared(f"{store.uri}#@n1", f"{store.uri}#@n2")
    assert (found.basis, found.trajectories, found.n_prompts_ranked) == (
        "aggregates",
        None,
        None,
    )
    assert "the rows of night n1 can no longer be identified" in found.notes[0]
    moved = by_teacher(found)
    assert [name for name, t in moved.items() if t.more_than_noise] == ["a"]
    errors = [
        {t["teacher"]: t["all"]["error"] for t in ranking_of(rows)["teachers"]}
        for rows in (first, pd.concat([first, second]))
    ]
    rows = [table_of(rows, "f").to_pylist() for rows in (first, pd.concat([first, second]))]
    for one, other in zip(*rows, strict=True):
        t = moved[one["teacher"]]
        spread = np.hypot(*(error[one["teacher"]] for error in errors))
        assert t.difference == pytest.approx(other["rsr"] - one["rsr"])
        assert t.high - t.low == pytest.approx(2 * stats.t.ppf(0.975, 59) * spread)
        assert t.n_prompts is None
    with pytest.raises(UserError, match="rows of night n1 can no longer be identified"):
        compared(f"{store.uri}#@n1", f"{store.uri}#@n2", by="mean_surprisal")


def test_a_night_without_errors_over_prompts_says_nothing_of_noise(tmp_path):
    """Records of earlier versions have the spread over trajectories only: that takes several
    answers to a prompt as independent.
    """
    store = nights_of(
        tmp_path,
        {"n1": rows_of(1, 60, FOUR, samples=4), "n2": rows_of(2, 60, FOUR | {"a": 50.0})},
        ranked=False,
    )
    os.utime(f"{store.uri}/nightly/n1.json")
    found = compared(f"{store.uri}#@n1", f"{store.uri}#@n2")
    assert found.sentence == "Changes are shown but cannot be tested against noise."
    assert "not tested against noise" in found.notes[0]
    assert {(t.low, t.p_up, t.p_value, t.more_than_noise) for t in found.teachers} == {(None,) * 4}
    assert {(pair.share, pair.more_than_noise) for pair in found.swaps} == {(None, None)}
    assert found.kendall.low is None
    print_comparison(found, Console(file=io.StringIO()))


def test_rows_are_a_nights_only_if_they_give_its_numbers(tmp_path):
    rows = rows_of(1, 20, FOUR)
    scored = load_scored(store_of(tmp_path, rows), [RSR])
    table = teacher_rows(table_of(rows, "f"))
    first = table[0]
    rejected = dataclasses.replace(first, teacher="rejects only", n_trajectories=0, rsr=None)
    assert gives(scored, table)
    assert gives(scored, [*table, rejected])
    assert not gives(scored, table[1:])
    assert not gives(scored, [dataclasses.replace(first, n_trajectories=19), *table[1:]])
    assert not gives(scored, [dataclasses.replace(first, rsr=first.rsr * (1 + 1e-6)), *table[1:]])


# --- its JSON--------------------------------------------------------------------------------------

KEYS = {
    "": (
        "a b metric better confidence draws seed same_student basis teachers swaps kendall "
        "n_prompts_ranked trajectories only_a only_b unmatched notes sentence"
    ),
    "a": "store student night fingerprint",
    "b": "store student night fingerprint",
    "teachers": ("teacher a b n_prompts difference low high p_up p_value more_than_noise went"),
    "teachers.a": "value place n_trajectories",
    "teachers.b": "value place n_trajectories",
    "swaps": "before_in_a before_in_b share p_value more_than_noise",
    "kendall": "value low high",
    "trajectories": "both only_a only_b differ largest column where",
}


def keys_of(value, place: str = "") -> dict[str, str]:
    """The keys of every object inside, in order, by its place; those of a list share one."""
    if isinstance(value, list):
        return {k: v for one in value for k, v in keys_of(one, place).items()}
    if not isinstance(value, dict):
        return {}
    found = {place: " ".join(value)}
    for name, inside in value.items():
        found |= keys_of(inside, f"{place}.{name}".lstrip("."))
    return found


def test_its_json_has_the_documented_keys_in_their_order(tmp_path):
    rows = rows_of(3, 60, FOUR)
    worse = rows.assign(rank_sum=np.where(rows.teacher == "a", rows.rank_sum * 3, rows.rank_sum))
    found = compared(store_of(tmp_path / "a", rows), store_of(tmp_path / "b", worse))
    assert keys_of(found.to_json()) == KEYS
    assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == found.to_json()


def test_what_is_not_known_is_null_in_its_json(tmp_path):
    """On one prompt, and of two students, of whom one teacher is shared."""
    other = RUN | {"student": RUN["student"] | {"weights_hash": "other"}}
    store_of(tmp_path, rows_of(1, 1, {"a": 5.0}), student="small", units=1)
    rows = rows_of(2, 1, {"a": 5.0, "b": 6.0})
    store_of(tmp_path, rows, student="large", fingerprint="e", run=other, units=1)
    found = compared(f"{tmp_path}#small", f"{tmp_path}#large").to_json()
    json.dumps(found, allow_nan=False)
    (t,) = found["teachers"]
    unknown = list(t)[list(t).index("difference") :]
    assert {t[name] for name in unknown} == {None}
    assert (found["kendall"], found["trajectories"]["differ"]) == (None, None)


# --- the command line------------------------------------------------------------------------------


def test_by_the_command_line(tmp_path, capsys):
    rows = rows_of(3, 40, FOUR)
    worse = rows.assign(rank_sum=np.where(rows.teacher == "a", rows.rank_sum * 3, rows.rank_sum))
    a, b = store_of(tmp_path / "a", rows), store_of(tmp_path / "b", worse)
    assert main(["compare", a.uri, f"{b.uri}#s"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(
        "1 of 4 teachers moved by more than noise: a (higher: worse); 3 of 6 pairs"
    )
    assert "yes, worse" in shown
    assert (
        "changed order: A ranks a above b, B the reverse, both orders in 100% of draws: more "
        "than noise"
    ) in shown
    assert "trajectories: 160 in both; 40 of them have different scores: by at most 0.67" in shown
    assert "rank_sum of a a-" in shown
    assert "Holm" in shown
    assert "\x1b" not in shown
    assert max(len(line) for line in shown.splitlines() if not line.startswith(("A:", "B:"))) <= 120
    assert main(["compare", a.uri, b.uri, "--json", "--seed", "3"]) == 0
    assert json.loads(capsys.readouterr().out) == compared(a, b, seed=3).to_json()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{a}", "{a}#nobody"], "no teachers of student nobody; students in the store: s"),
        (["{a}", "{a}/nothing"], "no student was scored there yet"),
        (["{a}", "{a}#s@2026-01-01"], "no night 2026-01-01; latest nights: none"),
        (["{a}", "{a}#s/t"], "use STORE, STORE#STUDENT"),
        (["{a}", ""], "B: is empty; give a value"),
        (["{a}", "{a}", "--by", "speed"], "no such metric"),
        (
            ["{a}", "{a}", "--by", "local_naturalness"],
            "score them with --metrics local_naturalness",
        ),
        (["{a}", "{a}", "--confidence", "95"], "must be between 0 and 1"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, arguments, said):
    store = store_of(tmp_path, rows_of(3, 10, FOUR))
    assert main(["compare", *(argument.format(a=store.uri) for argument in arguments)]) == 2
    assert said in (error := capsys.readouterr().err)
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [("x@y", "{}"), ("x#y", "{}#"), ("x#y@z", "{}#s"), ("x", "{}#"), ("x y", "{}#s")],
)
def test_a_store_may_have_any_name(tmp_path, name, text):
    store = store_of(tmp_path / name, rows_of(3, 5, FOUR))
    side = open_side(text.format(store.uri), None)
    assert (side.store.uri, side.store.student_name, side.night) == (store.uri, "s", None)


def test_a_name_cannot_steer_the_terminal(tmp_path, capsys):
    rows = rows_of(3, 10, dict.fromkeys(HOSTILE, 5.0) | {"only\x1b": 3.0})
    a, b = (
        store_of(tmp_path / "a", rows),
        store_of(tmp_path / "b", rows_of(4, 10, dict.fromkeys(HOSTILE, 5.0))),
    )
    assert main(["compare", a.uri, b.uri]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[bold]markup[/bold]" in shown
    assert "only\\x1b" in shown


def test_large_counts_and_long_names_fit(tmp_path):
    name = "a-teacher-of-an-organisation/with-a-rather-long-name-70b-instruct-v1.5"
    found = compared(
        store_of(tmp_path / "a", rows_of(3, 10, {name: 5.0})),
        store_of(tmp_path / "b", rows_of(4, 10, {name: 900.0})),
    )
    (t,) = found.teachers
    many = 1_234_567
    on_a = dataclasses.replace(t.a, n_trajectories=many)
    on_b = dataclasses.replace(t.b, n_trajectories=many)
    t = dataclasses.replace(t, a=on_a, b=on_b, n_prompts=many, low=-1234.4, high=-1000.4)
    out = io.StringIO()
    print_comparison(dataclasses.replace(found, teachers=[t]), Console(file=out, width=120))
    shown = out.getvalue()
    assert shown.count("1,234,567") == 3
    assert "-1,234 to -1,000" in shown
    assert "yes, worse" in shown
    assert "…" not in shown


def test_a_metric_of_the_company_sees_the_shared_teachers_only(tmp_path):
    """LARK looks at all answers to a prompt: a teacher that only one side has may not change the
    others.
    """
    rows = rows_of(3, 20, FOUR)
    scored = [scored_of(rows), scored_of(pd.concat([rows, rows_of(4, 20, {"e": 2.0})]))]
    for side in scored:
        side.columns["brier_sum"] = side.columns["surprisal_sum"] * 0.3
    lark = REGISTRY["lark"]
    first, second = (aligned(side, lark, sorted(FOUR), scored[0].prompts) for side in scored)
    assert np.array_equal(first.x, second.x)


def test_trajectories_are_the_same_by_teacher_and_id(tmp_path):
    rows = rows_of(3, 5, {"a": 5.0, "b": 6.0})
    a = load_scored(store_of(tmp_path / "a", rows), [RSR])
    b = load_scored(
        store_of(tmp_path / "b", rows.assign(teacher=rows.teacher.map({"a": "b", "b": "a"}))), [RSR]
    )
    assert match_trajectories(a, a.only(["a"]), RSR, same_student=True).both == 5
    shared = match_trajectories(a, b, RSR, same_student=True)
    assert shared.differ == shared.both == 10
