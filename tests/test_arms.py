"""Arms against enumeration and brute force: quotas, tokens, prompts, overlap, and what is said of
arms that cannot be.
"""

import dataclasses
import itertools
import re

import numpy as np
import pyarrow as pa
import pytest

from rsr_ray.arms import flow
from rsr_ray.arms import pool as pools
from rsr_ray.arms.blocks import blocks_of, natural, solve_in_blocks
from rsr_ray.arms.flow import demand, fits, served
from rsr_ray.arms.manifest import describe_arms, in_common
from rsr_ray.arms.partitions import named_rows, offer, sums_of_arms, take
from rsr_ray.arms.pool import Request, places
from rsr_ray.arms.problem import Pool, Wanted, solve
from rsr_ray.arms.solve import aimed, solve_request
from rsr_ray.choose.columns import CANDIDATES
from rsr_ray.choose.files import without_summary
from rsr_ray.choose.offers import Offers
from rsr_ray.choose.prompts import mark_copies
from rsr_ray.choose.ranked import RankedCandidates
from rsr_ray.choose.summary import SetSums
from rsr_ray.config.arms import ARMS, ArmsConfig
from rsr_ray.errors import UserError

from .conftest import few


def config(**changes) -> ArmsConfig:
    given = {"store": "s", "student": "m", "out": "o", "per_teacher": 2}
    if "quotas" in changes:
        del given["per_teacher"]
    return ArmsConfig(**(given | changes))


def planted(
    n_prompts: int = 40, n_teachers: int = 3, samples: int = 1, seed: int = 0
) -> RankedCandidates:
    """Candidates whose rsr falls with their length, as in real corpora: arms by rsr differ in
    tokens unless they are matched.
    """
    rng = np.random.default_rng(seed)
    n = n_prompts * n_teachers * samples
    prompt, teacher, sample = np.unravel_index(np.arange(n), (n_prompts, n_teachers, samples))
    tokens = np.maximum(rng.lognormal(6 + 0.3 * teacher, 0.6), 20).astype(np.int64)
    about = 3 - 0.2 * np.log(tokens) + rng.normal(0, 0.3, n)
    ranks = np.maximum((about * tokens * 0.5).astype(np.int64), 1)
    rsr = ranks / (tokens * 0.5)
    columns = {
        "trajectory_id": [f"{p}/{t}/{s}" for p, t, s in zip(prompt, teacher, sample, strict=True)],
        "prompt_id": [f"p{p:05d}" for p in prompt],
        "teacher": [f"t{t}" for t in teacher],
        "sample": sample,
        "n_tokens": tokens,
        "n_prompt_tokens": rng.integers(20, 200, n),
        "surprisal_sum": tokens * 0.5,
        "rank_sum": ranks,
        "rsr": rsr,
    }
    rows = pa.table(
        {f.name: pa.array(columns[f.name]) if f.name in columns else pa.nulls(n, f.type)
         for f in CANDIDATES}
    ).cast(CANDIDATES)  # fmt: skip
    return RankedCandidates.of(rows, rsr, "lower")


NO_PROMPTS = pa.array([], pa.string())


def partitions(ranked: RankedCandidates) -> list[pa.Table]:
    """The rows, each partition with every third prompt."""
    return [ranked.rows.filter(pa.array(ranked.prompt % 3 == n)) for n in range(3)]


def offers_of(ranked: RankedCandidates, asked: ArmsConfig) -> Offers:
    return Offers.of(offer(rows, asked, NO_PROMPTS) for rows in partitions(ranked))


def request_of(ranked: RankedCandidates, asked: ArmsConfig) -> Request:
    measures, offers = {}, offers_of(ranked, asked)
    if "tokens" in asked.match:
        measures["tokens"] = offers.numbers["n_tokens"].astype(float)
    if "flops" in asked.match:
        s = offers.numbers["length"]
        measures["flops"] = 6e9 * s + 1e6 * s.astype(float) ** 2
    return Request.of(offers, measures, asked)


