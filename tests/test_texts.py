"""Texts on the page: of the very rows that were scored, or none; and no more than has room."""

import json
import os
from typing import NamedTuple

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.utils import htmlsafe_json_dumps

from rsr_ray.decide.loading import load_scored
from rsr_ray.metrics import RSR
from rsr_ray.report.page.contents import TEXT_EACH, Contents, Sources, find_contents
from rsr_ray.report.page.corpus_rows import Missing, read_rows
from rsr_ray.report.page.render import as_html
from rsr_ray.report.page.report import make_report
from rsr_ray.report.page.summaries import RankedScores
from rsr_ray.report.page.texts import Part, text_of_row
from rsr_ray.report.page.trajectories import ShownTrajectory, shown_trajectories

from .browser.stores import answer_of, rows_of, write_store

TEACHERS = ["alpha-7b", "beta-72b"]


class Shown(NamedTuple):
    """What a page shows of the trajectories of a store without token scores."""

    trajectories: list[ShownTrajectory]
    contents: Contents


def shown(store) -> Shown:
    scored = load_scored(store, [RSR])
    values = RSR.values(scored.columns, scored.prompt)
    ranked = RankedScores(scored, values, [*range(len(scored.teachers))])
    trajectories = shown_trajectories(ranked, RSR)
    return Shown(trajectories, find_contents(store, trajectories, Sources(None, None, 100.0, 1.0)))


@pytest.fixture
def made(tmp_path):
    """A corpus without token scores, its store, and its rows by id."""

    def make(**settings):
        rows = rows_of(TEACHERS, 12)
        store = write_store(tmp_path / "store", rows, corpus=tmp_path / "c.jsonl", **settings)
        return tmp_path / "c.jsonl", store, rows.set_index("trajectory_id")

    return make


def altered(corpus, change):
    """The corpus with other lines."""
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join(change(lines)))


@pytest.mark.parametrize("columns", [(), ("prompt=question", "response=answer")])
def test_the_text_is_that_of_each_shown_trajectory(made, columns):
    corpus, store, rows = made(columns=columns)
    os.utime(corpus, (1, 1))  # copied again, say: its rows are what they were
    student = shown(store)
    assert not student.contents.missing
    assert len(student.trajectories) == len(student.contents.texts) == 12
    for i, trajectory in enumerate(student.trajectories):
        own = rows.loc[trajectory.trajectory_id]
        assert student.contents.texts[i] == [
            Part("user", f"What is task {own.prompt_id}?", 0),
            Part("assistant", answer_of(own), 0),
        ]


def test_no_text_of_another_row_is_shown(made):
    corpus, store, _ = made()
    before = shown(store)
    rows = [trajectory.source_row for trajectory in before.trajectories]
    first, second, last = rows[0], rows[1], max(rows)

    def change(lines):
        lines[first] = lines[first].replace("adds", "subtracts")
        lines[second] = "not JSON\n"
        return lines[:last]

    altered(corpus, change)
    after = shown(store)
    why = {rows[i]: said for i, said in after.contents.missing.items()}
    assert why == {
        first: "its row has changed since it was scored",
        second: "its row has changed since it was scored",
        last: "its row is no longer in the file",
    }
    assert all(text == before.contents.texts[i] for i, text in after.contents.texts.items())
    altered(corpus, lambda lines: lines[::-1])
    assert not shown(store).contents.texts
    corpus.unlink()
    gone = shown(store).contents
    assert {*gone.missing.values()} == {"the file is no longer there"}
    assert len(gone.missing) == 12
    corpus.mkdir()
    assert "the file cannot be read: " in shown(store).contents.missing[0]


def test_a_store_that_does_not_tell_has_no_texts(made, tmp_path):
    _, store, _ = made(columns=("prompt=question", "response=answer"))
    for record in (tmp_path / "store" / "runs").iterdir():
        record.unlink()
    (why,) = {*shown(store).contents.missing.values()}
    assert why == "the store lacks the record of the run that read it"
    old = write_store(tmp_path / "old", rows_of(TEACHERS, 12))
    (why,) = {*shown(old).contents.missing.values()}
    assert why.startswith("the store has no hash of its text")


