"""The metric against verdict and length within prompts, and right answers only: against brute force
in plain Python, from a corpus and its store, and by simulation.
"""

import gzip
import json
import math
import os
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_ray.cli import main
from rsr_ray.decide import within_prompts
from rsr_ray.decide.inference import interval
from rsr_ray.decide.loading import load_scored
from rsr_ray.decide.outcome import Outcome, TeacherOutcome, outcome
from rsr_ray.decide.ranking import rank_teachers
from rsr_ray.decide.verified import read_verdicts
from rsr_ray.decide.within_prompts import Column, WithinPrompts, correlate_within
from rsr_ray.errors import UserError
from rsr_ray.metrics import RSR
from rsr_ray.store.store import Store

from .conftest import DEMO_STUDENT, few
from .simulate_agreement import within_tails
from .test_rank import FOUR, rows_of, scored_of

WITHIN = "correlation low high n_trajectories n_prompts n_varying why_null why_no_interval"
TEACHER = "teacher n_right n_wrong n_unsaid share_right"
NO_TWO = "no prompt has two answers with rsr and correct"
OUTCOME = "column verdict length teachers right why_no_ranking"


def within(a, b, prompt, **more) -> WithinPrompts:
    columns = (Column(name, np.array(v, float)) for name, v in (("rsr", a), ("correct", b)))
    return correlate_within(*columns, np.array(prompt), **more)


# --- against plain Python-------------------------------------------------------------------------


def by_hand(rows: list[tuple]) -> tuple[float | None, int, int, int]:
    """Correlation, trajectories, prompts, and prompts where both vary, of rows (prompt, a, b)."""
    prompts = {}
    for prompt, a, b in rows:
        if not math.isnan(a) and not math.isnan(b):
            prompts.setdefault(prompt, []).append((a, b))
    prompts = [answers for answers in prompts.values() if len(answers) > 1]
    sum_ab = sum_aa = sum_bb = 0.0
    varying = 0
    for answers in prompts:
        mean_a = sum(a for a, _ in answers) / len(answers)
        mean_b = sum(b for _, b in answers) / len(answers)
        varying += len({a for a, _ in answers}) > 1 and len({b for _, b in answers}) > 1
        if len({a for a, _ in answers}) == 1:
            mean_a = answers[0][0]  # but for rounding
        for a, b in answers:
            sum_ab += (a - mean_a) * (b - mean_b)
            sum_aa += (a - mean_a) ** 2
            sum_bb += (b - mean_b) ** 2
    r = sum_ab / math.sqrt(sum_aa * sum_bb) if sum_aa and sum_bb else None
    return r, sum(map(len, prompts)), len(prompts), varying


answers = st.tuples(
    st.integers(0, 5), st.sampled_from([1.1, 2.3, 3.7, math.nan]), st.sampled_from([0, 1, math.nan])
)


@given(st.lists(answers, max_size=25))
def test_a_correlation_within_prompts_is_that_of_plain_python(rows):
    prompt, a, b = zip(*rows, strict=True) if rows else ((), (), ())
    found = within(a, b, np.array(prompt, np.int64))
    r, *counts = by_hand(rows)
    assert (found.n_trajectories, found.n_prompts, found.n_varying) == tuple(counts)
    assert found.correlation == (None if r is None else pytest.approx(r, abs=1e-9))
    assert (found.why_null is None) == (r is not None)
    assert (found.low is None) == (found.why_no_interval is not None)
    if found.low is not None:
        assert -1 <= found.low < found.high <= 1