def check(ranked: RankedCandidates, asked: ArmsConfig) -> tuple[Request, np.ndarray]:
    """The arms, after everything that was asked was looked at one by one."""
    request = request_of(ranked, asked)
    chosen = solve_request(request, asked)
    offers = request.offers
    names = [offers.teachers[t] for t in offers.teacher]
    quota = asked.quota or dict.fromkeys(set(names), asked.per_teacher)
    prompts = offers.prompts.take(pa.array(offers.prompt)).to_pylist()
    for rows in chosen:
        at = np.flatnonzero(rows)
        assert {t: sum(names[i] == t for i in at) for t in quota} == quota
        assert sum(quota.values()) == len(at)
        of_prompts = [prompts[i] for i in at]
        assert max(map(of_prompts.count, set(of_prompts))) <= asked.k
    sets = [{prompts[i] for i in np.flatnonzero(rows)} for rows in chosen]
    if asked.disjoint != "none":
        assert chosen.sum(0).max() <= 1
    if asked.disjoint == "prompts":
        assert sum(map(len, sets)) == len(set().union(*sets))
    if "prompts" in asked.match:
        assert all(some == sets[0] for some in sets)
    for measure in request.pool.measures:
        sums = [measure[rows].sum() for rows in chosen]
        assert max(sums) / min(sums) - 1 <= asked.tolerance * (1 + 1e-6)
    return request, chosen


@pytest.mark.parametrize(
    ("match", "disjoint"),
    [
        (("tokens",), "trajectories"),
        (("tokens",), "prompts"),
        (("tokens",), "none"),
        (("tokens", "flops"), "trajectories"),
        (("none",), "prompts"),
    ],
)
def test_arms_are_as_they_were_asked_for(match, disjoint):
    asked = config(
        arms=("low", "middle", "high", "random"), disjoint=disjoint, match=match,
        quotas=("t0=5", "t2=8"), tolerance=0.01,
    )  # fmt: skip
    request, chosen = check(planted(200), asked)
    low, middle, high, _ = (request.place[rows].mean() for rows in chosen)
    assert low < 0.3 < middle < 0.7 < high


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("match", [("prompts",), ("prompts", "tokens")])
def test_arms_of_the_same_prompts(match, k):
    asked = config(arms=("low", "high", "random"), match=match, k=k, per_teacher=4, tolerance=0.05)
    request, chosen = check(planted(60, samples=3), asked)
    low, high, random = (request.place[rows].mean() for rows in chosen)
    assert low < 0.35 < random < 0.7 < high


def test_the_same_prompts_of_a_large_pool_are_drawn_first():
    """As one program of all arms it does not end."""
    asked = config(
        arms=("low", "high", "random"), match=("prompts", "tokens"), per_teacher=100, tolerance=1e-3
    )
    request, chosen = check(planted(3000, 8), asked)
    assert blocks_of(request.pool, aimed(request, asked)) > 1
    low, high, random = (request.place[rows].mean() for rows in chosen)
    assert low < 0.2 < 0.4 < random < 0.6 < 0.8 < high


def test_a_matched_arm_has_the_lengths_of_the_other():
    asked = config(
        arms=("low", "high", "matched-low", "matched-high"), match=("none",), per_teacher=10
    )
    request, chosen = check(planted(150), asked)
    bins = request.pool.teacher * 10 + request.pool.length_bin
    for arm, control in ((0, 2), (1, 3)):
        assert np.array_equal(np.bincount(bins[chosen[arm]]), np.bincount(bins[chosen[control]]))
        assert abs(request.place[chosen[control]].mean() - 0.5) < 0.25
    # lengths follow rsr here, so the arms themselves differ
    assert not np.array_equal(np.bincount(bins[chosen[0]]), np.bincount(bins[chosen[1]]))


def test_a_matched_arm_in_one_program_with_the_others():
    arms = ("low", "high", "random", "matched-low")
    _, chosen = check(planted(60, samples=2), config(arms=arms, tolerance=0.05))
    assert len(chosen) == len(arms)


