"""The page in Chromium: it works at every size, by mouse and by keyboard, whatever the names; and its numbers are the store's."""

import pytest

WIDTHS = {"phone": 360, "tablet": 820, "desktop": 1400}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_opens(plain, open_page, width, scheme):
    page = open_page(plain / "index.html", width=width, scheme=scheme)
    page.screenshot(path=f"/tmp/h6/plain-{width}-{scheme}.png", full_page=True)