def test_the_interval_is_as_wide_as_the_jackknife_says():
    """Each prompt left out in turn, by hand."""
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(40), 4)
    a = rng.normal(size=160)
    b = (a + rng.normal(size=160) > 0).astype(float)
    groups = [(a[prompt == p], b[prompt == p]) for p in range(40)]
    sums = np.array(
        [
            [
                (x - x.mean()) @ (y - y.mean()),
                ((x - x.mean()) ** 2).sum(),
                ((y - y.mean()) ** 2).sum(),
            ]
            for x, y in groups
        ]
    )

    def z(kept: np.ndarray) -> float:
        xy, xx, yy = sums[kept].sum(0)
        return math.atanh(xy / math.sqrt(xx * yy))

    every = np.arange(40)
    without = np.array([z(np.delete(every, p)) for p in every])
    error = math.sqrt(39 / 40 * ((without - without.mean()) ** 2).sum())
    found = within(a, b, prompt)
    assert math.tanh(z(every)) == pytest.approx(found.correlation)
    width = math.atanh(found.high) - math.atanh(found.low)
    assert width == pytest.approx(2 * 2.02 * error, rel=0.1)  # Student's t of 39 degrees


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        ([1, 2, 3], [0, 1, 1], NO_TWO),
        ([1, 2, 3, 4], [1, 1, 0, 0], "correct is constant within every prompt"),
        ([0.1, 0.1, 5, 5], [0, 1, 0, 1], "rsr is constant within every prompt"),
        (
            [1, 2, math.nan, 4],
            [1, math.nan, 0, 1],
            "no prompt has two answers with rsr and correct",
        ),
    ],
)
def test_what_is_not_defined_is_null_with_a_reason(a, b, why):
    prompt = range(3) if len(a) == 3 else (0, 0, 1, 1)
    found = within(a, b, prompt)
    assert (found.correlation, found.low, found.why_null, found.why_no_interval) == (
        None,
        None,
        why,
        why,
    )


def test_a_correlation_on_few_prompts_has_no_interval():
    prompt = np.repeat(np.arange(9), 2)
    b = [0, 1] * 4 + [0, 0] * 5  # both vary within four prompts of the nine
    found = within(np.arange(18) % 7, b, prompt)
    assert found.correlation is not None
    assert (found.low, found.n_prompts, found.n_varying) == (None, 9, 4)
    assert found.why_no_interval == "both vary within only 4 prompts; 5 are needed"
    same = within(b * 2, b * 2, np.repeat(np.arange(18), 2))
    assert (same.correlation, same.why_no_interval) == (
        pytest.approx(1),
        "the two are identical within every prompt",
    )


def test_a_prompts_own_difficulty_counts_for_nothing():
    """Over all answers the two go together, since hard prompts raise both; within prompts they
    are opposed.
    """
    rng = np.random.default_rng(1)
    prompt = np.repeat(np.arange(60), 5)
    difficulty = np.repeat(rng.normal(0, 5, 60), 5)
    own = rng.normal(size=300)
    a, b = difficulty + own, difficulty - own + rng.normal(size=300)
    assert np.corrcoef(a, b)[0, 1] > 0.8
    found = within(a, b, prompt)
    assert found.high < -0.5


# --- the ranking on right answers------------------------------------------------------------------


def test_the_ranking_on_right_answers_is_that_of_a_store_without_the_others():
    rows = rows_of(1, 30, FOUR, samples=2)
    rng = np.random.default_rng(0)
    verdicts = rng.choice([0.0, 1.0, math.nan], len(rows), p=[0.3, 0.6, 0.1])
    verdicts[rows.teacher == "d"] = 0.0
    found = outcome(scored_of(rows), RSR, "correct", verdicts)
    assert found.right == rank_teachers(scored_of(rows[verdicts == 1]), RSR)
    assert {t.teacher for t in found.right.teachers} == {"a", "b", "c"}
    for t in found.teachers:
        own = verdicts[rows.teacher == t.teacher]
        assert (t.n_right, t.n_wrong) == ((own == 1).sum(), (own == 0).sum())
        assert t.n_right + t.n_wrong + t.n_unsaid == 60
        assert t.share_right == pytest.approx(np.nanmean(own))
    values = rows.rank_sum / rows.surprisal_sum
    for within, other in ((found.verdict, verdicts), (found.length, np.log(rows.n_tokens))):
        r, *_ = by_hand(list(zip(rows.prompt, values, other, strict=True)))
        assert within.correlation == pytest.approx(r)


