"""Rankings against brute force and scipy, and what is said of them."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rsr_ray.cli import main
from rsr_ray.decide.inference import influence, interval, value_draws
from rsr_ray.decide.loading import load_scored
from rsr_ray.decide.naturalness import naturalness
from rsr_ray.decide.ranking import rank_teachers
from rsr_ray.decide.scored import Scored
from rsr_ray.decide.wording import about, sentence
from rsr_ray.errors import UserError
from rsr_ray.metrics import REGISTRY
from rsr_ray.schema import SCORES, TEACHERS
from rsr_ray.store.store import Store

from .conftest import SHARED, needs_shared

RSR = REGISTRY["rsr"]

LIKE = "on prompts like these (95% confidence)"


def scored_of(rows: pd.DataFrame) -> Scored:
    """Rows with teacher, prompt, rank_sum, surprisal_sum, n_tokens."""
    teachers, prompts = sorted(rows.teacher.unique()), sorted(rows.prompt.unique())
    columns = {name: rows[name].to_numpy() for name in ("rank_sum", "surprisal_sum", "n_tokens")}
    teacher, prompt = (
        rows.teacher.map(teachers.index).to_numpy(),
        rows.prompt.map(prompts.index).to_numpy(),
    )
    return Scored(
        teachers,
        pa.array(map(str, prompts)),
        teacher,
        prompt,
        columns,
        pa.table({"trajectory_id": range(len(rows))}),
    )


def rows_of(
    seed: int, n_prompts: int, ranks: dict[str, float], *, missing: float = 0.0, samples: int = 1
) -> pd.DataFrame:
    """Answers of teachers whose mean ranks are given, about 2 nats a token, to prompts of
    differing difficulty.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.lognormal(0, 0.2, n_prompts)
    rows = []
    for teacher, mean in ranks.items():
        for prompt in range(n_prompts):
            for _ in range(samples if rng.random() >= missing else 0):
                n = int(rng.integers(50, 400))
                rows.append(
                    (
                        teacher,
                        prompt,
                        round(n * mean * difficulty[prompt] * rng.lognormal(0, 0.1)),
                        2.0 * n * rng.lognormal(0, 0.1),
                        n,
                    )
                )
    return pd.DataFrame(
        rows, columns=["teacher", "prompt", "rank_sum", "surprisal_sum", "n_tokens"]
    )


FOUR = {"a": 5.0, "b": 6.0, "c": 6.05, "d": 9.0}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), missing=st.sampled_from([0.0, 0.3]), samples=st.integers(1, 3))
def test_values_places_and_prompts_won_equal_a_table_of_pandas(seed, missing, samples):
    rows = rows_of(seed, 12, FOUR, missing=missing, samples=samples)
    got = rank_teachers(scored_of(rows), RSR)
    rows["x"], rows["y"] = rows.rank_sum / rows.n_tokens, rows.surprisal_sum / rows.n_tokens
    every = rows.groupby("teacher")[["x", "y"]].mean()
    each = rows.groupby(["prompt", "teacher"])[["x", "y"]].mean().unstack()
    matched = each.dropna()
    assert got.matched == (len(matched) > 0)
    if len(matched):
        assert got.n_prompts == len(matched)
        x, y = matched["x"], matched["y"]
        value, won = x.mean() / y.mean(), (x / y).idxmin(axis=1).value_counts(normalize=True)
    else:
        value = every.x / every.y
    assert [t.teacher for t in got.teachers] == value.sort_values().index.tolist()
    for t in got.teachers:
        name = t.teacher
        own = rows[rows.teacher == name]
        ratio = own.rank_sum / own.surprisal_sum
        assert t.value == pytest.approx(value[name])
        assert t.all.value == pytest.approx(every.x[name] / every.y[name])
        assert (t.all.n_prompts, t.n_trajectories) == (own.prompt.nunique(), len(own))
        assert (t.mean, t.median, t.std) == pytest.approx(
            (ratio.mean(), ratio.median(), ratio.std())
        )
        assert (t.q25, t.q75) == pytest.approx((ratio.quantile(0.25), ratio.quantile(0.75)))
        if len(matched):
            assert t.won == pytest.approx(won.get(name, 0.0))
        else:
            assert (t.won, t.p_best) == (None, None)
    json.dumps(got.to_json())


