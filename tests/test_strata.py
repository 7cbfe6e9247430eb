"""Strata: what is kept of rows at scoring, and teachers within strata and over them, against
pandas, brute force and simulation.
"""

import dataclasses
import datetime
import io
import itertools
import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from rsr_ray.cli import main
from rsr_ray.config.answers import TeachersConfig, weights_of
from rsr_ray.config.score import ScoreConfig
from rsr_ray.corpus.first_rows import check_readable
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.shards import list_corpus
from rsr_ray.corpus.units import iter_units
from rsr_ray.decide import stratified
from rsr_ray.decide.inference import (
    GROUPS,
    chances,
    influence,
    interval,
    interval_of,
    place_bounds,
    resamples,
)
from rsr_ray.decide.loading import load_scored
from rsr_ray.decide.matrices import Matrices
from rsr_ray.decide.orders import OrderChange
from rsr_ray.decide.overall import Overall, OverallPlace
from rsr_ray.decide.scored import Scored
from rsr_ray.decide.strata_ranking import StrataRanking, StratumRanking, rank_strata
from rsr_ray.decide.stratified import Stratified, bonferroni
from rsr_ray.errors import UserError
from rsr_ray.metrics import REGISTRY, RSR
from rsr_ray.report.terminal.strata import print_strata
from rsr_ray.run.rescore import CARRIED
from rsr_ray.store.store import Store
from rsr_ray.student.facts import inspect_student

from .browser.stores import rows_of as store_rows
from .browser.stores import write_store
from .conftest import DEMO_STUDENT, REPOSITORY, SHARED, few, needs_shared
from .simulate import count_strata
from .test_rank import FOUR, rows_of, scored_of

TURNS = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]


# --- at scoring -----------------------------------------------------------------------------------


def kept(folder, rows: list[dict], strata: tuple[str, ...], name: str = "part.jsonl") -> list[dict]:
    """READ_ROWS values of a shard of these rows, as the next stage has them."""
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (obj,) = list_corpus((str(path),), None)
    (unit,) = iter_units(obj, None, 100, [], Reading(teacher="t", strata=strata))
    return unit["rows"].to_pylist(maps_as_pydicts="strict")[0]


@pytest.mark.parametrize("name", ["part.jsonl", "part.parquet"])
def test_values_of_columns_and_paths_are_kept_as_text(tmp_path, name):
    rows = [
        {"messages": TURNS, "source": "math", "meta": {"domain": "a b", "level": 5}, "n": 1.0},
        {"messages": TURNS, "source": None, "meta": {"domain": "", "level": None}, "n": 2.5},
    ]
    strata = ("meta.domain", "meta.level", "n", "source", "tags")
    first, second = (row["strata"] for row in kept(tmp_path, rows, strata, name))
    nothing = dict.fromkeys(strata)
    assert first == nothing | {"meta.domain": "a b", "meta.level": "5", "n": "1", "source": "math"}
    assert second == nothing | {"n": "2.5"}
    assert [row["strata"] for row in kept(tmp_path, rows, (), name)] == [None, None]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (10**20, "1" + "0" * 20),
        (math.nan, None),
        (datetime.datetime(2026, 11, 26, 17, 5), "2026-11-26T17:05:00"),
        (datetime.date(2026, 11, 26), "2026-11-26"),
        (b"code", "code"),
        (np.float32(3), "3"),
        (np.bool_(True), "true"),
    ],
)
def test_each_type_has_one_text(value, text):
    from rsr_ray.corpus.strata import strata_of

    assert strata_of({"s": value}, ("s",)) == {"s": text}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["a", "b"], "s holds a list: name one of its values: s.0"),
        ({"a": 1}, "s holds a mapping: name one of its values: s.KEY"),
        (1e300, "s: 1e+300 is a float too large to stand for one whole number"),
    ],
)
def test_a_value_that_is_no_single_one_rejects_its_row(tmp_path, value, said):
    bad, good = kept(tmp_path, [{"messages": TURNS, "s": v} for v in (value, "a")], ("s",))
    assert bad["reject_reason"] == "stratum"
    assert bad["reject_detail"].startswith(said)
    assert (bad["strata"], bad["messages"]) == (None, None)
    assert (good["reject_reason"], good["strata"]) == (None, {"s": "a"})


