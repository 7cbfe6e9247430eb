"""Strata on the page: readable at every size, with few teachers and strata and with many."""

import json

import pytest

from rsr_ray.metrics import RSR
from rsr_ray.report.page.report import students_of
from rsr_ray.report.page.write import write_report

from .stores import rows_of, write_store
from .test_page import at_every_size, violations

SHAPES = {"4x5": (4, 5), "40x30": (40, 30)}


def write_strata(folder, n_teachers: int, n_strata: int) -> None:
    rows = rows_of([f"teacher-{t:02d}-of-some-length" for t in range(n_teachers)], 6 * n_strata)
    number = rows.prompt_id.str[1:].astype(int) % n_strata
    rows["strata"] = [{"domain": f"domain-{n:02d} <b>"} for n in number]
    write_store(folder, rows)


@pytest.fixture(scope="package")
def made(tmp_path_factory):
    """The report of a shape, made once."""
    folders = {}

    def of(shape: str):
        if shape not in folders:
            folder = tmp_path_factory.mktemp(shape)
            write_strata(folder / "store", *SHAPES[shape])
            stores = students_of(str(folder / "store"), [], None)
            write_report(stores, str(folder / "report"), RSR, by_stratum="domain")
            folders[shape] = folder / "report"
        return folders[shape]

    return of


@pytest.mark.parametrize("shape", ["4x5"])
@at_every_size
def test_strata_can_be_read(made, open_page, shape, width, scheme):
    page = open_page(made(shape) / "index.html", width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    section = page.locator("section:has(> .head h3:text('Within domain'))")
    found = json.loads((made(shape) / "teachers.json").read_text())["students"][0]["strata"]
    said = section.inner_text()
    assert found["sentence"] in said
    assert found["overall"]["sentence"] in said
    chart = section.locator("svg:visible")
    sizes = chart.locator("text").evaluate_all(
        "texts => texts.map(t => Math.min(...['width', 'height'].map("
        "side => t.getBoundingClientRect()[side])))"
    )
    assert min(sizes) > 7.5, "letters too small to read"
    assert chart.get_attribute("aria-labelledby")
    if scheme == "dark" or width == 360:
        assert violations(page) == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1400, "dark")])
def test_many_strata_can_be_read(made, open_page, width, scheme):
    test_strata_can_be_read(made, open_page, "40x30", width, scheme)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_stratum_has_its_table(made, open_page, shape):
    page = open_page(made(shape) / "index.html")
    found = json.loads((made(shape) / "teachers.json").read_text())["students"][0]["strata"]
    opened = page.locator(".by-stratum details")
    assert opened.count() == len(found["strata"])
    for details, one in zip(opened.all(), found["strata"], strict=True):
        assert (details.get_attribute("open") is not None) == (shape == "4x5")
        assert details.locator("summary").text_content().startswith(one["stratum"])
        names = details.locator("tbody th").all_text_contents()
        assert names == [t["teacher"] for t in one["ranking"]["teachers"]]


def test_without_strata_the_page_and_its_json_say_nothing_of_them(plain):
    assert "strata" not in json.loads((plain / "teachers.json").read_text())["students"][0]
    assert "Heat map" not in (plain / "index.html").read_text()


def test_a_link_opens_what_is_folded(made, open_page):
    page = open_page(made("40x30") / "index.html")
    link = page.get_by_role("link", name="Copy link: domain domain-07 <b>")
    folded = page.locator("details", has=page.locator("summary:has-text('domain-07')"))
    assert not link.is_visible()
    page = open_page(f"{page.url_opened}#{folded.get_attribute('id')}")
    link = page.get_by_role("link", name="Copy link: domain domain-07 <b>")
    assert link.is_visible()
    assert page.locator("details[open]").count() == 1
    assert link.evaluate("e => e.getBoundingClientRect().top") < 200