def test_a_random_arm_is_the_seeds_draw_where_nothing_else_is_asked():
    ranked = planted(80)
    asked = config(arms=("low", "random"), match=("none",), disjoint="none", k=3, per_teacher=7)
    request, chosen = check(ranked, asked)
    drawn = request.pool.costs[1]
    for teacher in range(3):
        of = request.pool.teacher == teacher
        assert set(drawn[of & chosen[1]]) == set(np.sort(drawn[of])[:7])
    other = request_of(ranked, config(arms=("low", "random"), per_teacher=7, seed=1))
    assert not np.array_equal(drawn, other.pool.costs[1])


@pytest.mark.parametrize("together", [1_000_000, 10, 1])
def test_places_are_those_of_a_slow_definition(together, monkeypatch):
    monkeypatch.setattr(pools, "TOGETHER", together)
    rng = np.random.default_rng(0)
    values, group = rng.integers(0, 4, 60).astype(float), rng.integers(0, 7, 60)
    group[0] = 99
    for i, got in enumerate(places(values, group)):
        others = values[group == group[i]]
        less, equal = (others < values[i]).sum(), (others == values[i]).sum()
        expected = (less + (equal - 1) / 2) / (len(others) - 1) if len(others) > 1 else 0.5
        assert got == pytest.approx(expected)


# --- against enumeration --------------------------------------------------------------------------


def small_pool(rng: np.random.Generator, n: int, n_arms: int) -> Pool:
    return Pool(
        teacher=rng.integers(0, 2, n),
        prompt=rng.integers(0, 4, n),
        length_bin=rng.integers(0, 2, n),
        costs=rng.random((n_arms, n)),
        measures=rng.integers(5, 15, (1, n)).astype(float),
        order=np.zeros(n),
    )


def enumerate_arms(pool: Pool, wanted: Wanted, low: float, high: float) -> float:
    """The least cost of all ways to give each row to no arm, or to one, or to any set of them."""
    n_arms, n = pool.costs.shape
    states = [s for s in itertools.product((0, 1), repeat=n_arms)
              if wanted.disjoint == "none" or sum(s) <= 1]  # fmt: skip
    ways = np.array(list(itertools.product(states, repeat=n)), bool)
    ways_WAN = ways.transpose(0, 2, 1)
    right = allowed(ways_WAN, pool, wanted, low, high)
    return (ways_WAN[right] * pool.costs).sum((1, 2)).min(initial=np.inf)


def counts(ways_WAN: np.ndarray, label_N: np.ndarray, n_labels: int) -> np.ndarray:
    """How many rows of each label every arm has: [ways, arms, labels]."""
    return ways_WAN.astype(int) @ np.eye(n_labels, dtype=int)[label_N]


def allowed(
    ways_WAN: np.ndarray, pool: Pool, wanted: Wanted, low: float, high: float
) -> np.ndarray:
    """Which of the ways [ways, arms, rows] keep every promise."""
    prompts = counts(ways_WAN, pool.prompt, 4)
    cells = counts(ways_WAN, pool.teacher * 2 + pool.length_bin, 4)
    sums = ways_WAN @ pool.measures[0]
    right = (counts(ways_WAN, pool.teacher, 2) == wanted.quotas).all((1, 2))
    right &= (prompts <= wanted.k).all((1, 2))
    right &= ((low <= sums) & (sums <= high)).all(1)
    if wanted.disjoint == "prompts":
        right &= ((prompts > 0).sum(1) <= 1).all(1)
    if wanted.same_prompts:
        right &= (prompts == prompts[:, :1]).all((1, 2))
        right &= ((prompts == 0) | (prompts == wanted.k)).all((1, 2))
    for a, b in wanted.copies:
        right &= (cells[:, a] == cells[:, b]).all(1)
    return right


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"k": 2},
        {"disjoint": "prompts"},
        {"disjoint": "prompts", "k": 2},
        {"disjoint": "none"},
        {"same_prompts": True},
        {"same_prompts": True, "disjoint": "none"},
        {"copies": ((1, 0),), "k": 2},
    ],
    ids=str,
)
def test_the_program_finds_the_least_cost_of_all_ways(rules):
    rng = np.random.default_rng(3)
    solved = 0
    for _ in range(few(60, 12)):
        pool = small_pool(rng, 6 if rules.get("disjoint") == "none" else 8, 2)
        wanted = Wanted(quotas=rng.integers(1, 3, 2) if "k" in rules else np.array([1, 1]), **rules)
        middle = pool.measures.mean() * wanted.quotas.sum()
        low, high = np.full((1, 2), middle * 0.9), np.full((1, 2), middle * 1.1)
        found = solve(pool, dataclasses.replace(wanted, low=low, high=high), gap=0)
        best = enumerate_arms(pool, wanted, middle * 0.9, middle * 1.1)
        assert found.is_proof
        if np.isinf(best):
            assert found.chosen is None
            continue
        one_way = found.chosen[None]
        assert allowed(one_way, pool, wanted, middle * 0.9 - 1e-6, middle * 1.1 + 1e-6).all()
        assert pool.costs[found.chosen].sum() == pytest.approx(best)
        solved += 1
    assert solved >= 2


