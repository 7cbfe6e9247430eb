"""What a person reads: names of the data stay names."""

import io
import shutil

import pandas as pd
import pytest
from rich.console import Console

from rsr_ray.decide.comparison import compare_sides
from rsr_ray.decide.loading import load_scored
from rsr_ray.decide.naturalness import Naturalness, TeacherNaturalness
from rsr_ray.decide.ranking import rank_teachers
from rsr_ray.decide.sides import open_side
from rsr_ray.decide.wording import probability
from rsr_ray.errors import safe
from rsr_ray.metrics import RSR
from rsr_ray.report.terminal.comparison import print_comparison
from rsr_ray.report.terminal.formats import number
from rsr_ray.report.terminal.naturalness import print_naturalness
from rsr_ray.report.terminal.ranking import print_ranking
from rsr_ray.report.terminal.rejects import print_rejects
from rsr_ray.report.terminal.teachers import print_teachers
from rsr_ray.store.records import read_as
from rsr_ray.store.rejects import RejectedRow
from rsr_ray.store.teacher_rows import TeacherRow

from .browser.stores import rejects_of, rows_of, write_store

HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "two\nlines",
    "\u202egnp.exe",
    "[bold]markup[/bold]",
    "=cmd()",
    "../../x",
    "名前 🤖",
]


def test_a_name_cannot_steer_the_terminal():
    counts = dict.fromkeys(("n_trajectories", "n_rejected", "n_duplicates", "n_truncated"), 0)
    row = {
        "trajectory_id": "t",
        "source": "s",
        "source_row": 0,
        "reject_reason": "not_text",
        "reject_detail": "d",
    }
    out = io.StringIO()
    console = Console(file=out, width=200)
    print_teachers(
        [read_as(TeacherRow, counts | {"teacher": name}) for name in HOSTILE], "s", console
    )
    print_rejects([RejectedRow(**row, teacher=name) for name in HOSTILE], console)
    beside = [TeacherNaturalness(name, local=-1.0, global_=-2.0) for name in HOSTILE]
    print_naturalness(Naturalness(True, 3, beside, notes=[]), console)
    shown = out.getvalue()
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    for name in HOSTILE:
        assert shown.count(safe(name)) == 3, name


def test_local_naturalness_is_shown_beside_the_global_one_with_its_notes():
    out = io.StringIO()
    beside = TeacherNaturalness("T", local=-1.25, global_=-2.5)
    print_naturalness(
        Naturalness(True, 3, [beside], notes=["local naturalness has collapsed"]),
        Console(file=out, width=120),
    )
    title, head, _, row, note = (
        line.split() for line in out.getvalue().splitlines() if line.strip()
    )
    assert " ".join(title).endswith(
        "nats per token (higher is better), on the 3 prompts that all answered"
    )
    assert (head, row) == (["teacher", "local", "global"], ["T", "-1.250", "-2.500"])
    assert " ".join(note) == "note: local naturalness has collapsed"


def test_what_is_harmless_stays_as_it_is():
    assert safe("Qwen2.5-32B [x] 名前 🤖 =cmd()") == "Qwen2.5-32B [x] 名前 🤖 =cmd()"
    assert safe("a\x1b[0m\nb") == "a\\x1b[0m\\nb"


@pytest.mark.parametrize("width", [80, 100, 120])
def test_places_names_and_numbers_are_whole_in_a_narrow_terminal(tmp_path, width):
    names = ["alpha-7b", "beta-72b-instruct", "gamma-2b"]
    rows = pd.concat([rows_of(names, 30), rejects_of("delta-3b", 4)])
    for side in "ab":
        write_store(tmp_path / side, rows, student="s")
        shutil.rmtree(tmp_path / side / "runs")  # of equal fingerprints no settings need be known
    # of numbers with a comma
    store = write_store(tmp_path / "c", rows.assign(rank_sum=rows.rank_sum * 1234), student="s")
    out = io.StringIO()
    console = Console(file=out, width=width)
    table = store.read_teacher_rows()
    ranking = rank_teachers(load_scored(store, [RSR]), RSR)
    print_ranking(ranking, table, "s", console)
    sides = [open_side(f"{tmp_path / side}#s") for side in "ab"]
    print_comparison(compare_sides(*sides, RSR, confidence=0.999), console)
    said = out.getvalue()
    lines = said.splitlines()
    # where the stores are is one line each
    assert max(len(line) for line in lines if not line.startswith(("A: ", "B: "))) <= width
    for place, name in enumerate(names, 1):
        value = next(number(t.value) for t in ranking.teachers if t.teacher == name)
        assert any(line.split()[:3] == [str(place), name, value] for line in lines), name
        assert any(line.split()[:4] == [name, str(place), ">", str(place)] for line in lines), name
    assert "…" not in said
    assert "99.9%" in said
    assert "delta-3b (4 rejected: unknown_role)" in " ".join(said.split())


def test_digits():
    assert [number(v) for v in (None, 0.01234, 2.34567, 999.9994, 1213.4)] == [
        "-",
        "0.0123",
        "2.346",
        "999.999",
        "1,213",
    ]
    assert [probability(p) for p in (None, 0.0, 0.5, 1.0)] == ["-", "< 0.01", "0.50", "> 0.99"]