@pytest.mark.parametrize("most", [0, 1, 5, 20, None])
def test_no_more_rows_are_read_than_allowed(made, most):
    _, store, _ = made()
    rows = dict(enumerate(shown(store).trajectories))
    found = dict(read_rows(store, rows, most))
    assert found.keys() == rows.keys()
    read = [rows[i].source_row for i, row in found.items() if not isinstance(row, Missing)]
    assert most is None or max(read, default=-1) < most
    far = {i for i, row in found.items() if isinstance(row, Missing)}
    assert all("takes too long" in found[i].why for i in far)
    assert all(most is not None and rows[i].source_row >= most for i in far)


def row(*turns):
    return {"messages": json.dumps([{"role": role, "content": text} for role, text in turns])}


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).flatmap(
    lambda text: st.integers(1, 40).map(lambda n: text * n)
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "tool"]), ANY_TEXT), max_size=3),
    st.lists(st.tuples(st.sampled_from(["assistant", "tool"]), ANY_TEXT), min_size=1, max_size=8),
    st.integers(200, 4000),
)
def test_a_long_text_has_its_opening_and_its_end_and_keeps_within_its_room(prompt, rest, most):
    turns = [*prompt, ("assistant", "an answer"), *rest]
    parts = text_of_row(row(*turns), most)
    whole = "".join(text for _, text in turns)
    assert sum(len(part.text) + part.left_out for part in parts) == len(whole)
    assert len(htmlsafe_json_dumps(parts, ensure_ascii=False).encode()) <= most + 100
    if all(part.left_out == 0 for part in parts):
        assert [tuple(part[:2]) for part in parts] == turns
    place = 0  # each part is what the whole has at its place
    for part in parts:
        assert whole[place : place + len(part.text)] == part.text
        place += len(part.text) + part.left_out
    if len(whole.encode()) * 6 + 40 * len(turns) < most:
        assert place == sum(len(part.text) for part in parts), "what has room is whole"


def test_of_a_long_prompt_no_more_is_shown_than_leaves_room_for_the_answer():
    parts = text_of_row(row(("user", "p" * 99_000), ("assistant", "a" * 8_000)), TEXT_EACH)
    assert [(part.role, part.left_out > 0) for part in parts] == [
        ("user", True),
        ("", False),
        ("assistant", False),
    ]
    (asked, _, said, end) = text_of_row(
        row(("user", "p" * 99_000), ("assistant", "a" * 99_000 + "the end")), TEXT_EACH
    )
    assert len(asked.text) < TEXT_EACH / 4 < TEXT_EACH / 3 < len(said.text)
    assert end.text.endswith("the end")


def test_the_calls_of_an_answer_are_in_its_text():
    call = {"type": "function", "function": {"name": "search", "arguments": {"query": "名前"}}}
    turns = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
    ]
    (_, answer) = text_of_row({"messages": json.dumps(turns)}, TEXT_EACH)
    said = 'Let me see.\n{"name": "search", "arguments": {"query": "名前"}}'
    assert answer == Part("assistant", said, 0)


def test_a_trajectory_has_the_same_link_wherever_its_row_lies(made, tmp_path):
    _, store, _ = made()
    links = {t.trajectory_id: t.link for t in shown(store).trajectories}
    assert len({*links.values()}) == len(links) == 12
    moved = pd.concat([rows_of(["gamma-2b"], 3), rows_of(TEACHERS, 12)])
    moved.loc[moved.teacher == "gamma-2b", "trajectory_id"] += "-g"
    elsewhere = write_store(tmp_path / "other", moved, corpus=tmp_path / "d.jsonl")
    again = {t.trajectory_id: t.link for t in shown(elsewhere).trajectories}
    assert again.items() >= links.items()


def test_a_page_of_many_long_texts_stays_under_three_megabytes(tmp_path):
    """20 teachers, texts of characters that HTML spells out."""
    rows = rows_of([f"{'<&>' * 8}-{n}" for n in range(20)], 6, n_tokens=(5000, 6000))
    report = make_report([write_store(tmp_path / "store", rows, corpus=tmp_path / "c.jsonl")], RSR)
    assert len(report.students[0].contents.texts) == 120
    assert 1_000_000 < len(as_html(report).encode()) < 3_000_000
