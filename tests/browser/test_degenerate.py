"""Degenerate trajectories on the page: the columns, the warning, and the ranking without them."""

from pathlib import Path

import pandas as pd
import pytest

from .stores import rows_of, write_store

TEACHERS = ["looping-3b", "steady-7b", "verbose-70b-instruct"]


def write_looping(folder: Path) -> None:
    """Loops, every third answer of the first teacher, are what makes it first; one answer of the
    last is cut off.
    """
    rows = rows_of(TEACHERS, n_prompts=60).astype({"rank_sum": float})
    loops = (rows.teacher == TEACHERS[0]) & (rows.index % 3 == 0)
    ends = rows.index == len(rows) - 1
    rows["longest_repeat"], rows["cut_off"], rows["compression_ratio"] = 3, ends, 2.0
    rows["repeated_ngrams"] = loops.map({True: 0.9, False: 0.01})
    rows.loc[rows.teacher == TEACHERS[0], "rank_sum"] *= 1.6
    rows.loc[loops, "rank_sum"] *= 0.1
    write_store(folder, rows.astype({"rank_sum": int}))


@pytest.fixture(scope="package")
def looping(report_of):
    return report_of("looping", write_looping)


@pytest.mark.parametrize("width", [390, 1280])
def test_a_winner_by_loops_is_warned_of_and_is_not_first_beside(looping, open_page, width):
    page = open_page(looping / "index.html", width=width)
    advised = page.locator(".answer").inner_text()
    assert advised == f"Train on {TEACHERS[1]}. {TEACHERS[2]} is statistically tied with it."
    assert page.locator(".recommended").get_attribute("class") == "recommended doubtful"
    assert (
        "; hollow: first only because of degenerate trajectories"
        in page.locator("section:has(table.ranking) figcaption").inner_text()
    )
    assert f"--teachers {TEACHERS[1]} " in page.locator(".next pre").inner_text()
    answer = page.locator("main").inner_text()
    assert "Statistical tie. steady-7b or verbose-70b-instruct is best on prompts like" in answer
    assert "Warning\nlooping-3b is first only because its degenerate trajectories (20 of 60)" in (
        answer
    )
    ranked = page.locator("table.ranking tbody tr")
    assert [row.split("\t")[1] for row in ranked.all_inner_texts()] == TEACHERS
    shares = [row.split("\t")[7:9] for row in ranked.all_inner_texts()]
    assert shares == [["33.3%", "0.0%"], ["0.0%", "0.0%"], ["1.7%", "1.7%"]]
    without = page.locator("table.without tbody tr").all_inner_texts()
    assert [row.split("\t")[1] for row in without] == [TEACHERS[1], TEACHERS[2], TEACHERS[0]]
    assert page.get_by_role("heading", name="Do degenerate trajectories").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_on_paper_its_columns_are_not_cut_off(looping, open_page):
    page = open_page(looping / "index.html", width=718)  # A4 at 96 dots an inch, with margins
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 718


def values(*of_teachers: float) -> dict[str, float]:
    return dict(zip(TEACHERS, of_teachers, strict=True))


def test_the_files_beside_the_page_have_the_shares(looping):
    table = pd.read_csv(looping / "teachers.csv").set_index("teacher")
    assert table.degenerate.to_dict() == pytest.approx(values(1 / 3, 0, 1 / 60))
    assert table.cut_off.to_dict() == pytest.approx(values(0, 0, 1 / 60))
