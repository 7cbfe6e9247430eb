"""page: a store -> the report people open: one self-contained HTML page, and the same as CSV, JSON and Markdown."""

import csv
import io
import json
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import numpy as np

import rsr_ray
from rsr_ray.errors import UserError, safe
from rsr_ray.metrics import Metric
from rsr_ray.nightly import History
from rsr_ray.objects import put
from rsr_ray.page import charts
from rsr_ray.rank import Scored, load_scored, rank_teachers
from rsr_ray.report import changes_in_words, number, probability
from rsr_ray.schema import REJECT_REASONS
from rsr_ray.store import Store

SHOWN = 3  # best and worst trajectories of a teacher in the table
SHOWN_TEACHERS = 40
TOKENS_SHOWN = 60_000  # over all trajectories of the page: about 25 bytes each
TOKENS_EACH = 1_500
POINTS = 1_200  # trajectories in the chart of lengths
NIGHTS = 60


def make_report(stores: list[Store], metric: Metric, *, confidence: float = 0.95, seed: int = 0, tokens_from: str | None = None) -> dict[str, Any]:
    """Everything the report says, of each student: JSON-able but for `charts`, which are SVG.

    Where the store has no token scores, those of the shown trajectories come from the student `tokens_from`, if it is given.
    Raises UserError.
    """
    share = TOKENS_SHOWN // max(1, len(stores))
    students = [_student(store, metric, confidence, seed, share, tokens_from) for store in stores]
    return {"metric": metric.name, "better": metric.better, "students": students}


