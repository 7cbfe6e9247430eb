import http.server
import os
import shutil
import threading
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from rsr_ray.metrics import REGISTRY
from rsr_ray.report.page.report import students_of
from rsr_ray.report.page.write import write_report

from .stores import rejects_of, rows_of, write_store

CHROMIUM = "chromium"
QUIET = (
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "disable-quic",
)
OPTIONS = [f"--{name}" for name in ("no-sandbox", "disable-gpu", *QUIET)]
PLAIN = ["alpha-7b", "beta-72b", "gamma-2b-it", "delta-think", "epsilon-13b"]
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "N" * 300,
    "مرحبا بالعالم עברית",
    "\u202egnp.exe\u2066",
    "=cmd()",
    "+1",
    "-2",
    "@SUM(A1)",
    "$x^2$ \\frac{",
    "\x1b[31m\x00\x07 line\nbreak\r|a|b|",
    "名前 🤖👩‍👩‍👧",
    (
        "_#010203 id=\"main\" href=\"#b\" --> ]]> &lt;b&gt; {{ 7 * 7 }} `x` **b** "
        "[l](javascript:alert(1))"
    ),
]  # fmt: skip
HARMLESS = [f"teacher-{n:02d}" for n in range(len(HOSTILE))]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="package")  # no longer: while it is open its thread has a running event loop
def browser():
    from playwright.sync_api import sync_playwright

    path = shutil.which(CHROMIUM)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("CI runs the browser's part: apt-get install chromium")
        pytest.skip("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """open_page(address or file, width=..., scheme=...): a page in which nothing may fail, ask
    or be fetched.
    """
    contexts = []

    def open_it(address, *, width: int = 1400, height: int = 900, scheme: str = "light"):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.requests, page.faults = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("console", lambda message: page.faults.append(message.text))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on(
            "dialog",
            lambda dialog: (page.faults.append(f"dialog {dialog.message}"), dialog.dismiss()),
        )
        page.url_opened = address if isinstance(address, str) else address.as_uri()
        page.goto(page.url_opened)
        return page

    yield open_it
    for context in contexts:
        for page in context.pages:
            assert page.faults == []
            assert page.requests == [page.url_opened.partition("#")[0]]
        context.close()


def report(folder: Path, write) -> Path:
    """The report of the store that `write(folder)` makes."""
    write(folder / "store")
    stores = students_of(str(folder / "store"), [], None)
    write_report(stores, str(folder / "report"), REGISTRY["rsr"])
    return folder / "report"


@pytest.fixture(scope="package")
def report_of(tmp_path_factory):
    """The same by name, made once a name."""
    made = {}

    def named(name: str, write) -> Path:
        if name not in made:
            made[name] = report(tmp_path_factory.mktemp(name), write)
        return made[name]

    return named


def write_plain(folder: Path) -> None:
    """Five teachers, one of them with nothing scored beside, rejects, token scores, two nights."""

    rows = [
        rows_of(PLAIN),
        rejects_of("beta-72b", 3),
        rejects_of("zeta-broken", 2),
        rejects_of(None, 1, "no column", "no_teacher"),
    ]
    write_store(
        folder,
        pd.concat(rows),
        words=["So", " the", " answer", " is", "\n", "", " 42", "."],
        n_nights=3,
    )


@pytest.fixture(scope="package")
def plain(report_of):
    return report_of("plain", write_plain)


def write_forty(folder: Path) -> None:
    rows = rows_of([f"teacher-{n:02d}-of-some-length" for n in range(40)], n_tokens=(300, 3000))
    write_store(folder, rows, n_nights=3)


@pytest.fixture(scope="package")
def forty(report_of):
    return report_of("forty", write_forty)


@pytest.fixture
def server(plain):
    """URL of a static server of the plain report's folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(plain))
    ) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