def test_the_flow_says_which_quotas_can_be_met():
    """For quotas and disjoint trajectories alone it is exact."""
    rng = np.random.default_rng(5)
    seen = set()
    for _ in range(few(300, 80)):
        pool = small_pool(rng, 10, 2)
        disjoint = ("trajectories", "none")[rng.integers(2)]
        wanted = Wanted(rng.integers(0, 4, 2), k=int(rng.integers(1, 3)), disjoint=disjoint)
        possible = solve(pool, wanted).chosen is not None
        assert fits(pool, wanted) == possible
        seen.add(possible)
    assert seen == {True, False}


def test_of_a_teacher_with_many_prompts_some_are_as_good_as_all(monkeypatch):
    """What a flow finds together, where each teacher is looked at with as many prompts as all take
    rows, and where with all.
    """
    rng = np.random.default_rng(6)
    n_less = 0
    for _ in range(few(300, 80)):
        n = int(rng.integers(20, 80))
        pool = dataclasses.replace(
            small_pool(rng, n, 2),
            prompt=rng.integers(0, 40, n),
            teacher=rng.choice(3, n, p=[0.1, 0.2, 0.7]),
        )
        wanted = Wanted(rng.integers(0, 6, 3), k=int(rng.integers(1, 3)))
        total = served(pool, wanted).sum()
        n_less += total < demand(pool, wanted).sum()
        with monkeypatch.context() as patch:
            patch.setattr(flow, "most_prompts", lambda *_: 1_000)
            assert served(pool, wanted).sum() == total
    assert 0 < n_less < few(300, 80)


# --- blocks ---------------------------------------------------------------------------------------


def test_blocks_keep_every_promise_and_cost_little():
    ranked = planted(n_prompts=1500, n_teachers=4, seed=1)
    asked = config(arms=("low", "middle", "high", "random", "matched-low"), per_teacher=150)
    request, chosen = check(ranked, asked)
    assert blocks_of(request.pool, aimed(request, asked)) > 1
    named = named_rows(request.offers, chosen, asked)
    tables = [take(rows, asked, NO_PROMPTS, named) for rows in partitions(ranked)]
    rows = without_summary(pa.concat_tables(tables))
    ids = ranked.rows["trajectory_id"].to_pylist()
    for arm, own in zip(asked.arms, chosen, strict=True):
        got = [row["trajectory_id"] for row in rows.to_pylist() if row["arm"] == arm]
        assert sorted(got) == sorted(ids[i] for i in np.flatnonzero(own))
    sums = sums_of_arms((text for t in tables for text in t["summary"].to_pylist()), asked)
    arms = describe_arms(request, chosen, sums, asked)
    lengths = ranked.rows["n_tokens"].to_numpy()
    for arm, own in zip(arms, chosen, strict=True):
        assert arm.means == SetSums.of(ranked.rows, ranked.prompt, own, asked.metric).means
        assert arm.lengths.p100 == lengths[own].max()
    for arm in arms[:3]:
        assert abs(arm.place - arm.free_place) < 0.05, arm.name
    for arm in arms[3:]:
        assert arm.free_place is None
    assert abs(arms[3].place - 0.5) < 0.05