def test_no_right_answer_and_no_verdict():
    rows = rows_of(1, 10, FOUR)
    found = outcome(scored_of(rows), RSR, "correct", np.zeros(len(rows)))
    assert found.right is None
    assert found.why_no_ranking == "no answer is correct according to correct"
    assert found.verdict.why_null == "correct is constant within every prompt"
    assert found.length.correlation is not None
    assert {t.share_right for t in found.teachers} == {0.0}
    some = np.where(rows.teacher == "a", math.nan, 1.0)
    assert outcome(scored_of(rows), RSR, "correct", some).teachers[0].share_right is None


def test_the_keys_of_an_outcome():
    rows = rows_of(1, 12, FOUR)
    verdicts = np.random.default_rng(0).choice([0.0, 1.0], len(rows))
    told = json.loads(json.dumps(outcome(scored_of(rows), RSR, "correct", verdicts).to_json()))
    assert list(told) == OUTCOME.split() == [f.name for f in fields(Outcome)]
    assert list(told["verdict"]) == WITHIN.split() == [f.name for f in fields(WithinPrompts)]
    assert list(told["teachers"][0]) == TEACHER.split() == [f.name for f in fields(TeacherOutcome)]
    assert told["right"] == rank_teachers(scored_of(rows[verdicts == 1]), RSR).to_json()


# --- from a corpus---------------------------------------------------------------------------------

COLUMNS = ("--columns", "prompt=question", "response=generations")


@pytest.fixture(scope="module")
def scored_corpus(tmp_path_factory):
    """A corpus of three formats, scored: verdicts as words, as lists and within a column; a reject
    and a row that cannot be read lie between.
    """
    folder = tmp_path_factory.mktemp("verified")
    rng = np.random.default_rng(3)
    questions = [f"What is {n} + {n}?" for n in range(12)]
    verdict_of = {}

    def answer(n: int) -> str:
        return f"Twice {n} is {2 * n}. " * int(rng.integers(1, 5))

    corpus = folder / "corpus"
    for teacher in ("lines", "lists", "zipped"):
        (corpus / f"teacher={teacher}").mkdir(parents=True)
    lines = []
    for n, question in enumerate(questions):
        said = [True, "no", None, 1.0, "incorrect", "Yes"][n % 6]
        verdict_of[f"a{n}"] = [1, 0, None, 1, 0, 1][n % 6]
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer(n)}]
        lines.append(json.dumps({"id": f"a{n}", "messages": turns, "correct": said}))
    lines[4:4] = ["{broken", json.dumps({"id": "r", "messages": [], "correct": "never read"})]
    (corpus / "teacher=lines" / "0.jsonl").write_text("\n".join(lines) + "\n")
    rows = []
    for n, question in enumerate(questions):
        said = [bool(rng.random() < 0.5) for _ in range(2)]
        verdict_of |= {f"b{n}/{sample}": int(one) for sample, one in enumerate(said)}
        row = {"id": f"b{n}", "question": question, "generations": [answer(n), answer(n)]}
        rows.append(row | {"correct": said})
    pq.write_table(pa.Table.from_pylist(rows), corpus / "teacher=lists" / "0.parquet")
    with gzip.open(corpus / "teacher=zipped" / "0.jsonl.gz", "wt") as file:
        for n, question in enumerate(questions):
            verdict_of[f"c{n}"] = int(n % 3 > 0)
            row = {"id": f"c{n}", "prompt": question, "response": answer(n), "correct": n % 3 > 0}
            file.write(json.dumps(row | {"grade": {"passed": n % 3 > 0}}) + "\n")
    options = ["--corpus", corpus, "--student", DEMO_STUDENT, "--store", folder / "store"]
    assert main(["score", *map(str, options), *COLUMNS, "--max-rejects", "1"]) == 0
    return folder, verdict_of


