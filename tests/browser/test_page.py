"""The page in Chromium: it works at every size, by mouse and by keyboard, whatever the names;
and its numbers are the store's.
"""

import csv
import io
import itertools
import re
from dataclasses import replace
from unicodedata import category

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from pypdf import PdfReader

from rsr_ray.decide.nights import FailedNight, History
from rsr_ray.errors import safe
from rsr_ray.report.page.charts.names import labels
from rsr_ray.report.page.trajectories import WINDOW, parts_of, tokens_of

from .conftest import HARMLESS, HOSTILE, PLAIN, report
from .stores import FINGERPRINT, rejects_of, rows_of, write_store

WIDTHS = {"phone": 360, "tablet": 820, "desktop": 1400}
MOST_BYTES = 3_000_000
SHOWN_ROWS = "table.trajectories tbody tr:not([hidden])"
FOCUSABLE = "a[href], button, input, select, [tabindex='0']"
# A browser on a busy machine draws a table before it has read all of it, and then its columns grow:
# up to 0.009 was seen; web.dev calls less than 0.1 good.
LEAST_SHIFT = 0.03
LAYOUT_SHIFT = """() => new Promise((done) => {
  let sum = 0;
  const add = (list) => list.getEntries().forEach((e) => (sum += e.value));
  new PerformanceObserver(add).observe({type: "layout-shift", buffered: true});
  setTimeout(() => done(sum), 200);
})"""
REACHABLE = f"""[...document.querySelectorAll("{FOCUSABLE}")].filter((e) => e.checkVisibility())"""


def at_every_size(test):
    test = pytest.mark.parametrize("scheme", ["light", "dark"])(test)
    return pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)(test)


def at_every_width(test):
    """And under each scheme: what is done with the mouse and the keyboard does not depend on it."""
    each = [
        pytest.param(WIDTHS[name], scheme, id=f"{scheme}-{name}")
        for name, scheme in zip(WIDTHS, ("light", "dark", "light"), strict=True)
    ]
    return pytest.mark.parametrize(("width", "scheme"), each)(test)