def test_a_column_that_is_nowhere_is_refused_before_anything_is_scored(tmp_path):
    (tmp_path / "part.jsonl").write_text(json.dumps({"messages": TURNS, "source": "math"}))
    objects = list_corpus((str(tmp_path),), None)
    assert check_readable(objects, None, {}, ("source",)) == "messages"
    with pytest.raises(
        UserError, match="^--stratum sorce: none of the first rows has .* you mean source"
    ):
        check_readable(objects, None, {}, ("source", "sorce"))


def test_the_setting_is_in_the_fingerprint():
    student = inspect_student(str(DEMO_STUDENT), False)
    config = ScoreConfig(corpus=("c",), student="s", store="st")

    def fingerprint(**changes):
        return dataclasses.replace(config, **changes).fingerprint(student, "float32", 100)

    plain, one = fingerprint(), fingerprint(stratum=("source",))
    both = fingerprint(stratum=("source", "meta.domain"))
    assert len({plain, one, both}) == 3
    assert both == fingerprint(stratum=("meta.domain", "source", "source"))
    assert Reading(strata=("source",)).label == Reading().label == ""


def test_scores_rescored_and_raced_keep_them():
    """What is made of score rows, and the shards of a race's rounds."""
    from rsr_ray.race.round_shards import _shard_row

    assert "strata" in CARRIED
    found = dict.fromkeys(("prompt_id", "sample", "complete", "messages", "tools", "images"))
    found |= {"teacher": "t", "strata": {"meta.domain": "a", "teacher": "x", "n": None}}
    row = _shard_row(found, "id")
    assert (row["meta.domain"], row["teacher"], row["n"]) == ("a", "t", None)


# --- rankings against pandas ----------------------------------------------------------------------


def in_strata(rows: pd.DataFrame) -> Scored:
    """Trajectories of rows that also have `stratum`, text or None."""
    scored = scored_of(rows)
    of_rows = pa.array(rows.stratum.where(rows.stratum.notna(), None), pa.string())
    return dataclasses.replace(scored, stratum=of_rows)


