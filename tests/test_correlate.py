"""Correlations with accuracy: against the published table and brute force, from a store."""

import itertools
import json
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from rsr_ray.cli import main
from rsr_ray.decide.correlation import Correlations, MetricCorrelation, correlate
from rsr_ray.decide.evidence import find_scored, from_table, set_cells, teacher_values, without
from rsr_ray.decide.loading import load_scored
from rsr_ray.decide.pair import Pair, spearman_in_any_order
from rsr_ray.decide.paper import compare_with_paper
from rsr_ray.decide.published import TWICE
from rsr_ray.decide.ranking import rank_teachers
from rsr_ray.decide.resampling import BootstrapInterval, bootstrap_interval, permutation_p
from rsr_ray.errors import UserError
from rsr_ray.metrics import REGISTRY
from rsr_ray.schema import SCORES, TEACHERS
from rsr_ray.store.store import Store

from .conftest import SHARED, few

PUBLISHED_TABLES = SHARED.parent / "reference" / "published_tables.csv"
needs_tables = pytest.mark.skipif(
    not PUBLISHED_TABLES.is_file(), reason="the published tables are not beside this checkout"
)
BAD = ["GPT-OSS-120B(high)", "GPT-OSS-20B(high)", "Phi-4-Reasoning-Plus"]
FEW = {"n_permutations": 200, "n_draws": 200}


@pytest.fixture(scope="module")
def paper():
    return from_table(str(PUBLISHED_TABLES), None)


