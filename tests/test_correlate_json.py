"""The keys of `correlate --json`, in their order: scripts read them."""

import json
import random

import pytest

from rsr_ray.cli import main
from rsr_ray.decide.published import N_TEACHERS, STUDENTS, TWICE

from .test_correlate import rows_of, write

ANSWER = "students teachers permutations draws seed notes left_out metrics paper agreement"
STUDENT_COUNTS = "teachers tied_accuracies"
METRIC = (
    "metric better published students n_students spearman pearson kendall abs_of_mean mean_of_abs "
    "p interval interval_method why_no_interval any_order_of_ties"
)
STUDENT = "n tied spearman pearson kendall why_null p"
PAPER = "student teacher accuracy second_reading order rsr_of_students rows"
ORDER = "reproduces of tried as_good second_reading ties"
TIE = "student accuracy order"
RSR = "printed here best_order"
ROW = "metric here second_reading second_reading_of_student best_order printed reason"


def told(capsys, path: str) -> dict:
    """What --json prints, without NaN."""

    def no_constant(name: str) -> None:
        pytest.fail(f"{name} is not JSON")

    assert main(["correlate", "--table", path, "--permutations", "50", "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=no_constant)


def keys(of: dict) -> str:
    return " ".join(of)


def test_the_keys_of_an_answer(tmp_path, capsys):
    """Also of a metric that is not defined, whose numbers are null."""
    rows = rows_of(5, ("a", "b"), same=[1] * 5)
    answer = told(capsys, write(tmp_path / "t.csv", rows))
    assert keys(answer) == ANSWER
    assert answer["paper"] is answer["agreement"] is None
    assert {keys(counts) for counts in answer["students"].values()} == {STUDENT_COUNTS}
    rsr, same = answer["metrics"]
    for metric in (rsr, same):
        assert keys(metric) == METRIC
        assert {keys(of) for of in metric["students"].values()} == {STUDENT}
    numbers = METRIC.partition("n_students ")[2].split()
    assert {name for name in numbers if same[name] is None} == {*numbers}
    assert {name for name in numbers if rsr[name] is None} == {"interval", "interval_method"}
    assert rsr["any_order_of_ties"] == [pytest.approx(-1)] * 2


def made_up(teachers: range) -> list[dict]:
    """A table with the names of the paper's, other values, and one tie."""
    rng = random.Random(0)
    rows = [
        {
            "student": student,
            "teacher": TWICE.teacher if t == 0 else f"t{t}",
            "accuracy": round(50 + t + rng.random() / 2, 3),
            "rsr": round(rng.uniform(2, 4), 3),
            "mine": round(rng.uniform(2, 4), 3),
        }
        for student in STUDENTS
        for t in teachers
    ]
    rows[2]["accuracy"] = rows[1]["accuracy"]
    (first,) = [
        row for row in rows if (row["student"], row["teacher"]) == (TWICE.student, TWICE.teacher)
    ]
    first["accuracy"] = TWICE.first
    return rows


def test_the_keys_of_the_comparison_with_the_paper(tmp_path, capsys):
    rows = made_up(range(N_TEACHERS))
    paper = told(capsys, write(tmp_path / "t.csv", rows))["paper"]
    assert keys(paper) == PAPER
    assert keys(paper["order"]) == ORDER
    assert paper["order"]["tried"] == 4  # two orders of the tie, each with both accuracies
    assert [keys(tie) for tie in paper["order"]["ties"]] == [TIE]
    assert [*paper["rsr_of_students"]] == [*STUDENTS]
    assert {keys(of) for of in paper["rsr_of_students"].values()} == {RSR}
    assert {keys(row) for row in paper["rows"]} == {ROW}
    assert {row["metric"]: row["printed"] for row in paper["rows"]} == {"rsr": 0.856, "mine": None}


def test_what_is_not_defined_is_null_in_the_comparison(tmp_path, capsys):
    rows = made_up(range(N_TEACHERS))
    rows[0]["rsr"] = None
    paper = told(capsys, write(tmp_path / "t.csv", rows))["paper"]
    rsr = paper["rsr_of_students"]
    assert [name for name, of in rsr.items() if of["here"] is None] == [STUDENTS[0]]
    assert [name for name, of in rsr.items() if of["best_order"] is None] == [STUDENTS[0]]
    assert [row["metric"] for row in paper["rows"]] == ["mine"]
    # with the second accuracy all three are equal
    readings = ((TWICE.teacher, TWICE.first, 2), ("t1", TWICE.second, 3), ("t2", TWICE.second, 4))
    alike = [
        {"student": TWICE.student, "teacher": teacher, "accuracy": accuracy, "rsr": rsr}
        for teacher, accuracy, rsr in readings
    ]
    paper = told(capsys, write(tmp_path / "t.csv", alike))["paper"]
    assert [row["second_reading"] for row in paper["rows"]] == [None]
    assert [row["second_reading_of_student"] for row in paper["rows"]] == [None]


def test_only_the_papers_whole_table_is_compared_with_what_is_printed(tmp_path, capsys):
    paper = told(capsys, write(tmp_path / "t.csv", made_up(range(4))))["paper"]
    assert keys(paper) == PAPER
    assert paper["order"] is paper["rsr_of_students"] is None
    for row in paper["rows"]:
        assert keys(row) == ROW
        assert row["best_order"] is row["printed"] is row["reason"] is None