def test_verdicts_of_every_format_are_joined_to_their_scores(scored_corpus):
    folder, verdict_of = scored_corpus
    store = Store(str(folder / "store"), "student", None)
    scored = load_scored(store, [RSR])
    verdicts = read_verdicts(store, scored, "correct")
    ids = scored.rows["trajectory_id"].to_pylist()
    assert len(ids) == 12 + 24 + 12
    told = [None if math.isnan(v) else int(v) for v in verdicts]
    assert dict(zip(ids, told, strict=True)) == verdict_of
    # of a path, by one teacher only
    inside = dict(zip(ids, read_verdicts(store, scored, "grade.passed"), strict=True))
    assert {i: v for i, v in inside.items() if not math.isnan(v)} == {
        i: v for i, v in verdict_of.items() if i.startswith("c")
    }
    some = scored.only(["zipped"])
    assert read_verdicts(store, some, "correct").tolist() == [
        verdict_of[i] for i in some.rows["trajectory_id"].to_pylist()
    ]


def test_the_command_shows_both_correlations_and_the_right_answers(scored_corpus, capsys):
    folder, verdict_of = scored_corpus
    options = ["teachers", "--store", str(folder / "store"), "--student", "student"]
    assert main([*options, "--json"]) == 0
    assert "outcome" not in json.loads(capsys.readouterr().out)
    options += ["--verified", "correct"]
    assert main([*options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["outcome"]
    right = [v for v in verdict_of.values() if v is not None]
    assert sum(t["n_right"] for t in told["teachers"]) == sum(right)
    assert sum(t["n_right"] + t["n_wrong"] for t in told["teachers"]) == len(right)
    assert main(options) == 0
    shown = " ".join(capsys.readouterr().out.split())
    counts = f"{sum(right)} answers are correct, {len(right) - sum(right)} incorrect"
    assert f"According to correct: {counts}" in shown
    assert f"rsr and correct: {told['verdict']['correlation']:+.2f}, " in shown
    assert f"rsr and ln n_tokens: {told['length']['correlation']:+.2f}, " in shown
    assert "On correct answers only: " in shown


def test_what_cannot_be_read_is_named_and_how_to_mend_it(scored_corpus, capsys):
    folder, _ = scored_corpus
    options = ["teachers", "--store", str(folder / "store"), "--student", "student", "--verified"]
    for column, says in (
        ("korrect", "--verified korrect: none of the 48 scored rows has a value in this column"),
        ("id", "row 0: column id has 'a0'; it must be true or false"),
    ):
        assert main([*options, column]) == 2
        assert says in capsys.readouterr().err
    shard = folder / "corpus" / "teacher=zipped" / "0.jsonl.gz"
    was = os.stat(shard)
    os.utime(shard, ns=(0, 0))
    assert main([*options, "correct"]) == 2
    assert "0.jsonl.gz was replaced since it was scored: run rsr-ray score" in (
        capsys.readouterr().err
    )
    shard.rename(shard.with_suffix(".away"))
    assert main([*options, "correct"]) == 2
    assert "0.jsonl.gz is gone since it was scored: put it back" in capsys.readouterr().err
    shard.with_suffix(".away").rename(shard)
    os.utime(shard, ns=(was.st_atime_ns, was.st_mtime_ns))
    for record in (folder / "store" / "runs").glob("*.json"):
        record.rename(record.with_suffix(".away"))
    store = Store(str(folder / "store"), "student", None)
    with pytest.raises(
        UserError, match="lacks the record of the run with the --columns or --roles"
    ):
        read_verdicts(store, load_scored(store, [RSR]), "correct")
    for record in (folder / "store" / "runs").glob("*.away"):
        record.rename(record.with_suffix(".json"))


# --- simulation------------------------------------------------------------------------------------


@pytest.mark.simulation
def test_the_interval_covers_what_it_should():
    repetitions = few(2000, 400)
    error = math.sqrt(0.05 * 0.95 / repetitions)
    for other in ("verdict", "length"):
        assert 0.03 - 3 * error <= sum(within_tails(other, 60, 4, repetitions)) <= 0.07 + 3 * error


def test_a_simulation_finds_an_interval_that_is_too_narrow(monkeypatch):
    monkeypatch.setattr(
        within_prompts, "interval", lambda values, each, *_: interval(values, each, 0.85)
    )
    assert sum(within_tails("verdict", 60, 4, 400)) > 0.10