def test_the_bootstrap_is_scipys():
    rows = rows_of(1, 80, FOUR)
    m = scored_of(rows).matrices(RSR).matched()
    low, high = np.percentile(value_draws(m.x, m.y), [2.5, 97.5], axis=0)
    for t in range(4):
        want = stats.bootstrap(
            (m.x[:, t], m.y[:, t]), lambda x, y, axis: x.mean(axis) / y.mean(axis), paired=True,
            vectorized=True, n_resamples=4000, method="percentile", rng=np.random.default_rng(1),
        )  # fmt: skip
        width = high[t] - low[t]
        assert (low[t], high[t]) == pytest.approx(tuple(want.confidence_interval), abs=0.1 * width)


def test_the_difference_of_two_teachers_is_paired():
    """Difficulty that both share makes each interval wide and their order sure."""
    rng = np.random.default_rng(3)
    rows = rows_of(3, 60, {"a": 5.0, "b": 5.3})
    rows["rank_sum"] = (
        rows.rank_sum * rows.prompt.map(dict(enumerate(rng.lognormal(0, 1.0, 60)))) + 1
    )
    got = rank_teachers(scored_of(rows), RSR)
    a, b = got.teachers
    assert a.high > b.value
    assert a.p_best == pytest.approx(got.pairwise[0][1])
    assert a.p_best > 0.9


def test_two_of_which_one_is_the_best_and_how_many_more_prompts_would_tell():
    got = rank_teachers(scored_of(rows_of(5, 200, {"a": 5.0, "b": 5.06, "c": 9.0})), RSR)
    first, second = (t.teacher for t in got.teachers[:2])
    assert {first, second} == {"a", "b"}
    assert got.best == [first, second]
    assert [(t.first_place, t.last_place) for t in got.teachers] == [
        (1, 2),
        (1, 2),
        (3, 3),
    ]
    more = got.more_prompts
    assert got.sentence == (
        f"{first} or {second} is best {LIKE}; about {about(more):,} more prompts "
        f"would probably separate {first} and {second}."
    )
    assert got.pairwise[0][2] == 1
    for i in range(3):
        for j in range(3):
            assert got.pairwise[i][j] + got.pairwise[j][i] == pytest.approx(1)


def said_of(names: list[str], best: list[str], n: int = 40, more: int | None = None) -> str:
    return sentence(names, best, is_matched=True, n_prompts=n, more_prompts=more, confidence=0.95)


def test_the_answer_reads_well_however_many_may_be_best():
    assert (about(47), about(134), about(3195)) == (47, 130, 3200)
    names = list("abcdefgh")
    assert said_of(names, ["a"]) == f"a is best {LIKE}."
    assert said_of(names, ["a", "c"]) == f"a or c is best {LIKE}."
    assert said_of(names, list("abcde")) == f"a, b, c, d or e is best {LIKE}."
    assert (
        said_of(names, list("abcdefg"))
        == f"One of 7 teachers (a, b, c, d, e and 2 more) is best {LIKE}."
    )
    assert said_of(names, names) == (
        f"Any of the 8 teachers may be best {LIKE}; a ranks first on these 40."
    )
    told = "; about 1,200 more prompts would probably separate a and b"
    assert said_of(["a", "b"], ["a", "b"], more=1200) == (
        f"Either of the 2 teachers may be best {LIKE}; a ranks first on these 40{told}."
    )


