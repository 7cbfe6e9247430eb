"""write: a report -> its files in a folder or bucket."""

from collections.abc import Collection, Mapping

from rsr_ray.decide.ranking import Ranking
from rsr_ray.decide.scored import Scored
from rsr_ray.errors import UserError
from rsr_ray.files.filesystems import absolute
from rsr_ray.files.objects import put
from rsr_ray.metrics import RSR, Metric
from rsr_ray.report.page.charts.drawn import Charts
from rsr_ray.report.page.render import as_csv, as_html, as_json, as_markdown
from rsr_ray.report.page.report import Report, make_report
from rsr_ray.store.store import Store


def write_report(
    stores: list[Store],
    out: str,
    metric: Metric = RSR,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    teachers: Collection[str] = (),
    tokens_from: str | None = None,
    by_stratum: str | None = None,
    stratum_weights: Mapping[str, float] | None = None,
) -> list[str]:
    """Write the report of one or more students of a store, as `rsr-ray report` does.

    `stores` are the students, all of the same store. `out` is a folder or URI; an S3 URI is on the
    store's endpoint. `confidence` is that of the intervals, `seed` that of the random draws. With
    `teachers`, only these are ranked, on the prompts they share. `tokens_from` is the folder or hub
    id of the student: it scores the tokens of the shown trajectories if the store has no token
    scores. `by_stratum`, a column that the scores keep, and `stratum_weights` as for `rank_strata`.

    Writes index.html (the page, which needs no other file), teachers.csv (a row per student and
    teacher), teachers.json (all numbers) and summary.md, over an earlier report's. Returns URIs.

    Raises UserError if no student is given, a student has no scores, the metric has no direction,
    the store lacks columns or a teacher, `tokens_from` is not the student that gave the scores, or
    `out` cannot be written; StoreError if a file of the store is not what was written there.
    """
    if not stores:
        raise UserError("write_report: no student to report on; give at least one Store")
    report = make_report(
        stores,
        metric,
        confidence=confidence,
        seed=seed,
        teachers=teachers,
        tokens_from=tokens_from,
        by_stratum=by_stratum,
        stratum_weights=stratum_weights,
    )
    return write_files(report, absolute(out), stores[0].endpoint)


def store_report(
    stores: list[Store],
    metric: Metric,
    rankings: dict[str, Ranking] | None = None,
    loaded: Mapping[str, Scored] | None = None,
) -> str:
    """Make and write the report of a store into its own folder `report`; returns the page's URI.

    `rankings` and `loaded` as `make_report` has them.
    """
    uri, endpoint = stores[0].uri, stores[0].endpoint
    charts = Charts(uri, endpoint)
    report = make_report(stores, metric, rankings=rankings, loaded=loaded, charts=charts)
    (page, *_) = write_files(report, f"{uri}/report", endpoint)
    charts.keep()
    return page


def write_files(report: Report, out: str, endpoint: str | None) -> list[str]:
    """Write index.html, teachers.csv, teachers.json and summary.md under `out`; returns their URIs.

    Raises UserError.
    """
    made = {
        "index.html": as_html(report),
        "teachers.csv": as_csv(report),
        "teachers.json": as_json(report),
        "summary.md": as_markdown(report),
    }
    try:
        for name, text in made.items():
            put(f"{out}/{name}", text.encode(), endpoint)
    except OSError as e:
        raise UserError(f"--out {out}: cannot be written: {e}") from e
    return [f"{out}/{name}" for name in made]