def with_strata(rows: pd.DataFrame, n: int, *, missing: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Prompts by turns in n strata, s0 ...; those of some prompts are not known."""
    rng = np.random.default_rng(seed)
    unknown = set(rng.permutation(rows.prompt.unique())[: int(missing * rows.prompt.nunique())])
    names = [None if p in unknown else f"s{p % n}" for p in rows.prompt]
    return rows.assign(stratum=pd.Series(names, index=rows.index, dtype=object))


def brute_force(rows: pd.DataFrame) -> pd.DataFrame:
    """Values and prompts of teachers by stratum, on the prompts that its teachers all answered."""
    rows = rows[rows.stratum.notna()]
    rows = rows.assign(x=rows.rank_sum / rows.n_tokens, y=rows.surprisal_sum / rows.n_tokens)
    found = []
    for stratum, own in rows.groupby("stratum"):
        each = own.groupby(["prompt", "teacher"])[["x", "y"]].mean().unstack().dropna()
        if len(each):
            values = each["x"].mean() / each["y"].mean()
        else:
            values = own.groupby("teacher").x.mean() / own.groupby("teacher").y.mean()
        for place, (teacher, value) in enumerate(values.sort_values().items(), 1):
            found.append((stratum, teacher, place, value, len(each) or own.prompt.nunique()))
    return pd.DataFrame(found, columns=["stratum", "teacher", "place", "value", "n_prompts"])


def table_of(found: StrataRanking) -> pd.DataFrame:
    rows = [
        (one.stratum, t.teacher, t.place, t.value, one.ranking.n_prompts)
        for one in found.strata
        for t in one.ranking.teachers
    ]
    return pd.DataFrame(rows, columns=["stratum", "teacher", "place", "value", "n_prompts"])


@settings(max_examples=few(100, 8))
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 4),
    missing=st.sampled_from([0.0, 0.2]),
    samples=st.integers(1, 3),
)
def test_rankings_are_those_of_a_table_of_pandas(seed, n, missing, samples):
    rows = rows_of(seed, 20, FOUR, missing=missing, samples=samples)
    rows = with_strata(rows, n, missing=missing, seed=seed)
    weights = dict(zip([f"s{i}" for i in range(n)], [3.0, 1.0, 0.0, 2.0], strict=False))
    table = brute_force(rows)
    found = rank_strata(in_strata(rows), RSR, "source", weights=weights)
    pd.testing.assert_frame_equal(table_of(found), table)
    assert found.n_without == rows.stratum.isna().sum()
    assert found.n_trajectories == rows.stratum.notna().sum()
    wide = table.pivot(index="teacher", columns="stratum", values="value")
    wide = wide[[name for name in wide if weights[name]]].dropna()
    shares = pd.Series({name: weights[name] for name in wide})
    over_all = (wide * (shares / shares.sum())).sum(axis=1).sort_values()
    assert [t.teacher for t in found.overall.teachers] == over_all.index.tolist()
    assert [t.value for t in found.overall.teachers] == pytest.approx(over_all.tolist())
    assert (
        found.overall.n_prompts
        == table[table.stratum.isin(wide)].groupby("stratum").first().n_prompts.sum()
    )


@settings(max_examples=few(100, 8))
@given(seed=st.integers(0, 10_000), n=st.integers(2, 4))
def test_orders_are_those_of_their_definitions(seed, n):
    """Tau-b from signs of pairs, changes from all pairs of teachers and strata."""
    rows = with_strata(rows_of(seed, 20, FOUR | {"e": 6.02}), n)
    found = rank_strata(in_strata(rows), RSR, "source")
    wide = brute_force(rows).pivot(index="teacher", columns="stratum", values="value")
    names, teachers = list(wide), list(wide.index)
    pairs = list(itertools.combinations(teachers, 2))
    for i, j in itertools.product(range(n), repeat=2):
        signs = [[np.sign(wide[s][a] - wide[s][b]) for a, b in pairs] for s in (names[i], names[j])]
        assert found.tau_b[i][j] == pytest.approx(np.mean(np.prod(signs, axis=0)))
    better = {
        (a, b): [s for s in names if wide[s][a] < wide[s][b]]
        for a, b in itertools.permutations(teachers, 2)
    }
    expected = {
        pair: (better[pair], better[pair[::-1]])
        for pair in pairs
        if better[pair] and better[pair[::-1]]
    }
    assert {(c.a, c.b): (c.a_better, c.b_better) for c in found.changes} == expected
    for change in found.changes:
        assert {*change.a_surely} <= {*change.a_better}
        assert change.more_than_noise == bool(change.a_surely and change.b_surely)


def real_rows() -> pd.DataFrame:
    """The real corpus as scoring reads it, with the published script's scores of its rows."""
    reading, read = Reading(strata=("source",)), []
    for obj in list_corpus((str(SHARED / "corpus"),), None):
        for unit in iter_units(obj, None, 1000, [], reading):
            read += unit["rows"].to_pylist(maps_as_pydicts="strict")[0]
    rows = pd.DataFrame(read)[["trajectory_id", "teacher", "prompt_id", "strata"]]
    golden = pd.read_csv(SHARED / "golden" / "tiny-qwen3.trajectories.csv")
    rows = rows.merge(
        golden, left_on=["teacher", "trajectory_id"], right_on=["teacher", "sample_id"]
    )
    return rows.assign(
        prompt=rows.prompt_id,
        stratum=rows.strata.map(lambda strata: strata["source"]),
        n_tokens=rows.resp_token_length,
        rank_sum=rows.avg_rank_clip * rows.resp_token_length,
        surprisal_sum=rows.avg_surprisal * rows.resp_token_length,
    )


@needs_shared
def test_sources_with_different_teachers_are_never_pooled():
    """The real corpus: no teacher is in both of its sources."""
    rows = real_rows()
    assert len(rows) > 800
    found = rank_strata(in_strata(rows), RSR, "source")
    pd.testing.assert_frame_equal(table_of(found), brute_force(rows))
    assert [len(one.ranking.teachers) for one in found.strata] == [6, 6]
    assert all(one.ranking.matched for one in found.strata)
    assert (found.overall, found.changes) == (None, [])
    assert found.sentence == (
        "No two teachers share two strata of source, so there are no orders to compare."
    )
    assert found.notes[-1].startswith("no teacher appears in every stratum, so there is no")


# --- what is said ---------------------------------------------------------------------------------


def planted(flip: bool, n: int = 40, n_strata: int = 2) -> Scored:
    """Teachers a, b, c, in which a is better than b; where they flip, b than a in stratum s1."""
    rows = with_strata(rows_of(1, n, {"a": 5.0, "b": 6.5, "c": 9.0}), n_strata)
    if flip:
        names = {"a": "b", "b": "a"}
        turned = rows.stratum == "s1"
        rows.loc[turned, "teacher"] = rows.teacher[turned].replace(names)
    return in_strata(rows)


def test_an_order_that_flips_by_stratum_is_reported_so():
    found = rank_strata(planted(flip=True), RSR, "source")
    (change,) = (c for c in found.changes if c.more_than_noise)
    assert (change.a, change.b, change.a_surely, change.b_surely) == ("a", "b", ["s0"], ["s1"])
    assert found.sentence == (
        "The order of teachers depends on source: a is better than b in s0 and worse in s1, by "
        "more than noise (95%)."
    )
    firsts = [one.ranking.teachers[0].teacher for one in found.strata]
    assert firsts == ["a", "b"]
    assert found.tau_b[0][1] == pytest.approx(1 / 3)
    assert found.overall.sentence == (
        "Over 2 strata of source with equal weights: a or b is best on prompts like these "
        "(95% confidence)."
    )


def test_weights_decide_what_is_first_over_all():
    scored = planted(flip=True)
    for s0, first in ((9, "a"), (1, "b")):
        found = rank_strata(scored, RSR, "source", weights={"s0": s0, "s1": 10 - s0})
        assert found.overall.best == [first]
        assert found.overall.sentence == (
            f"Over 2 strata of source with the given weights: {first} is best on prompts like "
            f"these (95% confidence)."
        )
        assert [one.weight for one in found.strata] == pytest.approx([s0 / 10, 1 - s0 / 10])


def test_an_order_that_does_not_flip_is_not_said_to():
    found = rank_strata(planted(flip=False), RSR, "source")
    assert not any(change.more_than_noise for change in found.changes)
    assert found.sentence == "No two teachers change order between strata of source."
    assert found.overall.best == ["a"]


def test_what_is_left_out_is_said():
    rows = with_strata(rows_of(1, 40, {"a": 5.0, "b": 6.5, "c": 9.0}), 2, missing=0.1)
    rows = rows[(rows.teacher != "c") | (rows.stratum != "s0")]
    found = rank_strata(in_strata(rows), RSR, "source")
    n = rows.stratum.isna().sum()
    assert found.notes == [
        f"{n} trajectories have no value in source and belong to no stratum",
        "the ranking over all strata leaves out c, missing from some stratum",
    ]
    assert found.overall.left_out == ["c"]
    assert found.teachers == ["a", "b", "c"]
    alone = rank_strata(in_strata(rows[(rows.stratum == "s0") == (rows.teacher == "a")]), RSR, "s")
    assert alone.overall is None
    assert (
        alone.sentence
        == "No two teachers share two strata of s, so there are no orders to compare."
    )
    assert alone.notes[-1] == (
        "no teacher appears in every stratum, so there is no ranking over all strata: s0 has a; "
        "s1 has b and c"
    )


@pytest.mark.parametrize("case", ["few", "several", "unmatched"])
def test_nothing_is_said_of_certainty_where_nothing_is_known(case):
    rows = with_strata(rows_of(1, 40, {"a": 5.0, "b": 9.0}), 2)
    if case == "few":
        rows = rows[(rows.stratum == "s0") | (rows.prompt < 8)]
        why = "s1 has 4 prompts that all of its teachers share"
    elif case == "several":
        rows.loc[(rows.prompt == 3) & (rows.teacher == "a"), "stratum"] = "s0"
        rows = pd.concat([rows, rows[rows.prompt == 3].assign(stratum="s1")])
        why = "1 prompt has answers in several strata"
    else:
        rows = rows[(rows.stratum == "s0") | ((rows.teacher == "a") == (rows.prompt < 20))]
        why = "no prompt of s1 was answered by all of its teachers"
    found = rank_strata(in_strata(rows), RSR, "source")
    assert found.overall.sentence == (
        f"Over 2 strata of source with equal weights, a ranks first, but without a confidence "
        f"estimate: {why}."
    )
    assert found.overall.best == []
    for t in found.overall.teachers:
        assert (t.low, t.high, t.first_place, t.p_best) == (None,) * 4
        assert t.value is not None


KEYS = {
    StrataRanking: "by metric better confidence draws seed equal_weights n_trajectories n_without "
    "strata overall tau_b changes notes sentence",
    StratumRanking: "stratum weight ranking",
    Overall: "n_strata n_prompts teachers best left_out sentence",
    OverallPlace: "teacher place value low high first_place last_place p_best",
    OrderChange: "a b a_better b_better a_surely b_surely more_than_noise",
}


def test_the_keys_of_strata_are_their_documented_fields_in_their_order():
    given = json.loads(
        json.dumps(rank_strata(planted(flip=True), RSR, "s").to_json(), allow_nan=False)
    )
    parts = {
        StrataRanking: given,
        StratumRanking: given["strata"][0],
        Overall: given["overall"],
        OverallPlace: given["overall"]["teachers"][0],
        OrderChange: given["changes"][0],
    }
    for kind, found in parts.items():
        assert list(found) == KEYS[kind].split() == [f.name for f in dataclasses.fields(kind)]
    one = rank_strata(planted(flip=True), RSR, "s").strata[0].ranking
    assert given["strata"][0]["ranking"] == json.loads(json.dumps(one.to_json()))


# --- certainty ------------------------------------------------------------------------------------


def matrices_of(seed: int, sizes: list[int], n_teachers: int = 3) -> list[Matrices]:
    rng = np.random.default_rng(seed)
    found = []
    for n in sizes:
        x = rng.lognormal(0, 0.5, (n, n_teachers)) * (1 + 0.1 * np.arange(n_teachers))
        found.append(Matrices(x, rng.lognormal(0, 0.2, (n, n_teachers)), np.ones_like(x)))
    return found


@pytest.mark.parametrize("n", [5, 30, 700])
def test_one_stratum_is_what_is_said_without_strata(n):
    """But for the bias, and ends as far away as Student's; of many prompts other groups are
    drawn.
    """
    (one,) = matrices_of(n, [n])
    found = Stratified.of([one], [1.0])
    values, each = influence(one.x, one.y)
    assert found.values == pytest.approx(values)
    expected, got = interval(values, each), found.interval(0.95, 0)
    assert got.error == pytest.approx(expected.error)
    near = 1e-4 if n <= GROUPS else 0.05
    reach = stats.t.ppf(0.975, n - 1) * expected.error
    least = near * got.error.max()
    low, high = np.minimum(expected.low, values - reach), np.maximum(expected.high, values + reach)
    assert got.low + found.bias == pytest.approx(low, abs=least)
    assert got.high + found.bias == pytest.approx(high, abs=least)
    unbiased = dataclasses.replace(found, bias=0 * found.bias)
    places = place_bounds(values, each)
    assert unbiased.places(0.95, 0).critical == pytest.approx(places.critical, rel=near)
    assert (unbiased.places(0.95, 0).before == places.before).all()
    assert unbiased.chances(0).best == pytest.approx(chances(values, each).best)


def test_the_bias_is_what_the_means_of_many_samples_show():
    """Of a ratio of means of six prompts, over 160,000 samples, whose true one is known."""
    rng = np.random.default_rng(8)
    x = rng.lognormal(0, 0.5, (6, 160_000))
    y = x**0.4 * rng.lognormal(0, 0.2, x.shape)
    ratios, each = influence(x, y)
    truth = math.exp(0.5**2 / 2) / math.exp((0.4 * 0.5) ** 2 / 2 + 0.2**2 / 2)
    bias = ratios.mean() - truth
    assert abs(bias) > 5 * ratios.std() / math.sqrt(ratios.size)
    assert stratified._bias(each, y).mean() == pytest.approx(bias, rel=0.25)


def test_an_interval_over_strata_is_that_of_all_possible_draws():
    """All 27 draws of one stratum with all 27 of the other, each studentised by hand."""
    a, b = matrices_of(5, [3, 3], 1)
    weights = np.array([0.25, 0.75])
    found = Stratified.of([a, b], weights.tolist())
    each = [influence(m.x, m.y)[1][:, 0] for m in (a, b)]
    draws = np.array(list(itertools.product(range(3), repeat=3)))
    t = []
    for one, other in itertools.product(draws, draws):
        drawn = [each[0][one], each[1][other]]
        mean = sum(w * d.mean() for w, d in zip(weights, drawn, strict=True))
        variance = sum(w**2 * d.var(ddof=1) / 3 for w, d in zip(weights, drawn, strict=True))
        if variance > 1e-12:
            t.append(mean / math.sqrt(variance))
        else:
            t.append(0.0 if abs(mean) < 1e-9 else math.copysign(math.inf, mean))
    error = math.sqrt(sum(w**2 * e.var(ddof=1) / 3 for w, e in zip(weights, each, strict=True)))
    got = found.interval(0.8, 0)
    assert got.error[0] == pytest.approx(error)
    centre = found.values[0] - found.bias[0]
    low, high = (centre - tail * error for tail in np.quantile(t, [0.9, 0.1]))
    assert (got.low[0], got.high[0]) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_an_interval_over_strata_reaches_as_far_as_welchs():
    found = Stratified.of(matrices_of(6, [6, 11]), [0.5, 0.5])
    variances = [part.var(axis=0, ddof=1) * len(part) for part in found.parts]
    error = np.sqrt(sum(variances))
    few = sum(v**2 / (len(part) - 1) for v, part in zip(variances, found.parts, strict=True))
    reach = stats.t.ppf(0.975, error**4 / few) * error
    centre, got = found.values - found.bias, found.interval(0.95, 0)
    drawn = interval_of(centre, error, stratified._studentised(found.parts, 0), 0.95)
    assert got.low == pytest.approx(np.minimum(drawn.low, centre - reach))
    assert got.high == pytest.approx(np.maximum(drawn.high, centre + reach))
    assert (drawn.low > centre - reach).any(), "otherwise nothing is tested"


def test_degrees_of_freedom_are_those_of_welch():
    """Two teachers in two strata of one weight: as in Welch's test of the two differences."""
    a, b = matrices_of(6, [6, 11], 2)
    found = Stratified.of([a, b], [0.5, 0.5])
    d = [np.diff(part, axis=1)[:, 0] for part in found.parts]
    v = [len(one) / (len(one) - 1) * (one**2).sum() for one in d]
    freedom = sum(v) ** 2 / sum(x**2 / (len(y) - 1) for x, y in zip(v, d, strict=True))
    said = []

    def caught(values, noise, covariance, freedom, rng, n_draws=0):
        said.append((noise, freedom))
        return "chances"

    stratified.chances_of, original = caught, stratified.chances_of
    try:
        found.chances(0)
    finally:
        stratified.chances_of = original
    assert said[0] == pytest.approx((sum(v) / 2, freedom))


def test_strata_of_one_size_are_drawn_apart(monkeypatch):
    """With the same draws for all of them prompts of one number would come together, and the
    spread of t would be wrong where they are alike.
    """
    (one,) = matrices_of(7, [12])
    alike = Stratified.of([one] * 4, [0.25] * 4)
    fair = alike.interval(0.95, 0)
    each = resamples(12, 0)
    monkeypatch.setattr(stratified, "resamples", lambda *_: each)
    shared = alike.interval(0.95, 0)
    assert ((shared.high - shared.low) > 1.5 * (fair.high - fair.low)).all()


@pytest.mark.simulation
def test_what_is_said_over_strata_is_right_as_often_as_it_says():
    for first in (0.0, 0.8):
        counts = count_strata(5, 12, "measured", first, few(400, 60))
        n = counts.reports
        tolerance = 3 * math.sqrt(0.05 * 0.95 / n)
        assert counts.wrong_places / n < 0.05 + tolerance
        assert counts.wrong_changes / n < 0.05 + tolerance
        assert (counts.below + counts.above) / counts.values < 0.06 + tolerance


@pytest.mark.simulation
def test_without_bonferroni_false_changes_are_found(monkeypatch):
    """The fault that the simulation is there to find."""
    from rsr_ray.decide import orders

    monkeypatch.setattr(orders, "bonferroni", lambda confidence, _: confidence)
    counts = count_strata(12, 12, "measured", 0.0, few(400, 60))
    assert counts.wrong_changes / counts.reports > 0.05


def test_bonferroni():
    assert bonferroni(0.95, 1) == pytest.approx(0.95)
    assert bonferroni(0.95, 5) == pytest.approx(0.99)
    assert bonferroni(0.95, 0) == pytest.approx(0.95)


# --- the command ----------------------------------------------------------------------------------


def a_store(folder, n_teachers: int, n_strata: int, kept: bool = True) -> Store:
    rows = store_rows([f"teacher-{t:02d}" for t in range(n_teachers)], n_prompts=6 * n_strata)
    number = rows.prompt_id.str[1:].astype(int) % n_strata
    if kept:
        rows["strata"] = [{"domain": f"domain-{n}", "level": None} for n in number]
    return write_store(folder, rows)


def test_the_command_says_what_the_store_says(tmp_path, capsys):
    a_store(tmp_path, 3, 2)
    command = ["teachers", "--store", str(tmp_path), "--student", "small-student"]
    assert main([*command, "--by-stratum", "domain", "--json"]) == 0
    given = json.loads(capsys.readouterr().out)
    scored = load_scored(Store(str(tmp_path), "small-student"), [RSR], stratum="domain")
    assert given["strata"] == json.loads(json.dumps(rank_strata(scored, RSR, "domain").to_json()))
    assert given["metric"] == "rsr"
    weights = ["--stratum-weights", "domain-0=1,domain-1=3"]
    assert main([*command, "--by-stratum", "domain", *weights]) == 0
    out = capsys.readouterr().out
    assert "Over 2 strata of domain with the given weights" in out
    assert "domain-0" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--by-stratum", "source"],
            "--by-stratum source: the store was scored without it, and with domain, level: score "
            "again with --stratum source domain level --new-generation",
        ),
        (
            ["--by-stratum", "level"],
            "--by-stratum level: no scored row has a value in this column",
        ),
        (["--stratum-weights", "a=1"], "--stratum-weights requires --by-stratum"),
        (
            ["--by-stratum", "domain", "--stratum-weights", "domain-0=1"],
            "--stratum-weights: domain also has domain-1; give each a weight (0 leaves it out of "
            "the overall ranking)",
        ),
        (
            ["--by-stratum", "domain", "--stratum-weights", "x=1"],
            "--stratum-weights x: no such value in domain; values: domain-0, domain-1",
        ),
        (
            ["--by-stratum", "domain", "--stratum-weights", "domain-0=0,domain-1=0"],
            "--stratum-weights: must not be negative, and at least one must be above 0",
        ),
        (
            ["--by-stratum", "domain", "--stratum-weights", "domain-0"],
            "--stratum-weights domain-0: give NAME=WEIGHT, such as math=2,code=1",
        ),
        (
            ["--by-stratum", "domain", "--stratum-weights", "domain-0=-1"],
            "--stratum-weights domain-0=-1: give a number, 0 or more",
        ),
    ],
)
def test_what_cannot_be_ranked_is_refused_in_one_line(tmp_path, capsys, options, said):
    a_store(tmp_path, 3, 2)
    command = ["teachers", "--store", str(tmp_path), "--student", "small-student"]
    assert main([*command, *options]) == 2
    assert capsys.readouterr().err == f"rsr-ray: {said}\n"