def write(path, rows: list[dict]) -> str:
    lines = [",".join(rows[0])] + [
        ",".join("" if value is None else str(value) for value in row.values()) for row in rows
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def rows_of(n: int = 5, students=("s",), **columns) -> list[dict]:
    """n teachers of each student, whose accuracies fall as rsr rises."""
    return [
        {"student": s, "teacher": f"t{i}", "accuracy": 50 - i, "rsr": 2 + i / 10}
        | {k: v[i] for k, v in columns.items()}
        for s in students
        for i in range(n)
    ]


def by_name(found: Correlations) -> dict[str, MetricCorrelation]:
    return {metric.metric: metric for metric in found.metrics}


def spearmans(metric: MetricCorrelation) -> list[float]:
    """Of each student, to three digits."""
    return [round(of.coefficients.spearman, 3) for of in metric.students.values()]


# --- the published table---------------------------------------------------------------------------


@needs_tables
def test_the_published_table_gives_what_is_known_of_it(paper):
    found = by_name(correlate(paper, **FEW))
    assert spearmans(found["rsr"]) == [-0.855, -0.845, -0.888, -0.829, -0.815]
    assert round(found["rsr"].over_students.abs_of_mean, 3) == 0.847
    assert found["rsr_token_mean"].over_students.mean.spearman > 0
    # the signs differ between students: the mean of absolute values would be another number than
    # the published .11
    influence = found["influence"].over_students
    assert (round(influence.abs_of_mean, 2), round(influence.mean_of_abs, 2)) == (0.11, 0.42)
    for name in paper.metrics:
        each = [
            stats.spearmanr(s.metrics[name], s.accuracy).statistic for s in paper.students.values()
        ]
        over = found[name].over_students
        assert over.mean.spearman == pytest.approx(np.mean(each))
        low, high = over.any_order_of_ties
        assert low - 1e-12 <= over.mean.spearman <= high + 1e-12


@needs_tables
def test_the_second_reading_of_a_cell_and_the_order_of_ties_explain_what_is_printed(paper):
    found = compare_with_paper(paper, correlate(paper, **FEW).metrics)
    rows = {row.metric: row for row in found.rows}
    assert round(rows["rsr"].with_second, 3) == 0.852
    assert round(rows["rsr"].with_second_of_student, 3) == -0.916
    assert round(rows["rsr"].best_order, 3) == 0.856
    best = found.best
    assert (best.n_reproduced, best.n_printed) == (14, 15)
    assert (best.n_tried, best.n_as_good) == (16, 0)
    assert best.takes_second
    assert {name for name, row in rows.items() if row.reason and "not explained" in row.reason} == {
        "mean_rank"
    }
    assert rows["influence"].reason == rows["mean_tokens"].reason == "agrees"
    assert rows["grace"].reason == "accuracy 47.8"
    # the same by hand
    cells = [f"{TWICE.student}/{TWICE.teacher}/accuracy={TWICE.second}"]
    cells += [
        f"{tie.student}/{name}/accuracy={tie.accuracy - i * 0.01}"
        for tie in best.ties
        for i, name in enumerate(tie.order)
    ]
    (by_hand,) = correlate(set_cells(paper, cells), ["rsr"], **FEW).metrics
    assert spearmans(by_hand) == [-0.855, -0.845, -0.918, -0.818, -0.845]
    # the cell is no longer the one with two readings
    assert compare_with_paper(set_cells(paper, cells[:1]), []) is None
    # and without the three bad teachers the .74 that is known
    left = by_name(correlate(without(set_cells(paper, cells), BAD), **FEW))
    assert round(left["rsr"].over_students.abs_of_mean, 2) == 0.74


@needs_tables
def test_without_the_three_bad_teachers(paper):
    found = by_name(correlate(without(paper, BAD), **FEW))
    assert round(found["rsr"].over_students.abs_of_mean, 3) == 0.712
    others = [
        metric.over_students.mean_of_abs
        for name, metric in found.items()
        if metric.published and name not in ("rsr", "rsr_token_mean_top30")
    ]
    assert max(others) < 0.41
    assert found["rsr_token_mean_top30"].over_students.abs_of_mean > 0.5
    assert found["rsr"].students["Qwen-3-14B"].n == 8


@needs_tables
def test_the_command_on_the_published_table(capsys):
    options = ["correlate", "--table", str(PUBLISHED_TABLES), "--permutations", "200"]
    assert main(options) == 0
    shown = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    (rsr,) = [line for line in lines if line.startswith("rsr lower")]
    assert rsr.startswith("rsr lower -.855 -.845 -.888 -.829 -.815 -.847 .847 ")
    assert "rsr .847 .852 .856 .856 accuracy 47.8, ties in the order below" in lines
    assert "n = 11 teachers" in shown
    assert "4 of grace of Qwen-3-14B" in shown
    assert "wrong sign" not in shown
    assert "\x1b" not in shown
    table = [line for line in shown.splitlines() if line.startswith(" rsr") or "\u2500" in line]
    assert max(map(len, table)) <= 120
    assert main([*options, "--json", "--by", "rsr", "grace"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [m["metric"] for m in told["metrics"]] == ["rsr", "grace"]
    assert told["paper"]["rsr_of_students"]["Qwen-3-4B"]["printed"] == 0.818


# --- against brute force---------------------------------------------------------------------------

few_values = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=5)


@settings(max_examples=few(60, 25), deadline=None)
@given(few_values)
def test_the_range_over_orders_of_ties(pairs):
    x, y = np.array(pairs, float).T

    def orders(values):
        return [
            np.array(p)
            for p in itertools.permutations(range(len(values)))
            if all(values[a] <= values[b] for a, b in itertools.pairwise(p))
        ]

    every = [np.corrcoef(np.argsort(a), np.argsort(b))[0, 1] for a in orders(x) for b in orders(y)]
    assert spearman_in_any_order(x, y) == pytest.approx((min(every), max(every)))


@settings(max_examples=few(60, 25), deadline=None)
@given(few_values, st.lists(st.integers(0, 4), min_size=5, max_size=5))
def test_the_spearman_of_a_draw_is_that_of_the_drawn_teachers(pairs, drawn):
    x, y = np.array(pairs, float).T
    drawn = np.array(drawn) % len(x)
    counts = np.bincount(drawn, minlength=len(x))[None]
    (found,) = Pair(x, y, np.arange(len(x))).spearman_of_draws(counts)
    if len({*x[drawn]}) == 1 or len({*y[drawn]}) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(stats.spearmanr(x[drawn], y[drawn]).statistic)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)),
        min_size=4,
        max_size=5,
    )
)
def test_few_teachers_have_the_exact_p(rows):
    x, y, u, v = np.array(rows, float).T
    assume(all(len({*values}) > 1 for values in (x, y, u, v)))
    pairs = [Pair(x, y, np.arange(len(x))), Pair(u, v, np.arange(len(x)))]
    of_ranks = [stats.rankdata(values) for values in (x, y, u, v)]

    def statistic(order):
        a, b, c, d = of_ranks
        each = [np.corrcoef(a, b[list(order)])[0, 1], np.corrcoef(c, d[list(order)])[0, 1]]
        return abs(np.mean(each))

    every = [statistic(order) for order in itertools.permutations(range(len(x)))]
    assert permutation_p(pairs, len(x), 10_000) == pytest.approx(
        np.mean([value >= statistic(range(len(x))) - 1e-9 for value in every])
    )