def violations(page, context: str | None = None) -> list[tuple[str, str, str]]:
    """What axe-core finds, of any impact."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, context, {"resultTypes": ["violations"]}).response["violations"]
    return [(v["id"], v["impact"], v["nodes"][0]["html"]) for v in found]


def column(page, n: int) -> list[str]:
    """Texts of a column of the trajectories that are shown."""
    return [
        text.strip() for text in page.locator(f"{SHOWN_ROWS} > :nth-child({n})").all_inner_texts()
    ]


def table(page, heading: str) -> pd.DataFrame:
    """The table below a heading, as text, its first line as column names."""
    rows = page.locator(f"section:has(h3:text('{heading}')) tr").evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => c.innerText.trim()))"
    )
    return pd.DataFrame(rows[1:], columns=rows[0])


def digits(value: float) -> str:
    """A number as the page shows it."""
    return (
        f"{value:,.0f}"
        if abs(value) >= 1000
        else f"{value:.3f}"
        if abs(value) >= 0.1
        else f"{value:.3g}"
    )


def chance(text: str) -> float:
    """A probability as the page shows it."""
    return float(text.removeprefix("> ").removeprefix("< "))


# --- sizes and schemes-----------------------------------------------------------------------------


@at_every_size
def test_opens_from_disk_without_faults_shifts_or_overflow(plain, open_page, width, scheme):
    page = open_page(plain / "index.html", width=width, scheme=scheme)
    assert page.evaluate(LAYOUT_SHIFT) < LEAST_SHIFT
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert violations(page) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    kind = "narrow" if width == 360 else "wide"
    for chart in page.locator("figure").all():
        assert chart.locator("svg:visible").get_attribute("class") == kind
        letters = chart.locator(f"svg.{kind} text").evaluate_all(
            "texts => texts.map(t => t.getBoundingClientRect().height)"
        )
        assert min(letters) > 7.5, "letters too small to read"
    page.locator(".open").first.click()
    if kind == "narrow":
        assert violations(page, "dialog") == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


@at_every_width
def test_sorts_filters_and_opens_by_mouse(plain, open_page, width, scheme):
    page = open_page(plain / "index.html", width=width, scheme=scheme)
    assert page.locator("[data-count]").inner_text() == "30 of 30 trajectories"
    as_made = column(page, 8)
    for _ in range(2):
        page.get_by_role("button", name="tokens").click()
        turn = page.locator("th[aria-sort]").get_attribute("aria-sort")
        lengths = [int(n) for n in column(page, 6)]
        assert lengths == sorted(lengths, reverse=turn == "descending")
        assert len({*lengths}) > 5
    page.get_by_role("button", name="trajectory").click()
    assert column(page, 8) == sorted(as_made, key=lambda text: text.casefold())
    page.get_by_label("Filter").fill("GAMMA")
    assert {*column(page, 1)} == {"gamma-2b-it"}
    page.get_by_label("Show").select_option("worst")
    assert {*column(page, 2)} == {"worst"}
    assert page.locator("[data-count]").inner_text() == "3 of 30 trajectories"
    button = page.locator(f"{SHOWN_ROWS} .open").first
    button.click()
    assert page.get_by_role("dialog").is_visible()
    tokens = page.locator("#viewer-text span")
    assert tokens.count() == int(column(page, 6)[0])
    assert page.locator("#viewer-text").inner_text().startswith("So the answer is⏎\n· 42.So")
    sizes = tokens.evaluate_all("all => all.map((e) => e.getBoundingClientRect().width)")
    assert min(sizes) > 3, "every token can be seen and clicked"
    tokens.nth(5).click()
    assert (
        page.locator("#viewer-status").inner_text().startswith(f'token 6 of {tokens.count()}: ""')
    )
    tokens.nth(2).click()
    said = f'token 3 of {tokens.count()}: " answer", rank 5, surprisal 2 nats, entropy 1.5 nats'
    assert page.locator("#viewer-status").inner_text() == said
    page.get_by_role("button", name="Close").click()
    assert not page.get_by_role("dialog").is_visible()


@at_every_width
def test_sorts_filters_and_opens_by_keyboard_alone(plain, open_page, width, scheme):
    page = open_page(plain / "index.html", width=width, scheme=scheme)
    n = page.evaluate(f"{REACHABLE}.length")
    press = page.keyboard.press

    def tab_to(locator):
        for _ in range(n):
            press("Tab")
            if locator.evaluate("e => e === document.activeElement"):
                return
        pytest.fail(f"Tab does not get to {locator}")

    tab_to(page.get_by_label("Filter"))
    page.keyboard.type("beta")
    assert {*column(page, 1)} == {"beta-72b"}
    tab_to(page.get_by_label("Show"))
    press("ArrowDown")
    assert {*column(page, 2)} == {"best"}
    tab_to(page.get_by_role("button", name="mean rank"))
    for key, turn in (("Enter", "ascending"), ("Space", "descending")):
        press(key)
        assert page.locator("th[aria-sort]").get_attribute("aria-sort") == turn
        ranks = [float(text) for text in column(page, 4)]
        assert ranks == sorted(ranks, reverse=turn == "descending")
    button = page.locator(f"{SHOWN_ROWS} .open").nth(1)
    tab_to(button)
    press("Enter")
    assert page.evaluate("document.activeElement.id") == "viewer-text"
    status = page.locator("#viewer-status")
    for key, at in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowDown", 12),
        ("ArrowLeft", 11),
        ("ArrowUp", 1),
        ("End", None),
        ("Home", 1),
    ):
        press(key)
        assert status.inner_text().startswith(
            f"token {at or page.locator('#viewer-text span').count()} of "
        )
    press("Escape")
    assert not page.get_by_role("dialog").is_visible()
    assert button.evaluate("e => e === document.activeElement"), "focus comes back to where it was"


@pytest.fixture(scope="module")
def long(report_of):
    """Trajectories of 20,000 tokens that surprise at tokens 13,201 to 13,260 alone."""

    def write(folder):
        rows = rows_of(PLAIN[:2], 4, n_tokens=(20_000, 20_001))
        surprisal = lambda at: np.where(  # noqa: E731
            (at >= 13_200) & (at < 13_260), 9.0, at % 3 / 4
        )
        write_store(folder, rows, words=[" one", " two", "\n"], surprisal=surprisal)

    return report_of("long", write)


@at_every_width
def test_a_long_trajectory_shows_where_it_is_strange(long, open_page, width, scheme):
    page = open_page(long / "index.html", width=width, scheme=scheme)
    page.locator(".open").first.click()
    assert page.locator("#viewer-title").inner_text().endswith("1,500 of 20,000 tokens")
    strip, status, tokens = (
        page.locator(f"#viewer-{name}") for name in ("strip", "status", "text")
    )
    said = (
        "highest surprisal at tokens 13,201 to 13,400 of 20,000, 66% of the way: 2.87 nats, rank 62"
    )
    assert said in page.get_by_role("dialog").get_by_role("img").get_attribute("aria-label")
    assert said in page.locator("#viewer-said").inner_text()
    bars = strip.locator("i").evaluate_all(
        "all => all.map((e) => [e.className, e.getBoundingClientRect().height])"
    )
    assert len(bars) == 100
    assert max(range(100), key=lambda n: bars[n][1]) == 66
    assert [n for n in range(100) if bars[n][0].startswith("s3")] == [66]
    # A click on the peak shows a token of it, though the text begins with the opening.
    box = strip.bounding_box()
    strip.click(position={"x": box["width"] * 0.661, "y": box["height"] - 2})
    found = re.match(r"token ([\d,]+) of 20,000: .*, surprisal 9 nats", status.inner_text())
    assert 13_200 < int(found[1].replace(",", "")) <= 13_260
    assert page.locator("#viewer-text .at").evaluate(IN_VIEW)
    assert strip.locator("i").nth(66).get_attribute("class").endswith(" at")
    gaps = [
        int(n.replace(",", ""))
        for n in re.findall(r"… ([\d,]+) tokens? left out …", tokens.inner_text())
    ]
    assert sum(gaps) + tokens.locator("span").count() == 20_000
    # By keyboard: the parts one after the other, and positions go on over what is left out.
    page.keyboard.press("Home")
    page.keyboard.press("PageDown")
    first = int(re.match(r"token ([\d,]+) of", status.inner_text())[1].replace(",", ""))
    assert (
        first
        == tokens.locator(".out").first.evaluate("e => [...e.parentNode.children].indexOf(e)")
        + gaps[0]
        + 1
    )
    page.keyboard.press("PageUp")
    assert status.inner_text().startswith("token 1 of 20,000")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert violations(page, "dialog") == []


IN_VIEW = """(e) => {
  const own = e.getBoundingClientRect(), box = e.parentNode.getBoundingClientRect();
  return own.top >= box.top && own.bottom <= box.bottom;
}"""


def test_parts_that_are_shown_are_the_opening_and_the_most_surprising():
    rng = np.random.default_rng(0)
    for n, most in ((1500, 1500), (1501, 1500), (9000, 1500), (700, 125), (160, 39), (50, 0)):
        surprisal = rng.gamma(0.3, 2, n)
        parts = parts_of(surprisal, most)
        assert parts[0][0] == 0
        assert all(a[1] < b[0] for a, b in itertools.pairwise(parts))
        assert sum(stop - start for start, stop in parts) <= most
        if n <= most:
            assert parts == [(0, n)]
            continue
        # No window apart from the opening and the chosen ones surprises more than the least of
        # these.
        free, opening = np.ones(n, bool), most - 3 * most // 4 // WINDOW * WINDOW
        for start, stop in parts:
            free[start:stop] = False
        sums = np.convolve(surprisal, np.ones(WINDOW), "valid")
        chosen = [at for start, stop in parts for at in range(start or opening, stop, WINDOW)]
        assert all((stop - (start or opening)) % WINDOW == 0 for start, stop in parts)
        least = min(sums[chosen], default=np.inf)
        apart = [start for start in range(n - WINDOW + 1) if free[start : start + WINDOW].all()]
        assert all(sums[start] <= least + 1e-9 for start in apart)


@pytest.mark.parametrize("n", [1, 7, 100, 199, 12_345])
def test_the_strip_is_the_means_of_its_parts(n):
    rng = np.random.default_rng(n)
    found = {
        "text": ["a"] * n,
        "rank": rng.integers(1, 500, n).tolist(),
        "surprisal": rng.gamma(1, 2, n).tolist(),
        "entropy": [1.0] * n,
    }
    made = tokens_of(found, 300, 100)
    bins = min(100, n)
    assert len(made.strip.surprisal) == len(made.strip.rank) == bins
    for i in range(bins):
        inside = slice(i * n // bins, (i + 1) * n // bins)
        assert made.strip.surprisal[i] == pytest.approx(
            np.mean(found["surprisal"][inside]), abs=0.006
        )
        assert made.strip.rank[i] == pytest.approx(
            np.mean(np.minimum(found["rank"][inside], 100)), abs=0.06
        )
    positions = [at for start, stop in made.parts for at in range(start, stop)]
    assert made.rank == [found["rank"][at] for at in positions]
    assert len(positions) == len(made.text) == len(made.surprisal) == len(made.entropy) <= 300


def test_tab_reaches_everything_in_order_and_only_once(plain, open_page):
    page = open_page(plain / "index.html")
    n = page.evaluate(f"{REACHABLE}.length")
    order = []
    for _ in range(n):
        page.keyboard.press("Tab")
        order.append(page.evaluate(f"{REACHABLE}.indexOf(document.activeElement)"))
    assert order == [*range(n)]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus can be seen"


def test_a_static_server_sends_it_in_one_request(server, open_page):
    page = open_page(f"{server}/index.html")
    page.locator(".open").first.click()
    assert page.get_by_role("dialog").is_visible()


def test_headings_charts_and_tables_are_what_they_say(plain, open_page):
    page = open_page(plain / "index.html")
    levels = [
        int(tag[1])
        for tag in page.locator("h1, main h2, h3, h4").evaluate_all(
            "all => all.map(e => e.tagName)"
        )
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    charts = page.get_by_role("img").all()
    assert len(charts) == 5
    for chart in charts:
        title = chart.get_attribute("aria-labelledby")
        assert len(page.locator(f'[id="{title}"]').text_content()) > 30
    for found in page.locator("table").all():
        assert (
            found.locator("thead th[scope=col]").count()
            == found.locator("tbody tr").first.locator("> *").count()
        )
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len({*ids})
    named = page.evaluate(
        "[...document.querySelectorAll('[aria-labelledby]')].map(e => "
        "e.getAttribute('aria-labelledby'))"
    )
    assert {*named} <= {*ids}
    assert (
        "none of their rows was scored: zeta-broken (2 rejected: unknown_role)"
        in page.locator("main").inner_text()
    )
    ranked = page.locator("section:has(h3:text('Ranking, with'))").inner_text()
    assert "Rank-Surprisal Ratio (rsr)" in ranked
    assert "r_max = 100" in ranked
    shown = table(page, "Ranking")
    assert page.locator(".scroll:has(.ranking)").evaluate("e => e.scrollWidth <= e.clientWidth"), (
        "all columns are seen without scrolling"
    )
    alts = " ".join(chart.locator("title").text_content() for chart in charts)
    for n, row in shown.iloc[:3].iterrows():
        assert (
            f"#{n + 1} {row['teacher']} has mean surprisal {row['mean surprisal']} nats and "
            f"mean rank {row['mean rank']}"
        ) in alts
    assert "In the last, 2026-11-03: #1 alpha-7b, #2 beta-72b," in alts


def test_on_paper_nothing_is_cut_off(plain, open_page):
    # A4 at 96 dots an inch, with margins
    page = open_page(plain / "index.html", width=718, scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    for region in page.locator(".scroll").all():
        assert region.evaluate(
            "e => getComputedStyle(e).overflowX === 'visible' && e.scrollWidth <= e.clientWidth"
        )
    assert page.locator("figure svg.wide:visible").count() == page.locator("figure").count() == 5
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(page.pdf()) > 20_000


def test_forty_teachers_on_paper(forty, open_page):
    page = open_page(forty / "index.html", width=718)
    page.emulate_media(media="print")
    lines = page.locator(".ranking tbody .name").evaluate_all(
        "all => all.map((e) => e.offsetHeight / parseFloat(getComputedStyle(e).lineHeight))"
    )
    assert max(lines) < 3, "a name has at most two lines"
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    margin = dict.fromkeys(("top", "bottom", "left", "right"), "10mm")
    sheets = [
        sheet.extract_text()
        for sheet in PdfReader(io.BytesIO(page.pdf(format="A4", margin=margin))).pages
    ]
    assert len(sheets) < 15
    assert min(len(sheet.split()) for sheet in sheets) > 40, "no sheet is next to empty"
    # A chart lies on one sheet, with its heading, its axes and what is said below it; the first
    # with the answer.
    together = [
        (
            "Which teacher should",
            "Ranking, with",
            "#1 teacher-00",
            "#40 teacher-34",
            "rsr (lower is better)",
            "rsr of each teacher",
        ),
        (
            "Why: surprisal and rank",
            "rsr is mean rank",
            "mean surprisal, nats per token",
            "Mean surprisal against mean rank",
        ),
        (
            "Individual trajectories",
            "#1 teacher-00",
            "#40 teacher-34",
            "rsr (lower is better)",
            "All trajectories of each teacher",
        ),
        (
            "Does length explain the ranking?",
            "Spearman correlation",
            "scored tokens of a trajectory",
            "Trajectory length against",
        ),
        ("Pairwise comparison", "#1 teacher-00", "#12 teacher-16"),
    ]
    for texts in together:
        (sheet,) = (sheet for sheet in sheets if texts[0] in sheet)
        assert [text for text in texts if text not in sheet] == []


# --- names-----------------------------------------------------------------------------------------


def write_named(names: list[str]):
    def write(folder):
        rows = rows_of(names, n_prompts=8)
        words = rows.prompt_id.str[1:].astype(int)
        rows["prompt_id"] = [names[n] for n in words]
        rows["trajectory_id"] = [
            f"{names[n]}{teacher}" for n, teacher in zip(words, rows.teacher, strict=True)
        ]
        rejects = [
            rejects_of(names[0], 2, names[0]),
            *(
                rejects_of(names[1], 1, name, reason)
                for name, reason in zip(names, REASONS, strict=False)
            ),
        ]
        write_store(folder, pd.concat([rows, *rejects]), words=names, n_nights=2)

    return write


REASONS = [
    "template_error",
    "over_length",
    "not_text",
    "tokenizer_error",
    "tool_calls",
    "empty_response",
]
OUTSIDE_CHARTS = (
    "[...document.querySelectorAll('*')].filter((e) => !e.closest('svg')).map((e) => e.tagName)"
)
IN_CHARTS = "[...new Set([...document.querySelectorAll('svg *')].map((e) => e.tagName))].sort()"


@pytest.fixture(scope="module")
def named(report_of):
    return {
        kind: report_of(kind, write_named(names))
        for kind, names in (("harmless", HARMLESS), ("hostile", HOSTILE))
    }


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_hostile_names_are_only_names(named, open_page, width):
    pages = {kind: open_page(folder / "index.html", width=width) for kind, folder in named.items()}
    for what in (OUTSIDE_CHARTS, IN_CHARTS):
        assert pages["hostile"].evaluate(what) == pages["harmless"].evaluate(what)
    page = pages["hostile"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    shown = page.locator(".ranking tbody .name").all_inner_texts()
    assert {*shown} == {safe(name) for name in HOSTILE}
    chart = page.locator("figure svg:visible").first
    for name in HOSTILE:
        short = safe(name)[:9]
        assert any(short in text for text in chart.locator("text").all_text_contents()), name
    page.locator(".open").first.click()
    tokens = page.locator("#viewer-text span").all_text_contents()
    assert tokens == [visible(HOSTILE[n % len(HOSTILE)]) for n in range(len(tokens))]
    for _ in range(len(HOSTILE)):
        page.keyboard.press("ArrowRight")
        assert safe(status := page.locator("#viewer-status").text_content()) == status
    assert page.evaluate("document.documentElement.scrollWidth") == width


def visible(token: str) -> str:
    """A token as the viewer shows it."""
    shown = {"\n": "⏎\n", "\t": "⇥\t"}
    return (
        "".join(shown.get(c, f"\\u{{{ord(c):x}}}") if category(c)[0] == "C" else c for c in token)
        or "·"
    )


def test_hostile_names_in_the_files_beside_it(named):
    text = (named["hostile"] / "teachers.csv").read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert {row["teacher"].removeprefix("'") for row in rows} == {*HOSTILE}
    assert not [
        cell
        for row in rows
        for cell in row.values()
        if cell[:1] in ("=", "+", "-", "@", "\t", "\r")
    ]
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = parser.parse((named["hostile"] / "summary.md").read_text())
    allowed = {"text", "strong_open", "strong_close", "softbreak"}
    inline = [child for token in tokens for child in token.children or []]
    assert {child.type for child in inline} <= allowed | {"text_special"}
    texts = [
        "".join(child.content for child in token.children) for token in tokens if token.children
    ]
    for name in HOSTILE:
        assert safe(name) in texts, name
    assert [t.type for t in tokens].count("tr_open") == len(HOSTILE) + 1
    plain = parser.parse((named["harmless"] / "summary.md").read_text())
    assert [t.type for t in tokens] == [t.type for t in plain]


@pytest.mark.parametrize("student", ["tokens", "viewer", "a.b"])
def test_a_student_may_have_the_name_of_a_part_of_the_page(tmp_path, open_page, student):
    folder = report(
        tmp_path,
        lambda store: write_store(store, rows_of(PLAIN[:2], 4), student=student, words=["a"]),
    )
    page = open_page(folder / "index.html")
    page.locator(".open").first.click()
    assert page.get_by_role("dialog").is_visible()
    assert page.locator("#viewer-text span").count()
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len({*ids})


# --- numbers---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores(plain):
    rows = pd.read_parquet(plain.parent / "store" / "scores")
    return rows[rows.reject_reason.isna()].assign(
        x=lambda r: r.rank_sum / r.n_tokens, y=lambda r: r.surprisal_sum / r.n_tokens
    )


def resampled(scores: pd.DataFrame, draws: int = 4000) -> pd.DataFrame:
    """rsr of each teacher on prompts drawn with replacement."""
    x, y = (scores.pivot_table(index="prompt_id", columns="teacher", values=name) for name in "xy")
    drawn = np.random.default_rng(1).integers(len(x), size=(draws, len(x)))
    return pd.DataFrame(
        x.to_numpy()[drawn].mean(1) / y.to_numpy()[drawn].mean(1), columns=x.columns
    )


def test_the_ranking_is_the_stores(plain, open_page, scores):
    page = open_page(plain / "index.html")
    shown = table(page, "Ranking").set_index("teacher")
    means = scores.groupby("teacher")[["x", "y"]].mean()
    value = (means.x / means.y).sort_values()
    ratio = scores.rsr.groupby(scores.teacher)
    quarters = ratio.quantile(0.75) - ratio.quantile(0.25)
    won = (
        scores.pivot_table(index="prompt_id", columns="teacher", values="rsr")
        .idxmin(axis=1)
        .value_counts(normalize=True)
    )
    draws = resampled(scores)
    best = draws.idxmin(axis=1).value_counts(normalize=True)
    assert shown.index.tolist() == value.index.tolist()
    for place, (name, row) in enumerate(shown.iterrows(), 1):
        assert row["#"] == str(place)
        assert row["rsr (lower is better)"] == row["on all prompts"] == digits(value[name])
        assert (row["median"], row["IQR"], row["std"]) == (
            digits(ratio.median()[name]),
            digits(quarters[name]),
            digits(ratio.std()[name]),
        )
        assert row["mean tokens"] == f"{scores[scores.teacher == name].n_tokens.mean():,.0f}"
        assert (row["mean rank"], row["mean surprisal"]) == (
            digits(means.x[name]),
            digits(means.y[name]),
        )
        assert (row["scored"], row["rejected"]) == ("30", "3" if name == "beta-72b" else "0")
        assert row["prompts won"] == f"{won.get(name, 0):.0%}"
        low, high = np.percentile(draws[name], [2.5, 97.5])
        assert [float(text) for text in row["interval"].split(" – ")] == pytest.approx(
            [low, high], abs=0.15 * (high - low)
        )
        assert chance(row["P(best)"]) == pytest.approx(best.get(name, 0), abs=0.04)
    pairs = table(page, "Pairwise")
    for i, a in enumerate(value.index):
        assert pairs.iloc[i, 0] == f"#{i + 1} {a}"
        for j, b in enumerate(value.index):
            shown_p = pairs.iloc[i, j + 1]
            assert (
                shown_p == "·"
                if i == j
                else chance(shown_p) == pytest.approx((draws[a] < draws[b]).mean(), abs=0.04)
            )


def test_lengths_rejects_and_trajectories_are_the_stores(plain, open_page, scores):
    page = open_page(plain / "index.html")
    said = page.locator("section:has(h3:text('Does length explain the ranking?')) p").inner_text()
    within = (
        scores.groupby("teacher")[["rsr", "n_tokens"]]
        .apply(lambda g: g.corr(method="spearman").iloc[0, 1])
        .mean()
    )
    over_all = scores[["rsr", "n_tokens"]].corr(method="spearman").iloc[0, 1]
    assert re.findall(r"[+-]\d\.\d\d", said) == [
        f"{round(r, 2) + 0:+.2f}" for r in (over_all, within)
    ]
    rejects = table(page, "Rejected rows").set_index("reason")
    assert rejects["rows"].to_dict() == {"unknown_role": "5", "no_teacher": "1"}
    assert "turn 2 has role 'critic'" in rejects["example"]["unknown_role"]
    run = page.locator("section:has(h3:text('The run')) dd").first.inner_text()
    assert run == "read 156 = scored 150 + rejected 6 + already scored 0"
    rows = scores.set_index("trajectory_id")
    best, worst = (
        {
            t
            for _, g in scores.sort_values("rsr", ascending=up).groupby("teacher")
            for t in g.trajectory_id[:3]
        }
        for up in (True, False)
    )
    shown = [
        [text.strip() for text in row.locator("td").all_inner_texts()]
        for row in page.locator(SHOWN_ROWS).all()
    ]
    assert {row[7] for row in shown if row[1] == "best"} == best
    assert {row[7] for row in shown if row[1] == "worst"} == worst
    for teacher, _, *numbers, prompt, trajectory in shown:
        own = rows.loc[trajectory]
        assert (teacher, prompt) == (own.teacher, own.prompt_id)
        assert numbers == [digits(own.rsr), digits(own.x), digits(own.y), f"{own.n_tokens:,.0f}"]


# --- unusual stores--------------------------------------------------------------------------------


def equal_teachers() -> pd.DataFrame:
    rows = rows_of(PLAIN[:1], 12)
    return pd.concat(
        [rows.assign(teacher=name, trajectory_id=name + rows.trajectory_id) for name in PLAIN[:3]]
    )


UNUSUAL = {
    "one-teacher": (lambda: rows_of(PLAIN[:1]), "alpha-7b is the only teacher."),
    "no-teacher": (
        lambda: rejects_of(None, 4, "no column", "no_teacher"),
        "No trajectory was scored: every row was rejected.",
    ),
    "all-rejected": (
        lambda: rejects_of("alpha-7b", 4),
        "No trajectory was scored: every row was rejected.",
    ),
    "one-each": (
        lambda: rows_of(PLAIN, 1),
        "alpha-7b ranks first, but 1 prompt is too few for a confidence estimate.",
    ),
    "equal": (
        equal_teachers,
        "Any of the 3 teachers may be best on prompts like these (95% confidence)",
    ),
    "no-shared-prompt": (
        lambda: rows_of(PLAIN[:2]).assign(prompt_id=lambda r: r.trajectory_id),
        "no prompt was answered by all 2 teachers",
    ),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_stores_have_a_page_that_says_so(kind, tmp_path, open_page):
    rows, says = UNUSUAL[kind]
    page = open_page(report(tmp_path, lambda folder: write_store(folder, rows())) / "index.html")
    said = page.locator("main").inner_text()
    assert says in said
    assert not re.search(r"\b(nan|None|inf|undefined)\b", said)
    assert violations(page) == []
    for width in WIDTHS.values():
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_places_moves_and_the_plane_follow_the_ranking_where_prompts_match_only_partly(tmp_path):
    """beta's many easy answers, to prompts of its own, change nothing that is said of the shared
    ones.
    """
    from rsr_ray.metrics import RSR
    from rsr_ray.report.page.report import make_report

    shared = rows_of(PLAIN[:3], 40)
    easy = rows_of(PLAIN[1:2], 200, seed=1).assign(
        prompt_id=lambda r: "easy" + r.prompt_id, trajectory_id=lambda r: "easy" + r.trajectory_id
    )
    store = write_store(tmp_path, pd.concat([shared, easy.assign(rank_sum=easy.n_tokens * 2)]))
    (student,) = make_report([store], RSR).students
    assert [t.teacher for t in student.ranking.teachers] == PLAIN[:3]
    assert student.table[0].teacher == PLAIN[1]
    for point, t in zip(student.points, student.ranking.teachers, strict=True):
        surprisal, rank = point.mean
        assert (point.n, rank / surprisal) == (40, pytest.approx(t.value))


def test_rejects_are_the_rows_of_the_store_whatever_its_runs_say(tmp_path, open_page):
    """An older run counted others, and twenty of another student came since."""

    def write(folder):
        write_store(folder, rows_of(PLAIN[:1], 4), student="z-another")
        rejects = [rejects_of(None, n, "no column", "no_teacher") for n in (4, 5)]  # in both units
        store = write_store(folder, pd.concat([rejects[0], rows_of(PLAIN[:2], 8), rejects[1]]))
        run = store.find_run(FINGERPRINT)
        others = replace(run.equation, rejected={"over_length": 17})
        store.write_run(replace(run, run_id="20261120-1", equation=others))
        another = run.config | {"student_name": "z-another"}
        for n in range(20):
            store.write_run(replace(run, run_id=f"20261122-{n:02d}", config=another))

    page = open_page(report(tmp_path, write) / "index.html")
    mine = page.locator("article", has=page.get_by_role("heading", name="Student small-student"))
    rows = mine.locator("section:has(h3:text('Rejected rows')) tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => c.innerText))"
    )
    assert [row[:2] for row in rows] == [["no_teacher", "9"]]
    assert rows[0][3].endswith(": no column")
    assert (
        mine.locator("section:has(h3:text('The run')) dd").first.inner_text()
        == "read 25 = scored 16 + rejected 9 + already scored 0"
    )


def test_a_student_that_failed_last_night_is_named_at_the_top(tmp_path, open_page):
    def write(folder):
        store = write_store(folder, rows_of(PLAIN[:2], 8), n_nights=2)
        history = History(store.uri, None)
        night = history.read(history.nights[-1])
        failed = {"large-32b": FailedNight("no <GPU> & no luck")}
        history.write(replace(night, students=night.students | failed))

    folder = report(tmp_path, write)
    page = open_page(folder / "index.html")
    assert (
        page.locator("header .note").inner_text()
        == "Night 2026-11-02: student large-32b failed: no <GPU> & no luck"
    )
    assert page.locator("header .made").inner_text().startswith("Night 2026-11-02, made 20")
    assert (
        "student large-32b failed: no \\<GPU\\> \\& no luck" in (folder / "summary.md").read_text()
    )


@pytest.mark.parametrize(("without", "drawn"), [([0, 1, 2], 0), ([2], 1), ([0, 1], 0)])
def test_nights_on_which_nothing_had_a_place(tmp_path, open_page, without, drawn):
    def write(folder):
        history = History(write_store(folder, rows_of(PLAIN[:3]), n_nights=3).uri, None)
        for night in (history.read(history.nights[n]) for n in without):
            entry = night.students["small-student"]
            unplaced = [replace(t, place=None) for t in entry.teachers]
            night.students["small-student"] = replace(entry, teachers=unplaced)
            history.write(night)

    page = open_page(report(tmp_path, write) / "index.html")
    assert (
        page.locator("section:has(h3:text('Since the previous night')) svg:visible").count()
        == drawn
    )


ALIKE = ["Qwen/Qwen3-235B-A22B-Thinking-2507", "Qwen/Qwen3-30B-A3B-Thinking-2507"]
ALIKE += [f"open-thoughts/OpenThinker3-7B-samples-{n}" for n in (1, 2)]


@pytest.mark.parametrize("letters", [20, 30])
def test_labels_of_names_that_are_alike_differ_where_the_names_do(letters):
    made = labels({name: n for n, name in enumerate(ALIKE, 1)}, letters)
    assert all(len(text) <= letters and text.startswith(f"#{n} ") for n, text in enumerate(made, 1))
    for text, part in zip(made, ("235B", "30B", "1", "2"), strict=True):
        assert part in text[3:]
    assert [text.endswith("…") for text in made[2:]] == [False, False]
    assert len({text[3:] for text in made}) == len(made)


@pytest.mark.parametrize("width", [360, 1400])
def test_rows_of_charts_can_be_found_in_the_table(tmp_path, open_page, width):
    page = open_page(
        report(tmp_path, lambda store: write_store(store, rows_of(ALIKE), n_nights=2))
        / "index.html",
        width=width,
    )
    places = dict(zip(*(table(page, "Ranking")[name] for name in ("teacher", "#")), strict=True))
    for heading, n in (("Ranking", 4), ("Individual", 4), ("length", 4), ("Since", 4)):
        texts = page.locator(
            f"section:has(h3:text('{heading}')) svg:visible text"
        ).all_text_contents()
        found = {text for text in texts if re.match(r"#\d", text)}
        assert len(found) == n
        assert {text.split()[0] for text in found} == {f"#{place}" for place in places.values()}


def test_what_is_left_out_is_said(forty, open_page):
    page = open_page(forty / "index.html")
    of = {
        heading: page.locator(f"section:has(h3:text('{heading}'))").inner_text()
        for heading in ("Does length explain", "Pairwise", "Since the previous")
    }
    assert "of the first 8 teachers" in of["Does length explain"]
    assert "(the first 12)" in of["Pairwise"]
    assert "(the first 8 of the last night)" in of["Since the previous"]


def test_two_students_side_by_side(tmp_path, open_page):
    def write(folder):
        write_store(folder, rows_of(PLAIN), student="small-student", words=["a", " b"])
        write_store(folder, rows_of(PLAIN[::-1], seed=1), student="large.student-32b")

    page = open_page(report(tmp_path, write) / "index.html")
    shown = page.locator("section:has(h2:text('side by side')) tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => c.innerText))"
    )
    assert [row[:2] for row in shown] == [
        ["large.student-32b", "epsilon-13b"],
        ["small-student", "alpha-7b"],
    ]
    page.get_by_role("link", name="small-student", exact=True).click()
    assert page.locator("h2", has_text="Student small-student").evaluate(
        "e => Math.abs(e.getBoundingClientRect().top) < 40"
    )
    second = page.locator("article").nth(1)
    second.get_by_label("Filter").fill("gamma")
    assert page.locator("[data-count]").all_inner_texts() == [
        "30 of 30 trajectories",
        "6 of 30 trajectories",
    ]
    second.locator("tr:not([hidden]) .open").first.click()
    assert page.locator("#viewer-title").inner_text().startswith("gamma-2b-it: ")


def test_many_trajectories_stay_under_three_megabytes(tmp_path, open_page):
    """40 teachers with 240 trajectories, all shown, all with token scores, two students."""
    words = ["Ġtoken", " 名前", '"quoted"', " <b>", "\n", " of", " some", " length"]
    for student in ("one", "two"):
        rows = rows_of(
            [f"teacher-{n:02d}-of-some-length" for n in range(40)], 6, n_tokens=(130, 160)
        )
        write_store(
            tmp_path / "store",
            rows,
            student=student,
            words=words,
            surprisal=lambda at: at * 0.7919 % 12,
        )
    folder = report(tmp_path, lambda _: None)
    size = (folder / "index.html").stat().st_size
    print(f"\n{size / 1e6:.2f} MB")
    assert size < MOST_BYTES
    page = open_page(folder / "index.html")
    page.locator(".open").first.click()
    assert page.locator("#viewer-text span").count() > 50