@pytest.mark.parametrize(
    ("ranks", "prompts", "said"),
    [
        ({"a": 5.0}, 20, "a is the only teacher."),
        ({"a": 5.0, "b": 5.0}, 1, "but 1 prompt is too few for a confidence estimate."),
        (
            {"a": 5.0, "b": 9.0},
            4,
            "a ranks first, but 4 prompts are too few for a confidence estimate.",
        ),
        ({"a": 5.0, "b": 9.0}, 30, f"a is best {LIKE}."),
    ],
)
def test_little_data(ranks, prompts, said):
    got = rank_teachers(scored_of(rows_of(4, prompts, ranks)), RSR)
    assert said in got.sentence
    if prompts < 5:
        assert [(t.low, t.high, t.p_best) for t in got.teachers] == [(None, None, None)] * 2
        assert (got.pairwise, got.best, got.more_prompts) == ([], [], None)
        assert {(t.first_place, t.last_place) for t in got.teachers} == {(None, None)}
        assert sum(t.won for t in got.teachers) == 1
    json.dumps(got.to_json())


def test_equal_teachers_share_everything():
    rows = rows_of(4, 30, {"a": 5.0})
    got = rank_teachers(scored_of(pd.concat([rows, rows.assign(teacher="b")])), RSR)
    assert [(t.p_best, t.won) for t in got.teachers] == [(0.5, 0.5)] * 2
    assert got.pairwise == [[0.5, 0.5], [0.5, 0.5]]
    assert got.sentence == (
        f"Either of the 2 teachers may be best {LIKE}; a ranks first on these 30."
    )
    assert [(t.first_place, t.last_place) for t in got.teachers] == [(1, 2)] * 2


def test_teachers_without_a_prompt_in_common_are_told_so():
    rows = rows_of(4, 30, {"a": 5.0, "b": 6.0, "c": 7.0})
    rows.loc[rows.teacher == "c", "prompt"] += 100
    got = rank_teachers(scored_of(rows), RSR)
    assert not got.matched
    assert "no prompt was answered by all 3 teachers" in got.notes[0]
    assert "30 prompts are shared by a, b: compare only these with --teachers." in got.notes[0]
    assert got.sentence == (
        "a ranks first, but without a confidence estimate, because the teachers answered "
        "different prompts."
    )
    assert [(t.won, t.p_best) for t in got.teachers] == [(None, None)] * 3
    assert (got.pairwise, got.best, got.more_prompts) == ([], [], None)
    some = rank_teachers(scored_of(rows).only(["b", "a"]), RSR)
    assert (some.matched, some.n_prompts) == (True, 30)
    assert rank_teachers(scored_of(rows).only(["a", "a", "b"]), RSR) == some
    with pytest.raises(UserError, match="not in the store"):
        scored_of(rows).only(["a", "x"])
    rows["prompt"] = rows.teacher + rows.prompt.astype(str)
    assert "No two of them share a prompt." in rank_teachers(scored_of(rows), RSR).notes[0]
    with pytest.raises(UserError, match="no direction"):
        rank_teachers(scored_of(rows), REGISTRY["n_tokens"])


def test_an_interval_on_all_prompts_is_as_wide_as_a_teachers_own_prompts_make_it():
    """A teacher that answered 6 of 400 prompts; the number of 400 would make it narrower than of
    the 6 alone.
    """
    rows = rows_of(6, 400, {"a": 5.0, "b": 6.0})
    few = rows[(rows.teacher == "a") | (rows.prompt < 6)]
    alone = rank_teachers(scored_of(few).only(["b"]), RSR).teachers[0]
    ranked = rank_teachers(scored_of(few), RSR).teachers
    beside = next(t for t in ranked if t.teacher == "b").all
    assert beside.n_prompts == 6
    assert beside.high - beside.low >= 0.95 * (alone.high - alone.low)


def test_a_teacher_that_answered_little_is_named_with_what_the_others_share():
    rows = rows_of(6, 50, {"a": 5.0, "b": 6.0, "c": 7.0})
    rows = rows[(rows.teacher != "c") | (rows.prompt < 8)]
    (note,) = rank_teachers(scored_of(rows), RSR).notes
    assert note == (
        "all teachers answered only 16% of the prompts; c answered the fewest: without it the "
        "others share 50, so leave it out with --teachers"
    )