def test_many_teachers_have_a_p_of_at_least_what_the_orders_can_show():
    x = np.arange(12.0)
    assert permutation_p([Pair(x, x, np.arange(12))], 12, 99) == pytest.approx(0.01)


def test_a_students_own_p_is_scipys():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 6))  # in 720 orders
    test = stats.permutation_test(
        (x,),
        lambda a: abs(stats.spearmanr(a, y).statistic),
        permutation_type="pairings",
        n_resamples=10**5,
        alternative="greater",
    )
    assert permutation_p([Pair(x, y, np.arange(6))], 6, 10_000) == pytest.approx(test.pvalue)


@pytest.mark.simulation
def test_the_interval_covers_what_it_should():
    """Samples of 30 teachers from a population: of 95% intervals of a known correlation, most
    hold it.
    """
    rng, held = np.random.default_rng(0), 0
    x = rng.normal(size=(60, 30))
    y = 0.7 * x + math.sqrt(1 - 0.49) * rng.normal(size=x.shape)
    truth = 6 / math.pi * math.asin(0.7 / 2)  # Spearman of a bivariate normal
    for a, b in zip(x, y, strict=True):
        found = bootstrap_interval([Pair(a, b, np.arange(30))], 30, 500)
        assert found.method == "BCa"
        low, high = found.ends
        held += low <= truth <= high
    assert held >= 60 * 0.95 - 4 * math.sqrt(60 * 0.95 * 0.05)


@pytest.mark.parametrize("n", [4, 5])
def test_a_correlation_that_never_varies_has_no_interval(n):
    x = np.arange(float(n))
    want = BootstrapInterval(None, None, "every draw of teachers has the same correlation")
    assert bootstrap_interval([Pair(x, x, np.arange(n))], n, 300) == want


def test_draws_that_mostly_have_no_correlation_give_no_interval():
    """Of 27 draws of three teachers 3 have one of them only."""
    found = bootstrap_interval(
        [Pair(np.arange(3.0), np.array([2.0, 1.0, 3.0]), np.arange(3))], 3, 1000
    )
    assert found.ends is found.method is None
    assert re.fullmatch(
        r"only 8[89]\.\d% of the draws of teachers have a correlation", found.why_none
    )