def test_a_store_scored_without_strata_says_what_to_do(tmp_path):
    store = a_store(tmp_path, 3, 2, kept=False)
    with pytest.raises(UserError) as refused:
        load_scored(store, [RSR], stratum="domain")
    assert str(refused.value) == (
        "--by-stratum domain: the store was scored without --stratum: score again with --stratum "
        "domain --new-generation"
    )


def test_a_store_of_an_earlier_version_is_read_without_them():
    store = Store(str(REPOSITORY / "tests" / "golden" / "version_2" / "store"), "s")
    assert load_scored(store, [RSR]).teachers
    with pytest.raises(UserError, match="was scored without --stratum: score again with"):
        load_scored(store, [RSR], stratum="source")


def test_a_column_of_too_many_values_is_refused():
    rows = rows_of(1, 101, {"a": 5.0, "b": 6.0})
    scored = in_strata(rows.assign(stratum=[f"s{p}" for p in rows.prompt]))
    with pytest.raises(UserError, match=r"--by-stratum id: has 101 values \(e\.g\. 's0'\); use"):
        rank_strata(scored, RSR, "id")


def test_weights_of_names_with_commas_and_signs():
    given = ("a,b=2,c=d=0.5", "e f=1e2")
    config = TeachersConfig(store="s", student="t", by_stratum="x", stratum_weights=given)
    assert weights_of(config) == {"a,b": 2.0, "c=d": 0.5, "e f": 100.0}