def test_tokens_are_those_of_a_random_draw_or_those_asked_for():
    ranked = planted(n_prompts=200)
    asked = config(per_teacher=20)
    request, chosen = check(ranked, asked)
    (expected,) = natural(request.pool, request.wanted.quotas)
    assert request.pool.measures[0][chosen[0]].sum() == pytest.approx(expected, rel=1e-3)
    asked = config(per_teacher=20, tokens=int(expected * 1.2))
    request, chosen = check(ranked, asked)
    assert request.pool.measures[0][chosen[1]].sum() == pytest.approx(expected * 1.2, rel=1e-3)


def test_the_same_seed_gives_the_same_arms_and_the_order_of_rows_nothing():
    ranked = planted(n_prompts=400, seed=2)
    asked = config(per_teacher=44)
    first = solve_request(request_of(ranked, asked), asked)
    assert np.array_equal(first, solve_request(request_of(ranked, asked), asked))
    shuffled = ranked.rows.take(np.random.default_rng(0).permutation(ranked.rows.num_rows))
    shuffled = mark_copies(shuffled)
    again = RankedCandidates.of(shuffled, shuffled["rsr"].to_numpy(), "lower")
    assert again.rows.equals(ranked.rows)
    other = config(per_teacher=44, seed=5)
    assert not np.array_equal(first, solve_request(request_of(ranked, other), other))


def test_what_arms_have_in_common_is_counted():
    ranked = planted(30)
    asked = config(arms=("low", "random"), disjoint="none", per_teacher=5, tolerance=0.05)
    request, chosen = check(ranked, asked)
    (pair,) = in_common(request, chosen, asked.arms)
    both = set(np.flatnonzero(chosen[0])) & set(np.flatnonzero(chosen[1]))
    assert pair.trajectories == len(both)
    ids = ranked.rows["prompt_id"].to_pylist()
    prompts = [{ids[i] for i in np.flatnonzero(rows)} for rows in chosen]
    assert pair.prompts == len(prompts[0] & prompts[1])


# --- what cannot be -------------------------------------------------------------------------------


def refused(ranked: RankedCandidates, asked: ArmsConfig) -> str:
    with pytest.raises(UserError) as problem:
        solve_request(request_of(ranked, asked), asked)
    return str(problem.value)


def taken_up(said: str, asked: dict) -> dict:
    """The settings with the first way out that a message names."""
    option, values = re.search(r"To fix it, pass --([a-z-]+) ([^,]*?)(?=, or |$)", said).groups()
    words = values.split()
    new = dict(asked)
    name = option.replace("-", "_")
    if name == "quotas":
        new |= {"quotas": tuple(words)}
    else:
        kind = {"tolerance": float, "disjoint": str}.get(name, int)
        new |= {name: kind(words[0])}
    if "--tolerance" in words:
        new |= {"tolerance": float(words[words.index("--tolerance") + 1])}
    return new