def test_a_metric_whose_higher_values_are_better():
    rows = rows_of(4, 30, {"a": 5.0, "b": 6.0})
    scored = scored_of(rows)
    scored.columns.update(
        n_steps=np.full(60, 5),
        step_surprisal_sum=np.where(scored.teacher == 0, 9.0, 5.0) + np.arange(60) % 7 / 10,
    )
    got = rank_teachers(scored, REGISTRY["local_naturalness"])
    assert [t.teacher for t in got.teachers] == ["b", "a"]
    assert got.teachers[0].value > got.teachers[1].value
    assert got.teachers[0].won == got.teachers[0].p_best == 1
    assert "rank correlation with global naturalness" in got.notes[0]
    scored.columns.update(
        step_surprisal_sum=5 * scored.columns["surprisal_sum"] / scored.columns["n_tokens"]
    )
    assert (
        "collapsed into global naturalness"
        in rank_teachers(scored, REGISTRY["local_naturalness"]).notes[1]
    )


def with_steps(rows: pd.DataFrame, seed: int = 0) -> Scored:
    """Rows with steps, whose local naturalness is not their global one."""
    rng, scored = np.random.default_rng(seed), scored_of(rows)
    steps = rng.integers(2, 30, len(rows))
    scored.columns.update(
        n_steps=steps, step_surprisal_sum=steps * rng.lognormal(1, 0.3, len(rows))
    )
    return scored


@pytest.mark.parametrize("shared", [True, False])
def test_local_beside_global_naturalness_equals_a_table_of_pandas(shared):
    rows = rows_of(7, 20, {"a": 5.0, "b": 6.0, "c": 7.0})
    rows = rows[(rows.teacher != "c") | (rows.prompt < 5)].reset_index(drop=True)
    rows.loc[(rows.teacher == "c") & (not shared), "prompt"] += 100
    scored = with_steps(rows)
    got = naturalness(scored)
    rows = rows.assign(
        near=-scored.columns["step_surprisal_sum"] / scored.columns["n_steps"],
        far=-rows.surprisal_sum / rows.n_tokens,
    )
    if shared:
        rows = rows[rows.prompt < 5]
    want = rows.groupby("teacher")[["near", "far"]].mean().sort_values("near", ascending=False)
    assert (got.matched, got.n_prompts) == (shared, rows.prompt.nunique())
    assert [t.teacher for t in got.teachers] == want.index.tolist()
    assert [t.local for t in got.teachers] == pytest.approx(want.near.tolist())
    assert [t.global_ for t in got.teachers] == pytest.approx(want.far.tolist())
    assert [t.local for t in got.teachers] == [
        t.value for t in rank_teachers(scored, REGISTRY["local_naturalness"]).teachers
    ]
    json.dumps(got.to_json())


def test_what_is_said_of_local_naturalness():
    scored = with_steps(rows_of(7, 20, {"a": 5.0, "b": 6.0}))
    (said,) = naturalness(scored).notes
    near, far = (
        -scored.columns["step_surprisal_sum"] / scored.columns["n_steps"],
        -scored.columns["surprisal_sum"] / scored.columns["n_tokens"],
    )
    assert (
        f"over 40 trajectories {stats.spearmanr(near, far).statistic:.3f}; median number of steps"
        in said
    )
    assert said == rank_teachers(scored, REGISTRY["local_naturalness"]).notes[0]
    few = with_steps(rows_of(7, 1, {"a": 5.0, "b": 6.0}))
    (said,) = naturalness(few).notes
    assert said.startswith("local naturalness: median number of steps ")
    assert "nan" not in said
    scored.columns["step_surprisal_sum"][3] = np.nan  # a context that did not fit
    got = naturalness(scored)
    assert not got.teachers
    assert "over 39 trajectories" in got.notes[0]
    assert got.notes[1].startswith("no local naturalness for 1 of the trajectories")