def _student(store: Store, metric: Metric, confidence: float, seed: int, tokens_shown: int, tokens_from: str | None) -> dict[str, Any]:
    table = store.read_teachers().to_pylist(maps_as_pydicts="strict")
    runs = store.read_runs()
    nights = _nights(store)
    said: dict[str, Any] = {
        "student": store.student_name,
        "table": table,
        "rejects": _rejects(table, runs),
        "run": runs[0] if runs else None,
        "nights": nights,
        "changes": changes_in_words(nights[-1]["entry"], nights[-1]["night"]) if nights else [],
        "ranking": None,
        "trajectories": [],
        "charts": {},
    }
    if not any(t["n_trajectories"] for t in table):
        return said | {"empty": "no trajectory was scored" + (": every row was rejected" if said["rejects"] else ": the store is empty")}
    scored = load_scored(store, [metric], ["rank_sum"])
    ranking = rank_teachers(scored, metric, confidence=confidence, seed=seed)
    axis = f"{metric.name} ({metric.better} is better)"
    values = metric.values(scored.columns, scored.prompt)
    codes = [scored.teachers.index(t["teacher"]) for t in ranking["teachers"]]
    rows = _shown(scored, values, metric, codes)
    most = min(TOKENS_EACH, tokens_shown // max(1, len(rows)))
    if not _add_tokens(store, rows, most) and tokens_from and runs:
        from rsr_ray.page.tokens import score_again

        for row, found in score_again(rows, runs[0], tokens_from):
            row["tokens"] = tokens_of(found, most)
    said["ranking"], said["trajectories"] = ranking, rows
    name = f"student:{store.student_name}"  # no student's name has a colon
    drawn = {
        "whiskers": charts.whiskers(ranking, f"{name}:whiskers", axis),
        "plane": charts.plane(_points(scored, codes), f"{name}:plane", confidence),
        "boxes": charts.boxes(_spreads(scored, values, codes), f"{name}:boxes", axis),
        "lengths": charts.lengths(ranking, _sample(scored, values, codes, seed), f"{name}:lengths", axis),
    }
    if len(ranking["curve"]) > 1:
        drawn["curve"] = charts.curve(ranking, f"{name}:curve")
    if len(nights) > 1:
        drawn["places"] = charts.places(nights, f"{name}:places")
    return said | {"charts": drawn}


def _nights(store: Store) -> list[dict[str, Any]]:
    """The last nights of the student, oldest first: its entry in the night's record, and the places."""
    history = History(store.uri, store.endpoint)
    found = []
    for night in history.nights[-NIGHTS:]:
        entry = history.read_entry(store.student_name, night)
        if entry and "teachers" in entry:
            found.append({"night": night, "entry": entry, "places": {t["teacher"]: t["place"] for t in entry["teachers"]}})
    return found


def _rejects(table: list[dict[str, Any]], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rejects by reason, the most frequent first, with what the runs kept as examples."""
    total: dict[str, int] = {}
    for t in table:
        for reason, n in t["rejects"].items():
            total[reason] = total.get(reason, 0) + n
    for run in runs:  # rows without a teacher are in no teacher's count
        for reason, n in run["equation"]["rejected"].items():
            total[reason] = max(total.get(reason, 0), n)
    examples = {reason: example for run in reversed(runs) for reason, example in run["reject_examples"].items()}
    rows = [{"reason": reason, "n": n, "meaning": REJECT_REASONS.get(reason, ""), "example": examples.get(reason, "")} for reason, n in total.items()]
    return sorted(rows, key=lambda row: (-row["n"], row["reason"]))


def _points(scored: Scored, codes: list[int]) -> list[dict[str, Any]]:
    n_tokens = scored.columns["n_tokens"]
    at = np.stack([scored.columns["surprisal_sum"] / n_tokens, scored.columns["rank_sum"] / n_tokens])
    points = []
    for code in codes:
        mine = at[:, scored.teacher == code]
        covariance = np.cov(mine).tolist() if mine.shape[1] > 1 else None
        points.append({"teacher": scored.teachers[code], "n": mine.shape[1], "mean": mine.mean(1).tolist(), "covariance": covariance})
    return points


def _spreads(scored: Scored, values: np.ndarray, codes: list[int]) -> list[dict[str, Any]]:
    steps = [5, 25, 50, 75, 95]
    return [{"teacher": scored.teachers[c], "percentiles": np.percentile(values[scored.teacher == c], steps).tolist()} for c in codes]


def _sample(scored: Scored, values: np.ndarray, codes: list[int], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths, values and places of at most POINTS trajectories of the teachers that the chart tells apart."""
    place = np.full(len(scored.teachers), -1)
    place[codes[: charts.DIRECT]] = np.arange(min(len(codes), charts.DIRECT))
    mine = np.flatnonzero(place[scored.teacher] >= 0)
    rng = np.random.default_rng(seed)
    some = rng.choice(mine, min(POINTS, len(mine)), replace=False)
    return scored.columns["n_tokens"][some], values[some], place[scored.teacher[some]]


def _shown(scored: Scored, values: np.ndarray, metric: Metric, codes: list[int]) -> list[dict[str, Any]]:
    """The best and the worst trajectories of each teacher."""
    turned, chosen = metric.order(values), []
    for code in codes[:SHOWN_TEACHERS]:
        mine = np.flatnonzero(scored.teacher == code)
        ranked = mine[np.argsort(turned[mine], kind="stable")]
        n_best = min(SHOWN, (len(ranked) + 1) // 2)
        chosen += [(i, "best") for i in ranked[:n_best]] + [(i, "worst") for i in ranked[max(n_best, len(ranked) - SHOWN) :]]
    rows = []
    where = scored.rows.take([int(i) for i, _ in chosen]).to_pylist()
    for (i, side), row in zip(chosen, where, strict=True):
        n = scored.columns["n_tokens"][i]
        means = {"mean_rank": scored.columns["rank_sum"][i] / n, "mean_surprisal": scored.columns["surprisal_sum"][i] / n}
        who = {"teacher": scored.teachers[scored.teacher[i]], "prompt_id": scored.prompts[int(scored.prompt[i])].as_py(), "side": side}
        rows.append(row | who | {"value": float(values[i]), "n_tokens": int(n)} | {name: float(v) for name, v in means.items()})
    return rows


def _add_tokens(store: Store, rows: list[dict[str, Any]], most: int) -> bool:
    """Give rows their first tokens, as `tokens`; whether the store has token scores."""
    fingerprint = store.generation()
    by_unit: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_unit.setdefault(row["unit"], []).append(row)
    for unit, some in by_unit.items():
        try:
            tokens, _ = store.read_tokens(fingerprint, unit)
        except FileNotFoundError:
            return False
        at = {key: n for n, key in enumerate(zip(tokens["source"].to_pylist(), tokens["source_row"].to_pylist(), strict=True))}
        for row in some:
            found = tokens.slice(at[row["source"], row["source_row"]], 1).to_pylist()[0]
            row["tokens"] = tokens_of(found, most)
    return True


def tokens_of(found: dict[str, Any], most: int) -> dict[str, list[Any]]:
    """The first tokens of a TOKENS row, with digits enough to be read."""
    rounded = {name: [round(v, 2) for v in found[name][:most]] for name in ("surprisal", "entropy")}
    return {"text": found["text"][:most], "rank": found["rank"][:most], **rounded}


# --- files ------------------------------------------------------------------------------------------------------------


def write_report(report: dict[str, Any], out: str, endpoint: str | None) -> list[str]:
    """Write index.html, teachers.csv, teachers.json and summary.md under `out`; returns their URIs. Raises UserError."""
    made = {"index.html": html(report), "teachers.csv": as_csv(report), "teachers.json": as_json(report), "summary.md": as_markdown(report)}
    try:
        for name, text in made.items():
            put(f"{out}/{name}", text.encode(), endpoint)
    except OSError as e:
        raise UserError(f"--out {out}: cannot be written: {e}") from e
    return [f"{out}/{name}" for name in made]


def html(report: dict[str, Any]) -> str:
    """The page: it loads nothing from anywhere."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rsr_ray.page", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "probability": probability, "safe_text": safe, "share": lambda p: "-" if p is None else f"{p:.0%}"}
    here = files("rsr_ray.page")
    parts = {name: (here / f"page.{name}").read_text() for name in ("css", "js")}
    tokens = {
        f"{student['student']}/{n}": row["tokens"]
        for student in report["students"]
        for n, row in enumerate(student["trajectories"])
        if "tokens" in row
    }
    return environment.get_template("page.html.jinja").render(**report, **parts, tokens=tokens, version=rsr_ray.__version__)


def as_json(report: dict[str, Any]) -> str:
    """All numbers, without charts and token texts."""
    students = []
    for student in report["students"]:
        kept = {name: value for name, value in student.items() if name != "charts"}
        kept["trajectories"] = [{name: value for name, value in row.items() if name != "tokens"} for row in student["trajectories"]]
        kept["nights"] = [{"night": night["night"], "places": night["places"]} for night in student["nights"]]
        students.append(kept)
    return json.dumps({**report, "students": students}, indent=1)


CSV_COLUMNS = ["student", "place", "teacher", "metric", "value", "low", "high", "p_best", "won", "n_prompts", "value_all_prompts"]
CSV_COLUMNS += ["n_trajectories", "mean_tokens", "mean", "median", "std", "q25", "q75", "n_rejected", "mean_rank", "mean_surprisal"]


def as_csv(report: dict[str, Any]) -> str:
    """A row a student and teacher. A text that a spreadsheet would take for a formula has an apostrophe in front."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for student in report["students"]:
        table = {t["teacher"]: t for t in student["table"]}
        ranking = student["ranking"] or {"teachers": [], "metric": report["metric"], "n_prompts": 0}
        ranked = {t["teacher"] for t in ranking["teachers"]}
        for t in [*ranking["teachers"], *(t for name, t in table.items() if name not in ranked)]:
            own = table.get(t["teacher"], {})
            more = {name: own.get(name) for name in ("n_rejected", "mean_rank", "mean_surprisal")}
            row = {"student": student["student"], "metric": ranking["metric"], "n_prompts": ranking["n_prompts"], **t, **more}
            row["value_all_prompts"] = t["all"]["value"] if "all" in t else None
            writer.writerow({name: _no_formula(row.get(name)) for name in CSV_COLUMNS})
    return sink.getvalue()


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def as_markdown(report: dict[str, Any]) -> str:
    """A summary for chat and CI."""
    lines = []
    for student in report["students"]:
        lines += [f"### Teachers for student {_md(student['student'])}", ""]
        ranking = student["ranking"]
        if ranking is None:
            lines += [student["empty"], ""]
            continue
        lines += [f"**{_md(ranking['sentence'])}**", "", f"| # | teacher | {report['metric']} ({report['better']} is better) | interval | P(best) |"]
        lines += ["|---:|---|---:|---|---:|"]
        for t in ranking["teachers"][:20]:
            between = f"{number(t['low'])} – {number(t['high'])}" if t["low"] is not None else "-"
            lines.append(f"| {t['place']} | {_md(t['teacher'])} | {number(t['value'])} | {between} | {probability(t['p_best'])} |")
        if len(ranking["teachers"]) > 20:
            lines.append(f"\n{len(ranking['teachers']) - 20} more in teachers.csv.")
        lines += ["", *(f"- {_md(line)}" for line in [*ranking["notes"], *student["changes"]]), ""]
    return "\n".join(lines)


def _md(text: str) -> str:
    """Text that Markdown takes as it stands."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+!|~&" else c for c in safe(text))


def store_report(stores: list[Store], metric: Metric) -> tuple[str, dict[str, Any]]:
    """Make and write the report of a store into its own folder `report`; returns the page's URI and the students' rankings."""
    report = make_report(stores, metric)
    page, *_ = write_report(report, f"{stores[0].uri}/report", stores[0].endpoint)
    return page, {student["student"]: student["ranking"] for student in report["students"]}


def students_of(uri: str, wanted: Iterable[str], endpoint: str | None) -> list[Store]:
    """The students asked for, or all that the store has. Raises UserError where there is none."""
    names = list(wanted) or Store.students(uri, endpoint)
    if not names:
        raise UserError(f"store {uri}: no student was scored there yet: run rsr-ray score")
    return [Store(uri, name, endpoint) for name in names]