@pytest.mark.parametrize(
    ("prompts", "asked", "says"),
    [
        (
            20,
            {"per_teacher": 8},
            "too few prompts: 24 trajectories in each of 3 arms, at most 1 per prompt",
        ),
        (20, {"quotas": ("t0=3", "t1=9")}, "too few trajectories of teacher t1: 9 in each of 3"),
        (20, {"per_teacher": 7, "match": ("prompts",)}, "the same prompts in all arms"),
        (20, {"per_teacher": 3, "disjoint": "prompts"}, "no prompt in two arms"),
        (
            9,
            {"per_teacher": 2, "tokens": 10, "arms": ("low", "high")},
            "none whose tokens are within 5% of 10; an arm",
        ),
        (
            9,
            {"per_teacher": 2, "tokens": 10**6, "arms": ("low", "high")},
            "none whose tokens are within 5% of 1,000,000; an arm",
        ),
        (
            4,
            {"per_teacher": 1, "tolerance": 1e-6},
            "none whose tokens are within 0.0001% of each other",
        ),
        (
            11,
            {"per_teacher": 3, "arms": ("low", "matched-low"), "match": ("none",)},
            "too few trajectories of the same lengths are left for matched-low",
        ),
    ],
)
def test_arms_that_cannot_be_are_refused_with_a_way_out_that_works(prompts, asked, says):
    ranked = planted(prompts)
    asked = {"tolerance": 0.05} | asked
    said = refused(ranked, config(**asked))
    assert says in said
    assert "To fix it, " in said
    if "leave matched-low" in said:
        new = asked | {"arms": ("low", "high")}
        assert "or pass --per-teacher 1" in said
    else:
        new = taken_up(said, asked)
        assert new != asked
    check(ranked, config(**new))


def test_a_way_out_is_the_largest():
    ranked = planted(40)
    said = refused(ranked, config(per_teacher=15, match=("none",)))
    n = int(re.search(r"--per-teacher (\d+)", said)[1])
    check(ranked, config(per_teacher=n, match=("none",)))
    assert "too few" in refused(ranked, config(per_teacher=n + 1, match=("none",)))


def test_overlap_is_a_way_out_if_it_is_one():
    assert "--disjoint none" in refused(planted(40), config(per_teacher=14, k=3))
    assert "--disjoint none" not in refused(planted(40), config(per_teacher=41, k=3))


def test_a_teacher_that_has_nothing_is_named():
    with pytest.raises(UserError, match="--quotas t9: no trajectory of this teacher"):
        request_of(planted(5), config(quotas=("t9=1",)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arms": ("low", "hgih")}, "--arms hgih: did you mean high?"),
        ({"arms": ("low", "matched-high")}, "copies the lengths of high; add high"),
        ({"arms": ("low",)}, "--arms low: name at least two different arms"),
        ({"arms": ("low", "low")}, "name at least two different arms"),
        ({"quotas": ("t0",)}, "use TEACHER=N"),
        ({"quotas": ("t0=0",)}, "use TEACHER=N"),
        ({"quotas": ("t0=1", "t0=2")}, "a teacher appears twice"),
        ({"quotas": ("t0=1",), "teachers": ("t1",)}, "not in --teachers"),
        ({"per_teacher": None}, "pass either --per-teacher N or --quotas"),
        ({"match": ("token",)}, "--match token: choose tokens, flops, prompts or none"),
        ({"match": ("none", "tokens")}, "--match none cannot be combined"),
        ({"match": ("prompts",), "tokens": 5}, "--tokens requires --match tokens"),
        ({"match": ("prompts",), "disjoint": "prompts"}, "contradicts --match prompts"),
        ({"tolerance": 0.0}, "must be between 0 and 1"),
        ({"by": "rsr_"}, "no such metric"),
        ({"by": "random"}, "no such metric"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, says):
    with pytest.raises(UserError, match=re.escape(says)):
        config(**changes)


def test_a_teacher_may_have_an_equals_sign_in_its_name():
    assert config(quotas=("a=b=3",)).quota == {"a=b": 3}


def test_every_arm_can_be_asked_for():
    asked = config(arms=ARMS, match=("none",), per_teacher=3, by="n_tokens")
    check(planted(200), asked)


def test_a_large_pool_is_solved_in_many_blocks_of_likely_rows():
    ranked = planted(n_prompts=3000, n_teachers=3, seed=4)
    asked = config(arms=("low", "high"), per_teacher=20)
    request = request_of(ranked, asked)
    found = solve_in_blocks(request.pool, aimed(request, asked))
    assert found.chosen is not None
    _, chosen = check(ranked, asked)
    # 20 of 3,000: the lowest of all, or nearly
    assert request.place[chosen[0]].mean() < 0.03