@pytest.mark.simulation
@pytest.mark.parametrize("n_students", [12, 30])
def test_students_that_share_no_teacher_have_an_interval_that_covers(n_students):
    """Most draws leave some of the students without two teachers: these are left out of that
    draw, and not the draw.
    """
    rng, held = np.random.default_rng(0), 0
    # Kendall and Spearman of a bivariate normal
    tau, rho = (
        2 / math.pi * math.asin(0.7),
        6 / math.pi * math.asin(0.7 / 2),
    )
    truth = 0.75 * (tau + rho / 3)  # Spearman of three that are drawn from it, in the mean
    for _ in range(40):
        x = rng.normal(size=(n_students, 3))
        y = 0.7 * x + math.sqrt(1 - 0.49) * rng.normal(size=x.shape)
        pairs = [
            Pair(a, b, np.arange(3) + 3 * i) for i, (a, b) in enumerate(zip(x, y, strict=True))
        ]
        low, high = bootstrap_interval(pairs, 3 * n_students, 200).ends
        assert low <= np.mean([stats.spearmanr(pair.x, pair.y).statistic for pair in pairs]) <= high
        held += low <= truth <= high
    assert held >= 40 * 0.95 - 4 * math.sqrt(40 * 0.95 * 0.05)


def test_students_with_other_teachers_are_correlated_over_their_own(tmp_path):
    rows = rows_of(5, ("a",)) + [row | {"student": "b"} for row in rows_of(8)[3:]]
    (rsr,) = correlate(from_table(write(tmp_path / "t.csv", rows), None), **FEW).metrics
    assert [of.n for of in rsr.students.values()] == [5, 5]
    assert rsr.over_students.mean.spearman == pytest.approx(-1)


# --- tables, whole and broken----------------------------------------------------------------------


def test_every_format_is_the_same_table(tmp_path):
    rows = rows_of(5, ("a", "b/c"), mine=[3.5, 1, 4, 1, 5], note=["x"] * 5)
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "t.parquet")
    (tmp_path / "t.json").write_text(json.dumps(rows))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write(tmp_path / "t.csv", rows)
    results = [
        correlate(from_table(str(tmp_path / f"t.{ending}"), None), **FEW)
        for ending in ("parquet", "json", "jsonl", "csv")
    ]
    assert results.count(results[0]) == 4
    assert [(metric.metric, metric.better) for metric in results[0].metrics] == [
        ("rsr", "lower"),
        ("mine", "-"),
    ]
    assert results[0].left_out == ["column note: not numbers"]