def test_rows_of_a_store_count_once_and_rejects_do_not(tmp_path):
    store = Store(str(tmp_path), "s", None)

    def row(i, teacher="T", **changes):
        number = {"n_tokens": 10, "rank_sum": 20 + i, "surprisal_sum": 10.0}
        return (
            {
                "trajectory_id": f"t{i}",
                "teacher": teacher,
                "prompt_id": f"p{i % 3}",
                "source": "s",
                "source_row": i,
                "fingerprint": "f",
            }
            | number
            | changes
        )

    units = [
        [row(0), row(1), row(2, reject_reason="not_text", n_tokens=None)],
        [row(3), row(1, source_row=9, rank_sum=99), row(4, teacher="U")],
    ]
    for n, rows in enumerate(units):
        facts = {
            "key": ["0" * 16],
            "version": ["a" * 12],
            "start": [3 * n],
            "stop": [3 * n + 3],
            "last": [False],
        }
        store.write_unit(
            pa.table({**facts, "rows": pa.array([rows], pa.list_(pa.struct(list(SCORES))))}), "f"
        )
    with pytest.raises(
        UserError,
        match="2 work units of student s, but teachers/student=s.parquet is missing",
    ):
        load_scored(store, [RSR])
    store.write_teachers(
        pa.Table.from_pylist([{"teacher": "T", "fingerprint": "f"}], schema=TEACHERS), []
    )
    scored = load_scored(store, [RSR])
    assert (scored.teachers, scored.prompts.to_pylist()) == (["T", "U"], ["p0", "p1"])
    assert scored.columns["rank_sum"].tolist() == [20, 21, 23, 24]
    assert scored.teacher.tolist() == [0, 0, 0, 1]
    with pytest.raises(UserError, match="score them with --metrics local_naturalness"):
        load_scored(store, [REGISTRY["local_naturalness"]]).matrices(REGISTRY["local_naturalness"])


def test_a_store_whose_units_were_all_deleted_has_no_scores(tmp_path, capsys):
    Store(str(tmp_path), "s", None).write_teachers(
        pa.Table.from_pylist([{"teacher": "T", "fingerprint": "f"}], schema=TEACHERS), []
    )
    for command in ("teachers", "rescore"):
        assert main([command, "--store", str(tmp_path), "--student", "s"]) == 2
        assert (
            capsys.readouterr().err
            == f"rsr-ray: store {tmp_path}: no scores of student s: run rsr-ray score\n"
        )


def coverage(x: np.ndarray, y: np.ndarray, n: int, repetitions: int, rng) -> float:
    """Share of intervals, from n prompts drawn with replacement, that hold the value of all."""
    full = x.mean(0) / y.mean(0)
    hits = []
    for _ in range(repetitions):
        drawn = rng.integers(len(x), size=n)
        found = interval(*influence(x[drawn], y[drawn]))
        hits.append((found.low <= full) & (full <= found.high))
    return float(np.mean(hits))


@pytest.mark.simulation
@needs_shared
@pytest.mark.parametrize(("corpus", "n"), [("math", 25), ("math", 100), ("puzzles", 25)])
def test_intervals_hold_the_value_as_often_as_they_say(corpus, n, capsys):
    """On the real traces, 400 repetitions x 6 teachers.

    `-s` prints the figures that the README states.
    """
    rows = pd.read_csv(SHARED / "golden" / "tiny-qwen3.trajectories.csv").query("corpus == @corpus")
    prompts = prompt_ids()
    rows["prompt"] = rows.sample_id.map(prompts)
    x, y = (
        rows.pivot_table(index="prompt", columns="teacher", values=name).dropna().to_numpy()
        for name in ("avg_rank_clip", "avg_surprisal")
    )
    share = coverage(x, y, n, 400, np.random.default_rng(n))
    with capsys.disabled():
        print(
            f"\n{corpus}: intervals of {n} of {len(x)} prompts hold the value of all in "
            f"{share:.1%} of 400 x {x.shape[1]}"
        )
    assert 0.92 <= share <= 0.98


def prompt_ids() -> dict[str, str]:
    """prompt_id by id, of the real corpus."""
    from rsr_ray.corpus.rows import iter_rows
    from rsr_ray.files.objects import InputObject

    shards = (SHARED / "corpus").glob("*/teacher=*/*")
    return {
        row["id"]: row["prompt_id"]
        for path in shards
        for row in iter_rows(InputObject(uri=str(path), version="", size=0), None, {})
    }
