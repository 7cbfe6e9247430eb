"""Permalinks of the page, and the texts of trajectories without token scores."""

import pytest

from .stores import answer_of, rows_of, write_store
from .test_page import at_every_width, violations

TEACHERS = ["alpha-7b", "beta-72b", "gamma-2b-it"]
HIDDEN = "\u202egnp.exe\x1b[31m"


def write_without_tokens(folder):
    """Long answers; the first shown trajectory has a line that hides what it says, and the row of
    the second has changed.
    """
    rows = rows_of(TEACHERS, 12, n_tokens=(3000, 5000))
    rows.loc[rows.trajectory_id == "t0-0", ["teacher", "rank_sum"]] = TEACHERS[0], 3000
    rows.loc[rows.trajectory_id == "t0-1", "rank_sum"] = 4000
    corpus = folder.parent / "corpus.jsonl"
    rows.loc[rows.trajectory_id == "t0-0", "prompt_id"] += HIDDEN
    write_store(folder, rows, corpus=corpus, n_nights=2)
    lines = corpus.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace("Step 1:", "Step one:")
    corpus.write_text("".join(lines))


@pytest.fixture(scope="module")
def without_tokens(report_of):
    return report_of("without_tokens", write_without_tokens)


def open_first(page, name: str):
    page.get_by_role("link", name=name, exact=True).click()
    return page.get_by_role("dialog")


@at_every_width
def test_a_text_is_read_marked_and_traced_to_its_row(without_tokens, open_page, width, scheme):
    page = open_page(without_tokens / "index.html", width=width, scheme=scheme)
    section = page.locator("section:has(h3:text('The best and the worst'))").inner_text()
    assert "so the text is not colored by surprisal" in section
    assert "The text of 1 trajectory cannot be shown: its row has changed since it" in section
    dialog = open_first(page, "t0-0")
    said = dialog.inner_text()
    assert "Text from the corpus, without token scores." in said
    assert f"Source: {without_tokens.parent / 'corpus.jsonl'}, row 0 (counted from 0)" in said
    assert "What is task p0\\u{202e}gnp.exe\\u{1b}[31m?" in said
    assert not dialog.locator("#viewer-strip").is_visible()
    whole = answer_of(rows_of(TEACHERS, 12, n_tokens=(3000, 5000)).iloc[0])
    shown = page.locator("#viewer-text .said").all_text_contents()
    assert whole.startswith(shown[1])
    assert whole.endswith(shown[2])
    left_out = f"{len(whole) - len(shown[1]) - len(shown[2]):,} characters left out"
    assert left_out in page.locator("#viewer-text .out").inner_text()
    assert violations(page, "dialog") == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.activeElement.id") == "viewer-text"  # so that keys scroll it
    page.keyboard.press("Escape")
    assert "The text cannot be shown: its row has changed" in open_first(page, "t0-1").inner_text()
    assert not page.locator("#viewer-text").is_visible()


def test_a_link_is_copied_by_mouse_and_by_keyboard(without_tokens, open_page):
    page = open_page(without_tokens / "index.html")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    copied = page.locator("#copied")
    address = f"{page.url_opened}#student:small-student"

    def clipboard():
        return page.evaluate("navigator.clipboard.readText()")

    page.get_by_role("link", name="Copy link: Individual trajectories").click()
    copied.get_by_text("Link copied.").wait_for()
    assert page.url == clipboard() == f"{address}:spread"
    page.get_by_role("link", name="Copy link: Rejected rows").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"{address}:rejects")
    assert clipboard() == f"{address}:rejects"
    dialog = open_first(page, "t1-3")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    dialog.get_by_text("Link copied.").wait_for()
    trajectory = clipboard()
    assert trajectory.startswith(f"{address}:trajectory:")
    page.keyboard.press("Escape")
    page.wait_for_url(page.url_opened)
    page.get_by_role("button", name="Copy", exact=True).click()
    copied.get_by_text("Command copied.").wait_for()
    assert clipboard() == page.locator(".next pre").inner_text()
    assert clipboard().startswith("rsr-ray choose --store ")


def test_a_link_opens_the_trajectory_it_names(without_tokens, open_page):
    page = open_page(without_tokens / "index.html")
    open_first(page, "t2-5")
    address = page.url
    page = open_page(address)
    assert page.evaluate("document.activeElement.id") == "viewer-text"
    dialog = page.get_by_role("dialog")
    assert page.locator("#viewer-title").inner_text() == "gamma-2b-it: t2-5"
    page.keyboard.press("Escape")
    link = page.get_by_role("link", name="t2-5", exact=True)
    assert link.evaluate("e => e === document.activeElement")
    # Filtered out, it is shown again; back closes it.
    page.get_by_label("Filter").fill("alpha")
    assert not link.is_visible()
    page.evaluate("address => { location.href = address; }", address)
    dialog.wait_for()
    page.go_back()
    dialog.wait_for(state="hidden")
    assert link.is_visible()
    page.evaluate("location.hash = 'student:small-student:trajectory:000000000000'")
    page.get_by_text("That trajectory is not on this page").wait_for()