def test_what_is_missing_or_constant_is_null_with_a_reason_and_never_0(tmp_path, capsys):
    rows = rows_of(6, ("a", "b"), same=[1] * 6, some=[1, 2, None, None, None, None]) + rows_of(
        2, ("few",), same=[1] * 6, some=[1] * 6
    )
    rows[0]["accuracy"] = None
    result = correlate(from_table(write(tmp_path / "t.csv", rows), None), **FEW)
    assert list(result.students) == ["a", "b"]
    assert "student few: 2 teachers with an accuracy, but 3 are needed" in result.left_out
    assert "student a, teacher t0: no accuracy" in result.left_out
    found = by_name(result)
    assert found["rsr"].students["a"].n == 5
    for name, why in (
        ("same", "every teacher has the same value"),
        ("some", "2 values, but 3 are needed"),
    ):
        assert found[name].students["b"].why_null == why
        told = found[name].to_json()
        assert told["spearman"] is told["p"] is told["interval"] is None
    assert main(["correlate", "--table", str(tmp_path / "t.csv")]) == 0
    assert (
        "no interval for rsr: every draw of teachers has the same correlation"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"accuracy": "high"}, "column accuracy: 'high' in row 1 is not a number"),
        ({"rsr": "n.a."}, "column rsr: 'n.a.' in row 1 is not a number"),
        ({"teacher": "t1"}, "student s and teacher t1 appear twice"),
    ],
)
def test_a_wrong_cell_is_named(tmp_path, capsys, change, says):
    rows = rows_of()
    rows[0] |= change
    assert main(["correlate", "--table", write(tmp_path / "t.csv", rows)]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--by", "rsr", "nothing"], "--by nothing: no such metric; metrics: rsr"),
        (["--without", "t9"], "--without t9: no such teacher; teachers: t0, t1"),
        (["--set", "s/t0=1"], "--set s/t0=1: no such student, teacher or column"),
        (["--set", "s/t0/rsr"], "STUDENT/TEACHER/COLUMN=VALUE"),
        (["--without", "t0", "t1", "t2"], "no student to correlate: student s: 2 teachers"),
        (["--permutations", "0"], "--permutations 0"),
        (["--accuracies", "x.csv"], "--store and --accuracies must be used together"),
    ],
)
def test_a_wrong_option_is_named(tmp_path, capsys, options, says):
    assert main(["correlate", "--table", write(tmp_path / "t.csv", rows_of()), *options]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.csv", "student,teacher,rsr\na,b,1\n", "missing column accuracy"),
        ("t.csv", "student,teacher,accuracy\na,b,1\n", "no metric column"),
        ("t.csv", "student,teacher,accuracy,rsr,rsr\na,b,1,2,3\n", "column rsr appears twice"),
        ("t.csv", "student,teacher,accuracy,rsr\n", "no rows"),
        ("t.csv", "", "cannot be read"),
        ("t.csv", "student,teacher,accuracy\na,b\n", "cannot be read"),
        ("t.json", "[1, 2]", "cannot be read"),
        ("t.json", "[{]", "cannot be read"),
        ("t.jsonl", "{]", "cannot be read"),
        ("t.parquet", "no", "cannot be read"),
        ("t.txt", "no", "must end with .csv"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=says):
        from_table(str(tmp_path / name), None)


def test_a_missing_file_is_named(tmp_path, capsys):
    assert main(["correlate", "--table", str(tmp_path / "no.csv")]) == 2
    assert "no.csv: no such file" in capsys.readouterr().err


def test_a_cell_is_read_differently_where_names_hold_slashes(tmp_path):
    rows = rows_of(5, ("org/s",))
    evidence = set_cells(
        from_table(write(tmp_path / "t.csv", rows), None),
        ["org/s/t4/accuracy=99", "org/s/t0/rsr=7"],
    )
    student = evidence.students["org/s"]
    assert (student.accuracy[4], student.metrics["rsr"][0], student.metrics["rsr"][1]) == (
        99,
        7,
        2.1,
    )


# --- from a store----------------------------------------------------------------------------------


def score_row(
    teacher: str, n: int, rank_sum: int, surprisal_sum: float, n_tokens: int = 10, **more
) -> dict:
    row = {
        "trajectory_id": f"t{n}",
        "prompt_id": f"p{n}",
        "teacher": teacher,
        "source": "s",
        "source_row": n,
        "fingerprint": "f",
    }
    return row | {"n_tokens": n_tokens, "rank_sum": rank_sum, "surprisal_sum": surprisal_sum} | more


def write_scores(store: Store, rows: list[dict], fingerprint: str = "f") -> None:
    facts = {
        "key": ["0" * 16],
        "version": ["a" * 12],
        "start": [0],
        "stop": [len(rows)],
        "last": [True],
        "seconds": [0.5],
    }
    store.write_unit(
        pa.table({**facts, "rows": pa.array([rows], pa.list_(pa.struct(list(SCORES))))}),
        fingerprint,
    )
    store.write_teachers(
        pa.Table.from_pylist([{"teacher": "A", "fingerprint": fingerprint}], schema=TEACHERS), []
    )


def test_a_metric_that_goes_the_wrong_way_is_told(tmp_path, capsys):
    rows = [
        {"student": "s", "teacher": t, "accuracy": a, "rsr": a / 10, "lark": a / 10}
        for t, a in zip("ABCD", (40, 50, 45, 20), strict=True)
    ]
    assert (
        main(["correlate", "--table", write(tmp_path / "t.csv", rows), "--permutations", "50"]) == 0
    )
    shown = capsys.readouterr().out
    assert (
        "wrong sign: rsr should be lower for better teachers, but in this table it is not (p = "
        in shown
    )
    assert "wrong sign: lark" not in shown


def test_a_stores_scores_with_accuracies(tmp_path, capsys):
    store = Store(str(tmp_path), "s", None)
    rows = [
        score_row("A", 0, 20, 10.0),
        score_row("A", 1, 30, 5.0, n_tokens=5),
        score_row("A", 1, 9999, 1.0, source="z"),  # the same trajectory again
        score_row("A", 2, 9999, 1.0) | {"reject_reason": "not_text"},
        *(
            score_row(teacher, 0, rank_sum, 10.0)
            for teacher, rank_sum in (("B", 40), ("C", 60), ("D", 90))
        ),
    ]
    write_scores(store, rows)
    values, prompts = teacher_values(find_scored(store.uri, "s", None))
    assert prompts == "the 1 prompt that all 4 teachers of the store answered"
    assert values["A"]["rsr"] == pytest.approx(2.0)  # of p0 alone: the others have no p1
    assert values["A"]["n_tokens"] == 10
    assert "brier" not in values["A"]  # its column is not filled
    assert find_scored(store.uri, "other", None) is None

    accuracies = [
        {"student": "s", "teacher": t, "accuracy": a}
        for t, a in zip("ABCDE", (40, 50, 45, 20, 10), strict=True)
    ]
    accuracies += [{"student": "other", "teacher": "A", "accuracy": 1}]
    options = [
        "correlate",
        "--store",
        store.uri,
        "--accuracies",
        write(tmp_path / "a.csv", accuracies),
        "--permutations",
        "100",
    ]
    assert main([*options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["left_out"] == [
        "student s: the store has no scores of teacher E",
        "student other: the store has no scores for it",
    ]
    (rsr,) = [of["students"]["s"] for of in told["metrics"] if of["metric"] == "rsr"]
    x = [values[teacher]["rsr"] for teacher in "ABCD"]
    assert (rsr["n"], rsr["spearman"]) == (
        4,
        pytest.approx(stats.spearmanr(x, [40, 50, 45, 20]).statistic),
    )
    assert told["notes"] == [f"student s: values on {prompts}"]
    capsys.readouterr()
    assert main(options) == 0
    assert f"student s: values on {prompts}" in capsys.readouterr().out

    assert main([*options[:2], str(tmp_path / "empty"), *options[3:]]) == 2
    assert "no scores for any student" in capsys.readouterr().err
    assert main(["correlate", "--store", store.uri]) == 2


@pytest.mark.parametrize("shared", [True, False])
def test_a_stores_values_are_those_of_the_ranking(tmp_path, shared):
    """A teacher that answered only easy prompts is compared on them; without a prompt in common
    each stands on its own.
    """
    easy, hard = range(4), range(4, 12)
    answered = {"A": [*easy, *hard], "B": [*easy, *hard], "C": easy if shared else range(20, 24)}
    rows = [
        score_row(
            teacher,
            n,
            rank_sum=(10 if n in easy else 60) + 3 * place + n,
            surprisal_sum=5.0 + n % 3,
            trajectory_id=f"{n}/{sample}",
        )
        for place, (teacher, prompts) in enumerate(answered.items())
        for n in prompts
        for sample in range(1 + n % 2)
    ]
    store = Store(str(tmp_path), "s", None)
    write_scores(store, rows)
    values, prompts = teacher_values(find_scored(store.uri, "s", None))
    scored = load_scored(store, [REGISTRY[name] for name in values["A"]])
    for name, metric in REGISTRY.items():
        if name in values["A"] and metric.better != "-":
            ranking = rank_teachers(scored, metric)
            assert ranking.matched == shared
            assert {t.teacher: t.value for t in ranking.teachers} == {
                teacher: of[name] for teacher, of in values.items()
            }
    assert prompts.startswith(
        "the 4 prompts that all 3 teachers" if shared else "each teacher's own prompts"
    )