def test_any_metric_can_be_ranked_by():
    """Also by one of which higher is better, and values are negative."""
    metric = dataclasses.replace(
        REGISTRY["mean_surprisal"], name="likelihood", better="higher", sign=-1
    )
    scored = in_strata(with_strata(rows_of(1, 40, FOUR), 2))
    found = rank_strata(scored, metric, "source")
    values = [t.value for t in found.overall.teachers]
    assert values == sorted(values, reverse=True)
    assert all(t.low <= t.value <= t.high for t in found.overall.teachers)


@pytest.fixture(scope="module", params=[(4, 5), (40, 12)], ids=lambda shape: f"{shape}")
def ranked(request, tmp_path_factory) -> StrataRanking:
    store = a_store(tmp_path_factory.mktemp("strata"), *request.param)
    return rank_strata(load_scored(store, [RSR], stratum="domain"), RSR, "domain")


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_every_teacher_in_every_stratum(ranked, width):
    out = io.StringIO()
    print_strata(ranked, "s", Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    cells = {name: [] for name in ranked.teachers}
    for words in map(str.split, lines):
        if words and words[0] in cells:
            cells[words[0]] += [word.strip("#*") for word in words[1:]]
    for name, shown in cells.items():
        places = [
            str(next(t.place for t in one.ranking.teachers if t.teacher == name))
            for one in ranked.strata
        ]
        assert [word for word in shown if "." not in word] == places
    text = " ".join(out.getvalue().split())
    for one in ranked.strata:
        assert one.stratum in text
    assert ranked.sentence in text
    assert ranked.overall.sentence in text
