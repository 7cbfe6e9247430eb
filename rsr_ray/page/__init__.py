"""page: a store -> the report people open: one self-contained HTML page, and the same as CSV, JSON and Markdown."""

import csv
import datetime
import io
import json
from collections.abc import Collection, Iterable
from importlib.resources import files
from typing import Any

import numpy as np

import rsr_ray
from rsr_ray.errors import StoreError, UserError, safe
from rsr_ray.metrics import RSR, Metric
from rsr_ray.nightly import History, places
from rsr_ray.objects import put
from rsr_ray.page import charts
from rsr_ray.rank import Scored, load_scored, probability, rank_teachers
from rsr_ray.report import changes_in_words, number, percent, places_in_words, unscored
from rsr_ray.report import places as places_of
from rsr_ray.schema import REJECT_REASONS
from rsr_ray.store import Store

SHOWN = 3  # best and worst trajectories of a teacher in the table
SHOWN_TEACHERS = 40
TOKENS_SHOWN = 50_000  # over all trajectories of the page: about 25 bytes each
TOKENS_EACH = 1_500
WINDOW = 40  # tokens shown together of the most surprising parts
BINS = 100  # of the strip that shows a whole trajectory
POINTS = 1_200  # trajectories in the chart of lengths
NIGHTS = 60


def make_report(
    stores: list[Store],
    metric: Metric,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    teachers: Collection[str] = (),
    tokens_from: str | None = None,
    rankings: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Everything the report says, of each student: JSON-able but for `charts`, which are SVG.

    `teachers` are the only ones it ranks, if any are given; `rankings` are those of students that `rank_teachers` has
    ranked already, in just this way. Where the store has no token scores, those of the shown trajectories come from the
    student `tokens_from`, if it is given. Raises UserError.
    """
    history = History(stores[0].uri, stores[0].endpoint)
    last = history.read(history.nights[-1]) if history.nights else None
    failed = {name: entry["error"] for name, entry in last["students"].items() if entry["error"]} if last else {}
    share = TOKENS_SHOWN // len(stores)
    how: dict[str, Any] = {"confidence": confidence, "seed": seed, "teachers": teachers, "tokens_from": tokens_from}
    students = [_student(store, metric, history, (rankings or {}).get(store.student_name), share, **how) for store in stores]
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    night = {"name": history.nights[-1], "failed": failed} if last else None
    return {"metric": metric.name, "better": metric.better, "made": made, "night": night, "students": students}


def _student(
    store: Store,
    metric: Metric,
    history: History,
    ranking: dict[str, Any] | None,
    tokens_shown: int,
    *,
    confidence: float,
    seed: int,
    teachers: Collection[str],
    tokens_from: str | None,
) -> dict[str, Any]:
    table = store.read_teachers().to_pylist(maps_as_pydicts="strict")
    run = store.find_run(store.generation())
    nights = _nights(store.student_name, history)
    said: dict[str, Any] = {
        "student": store.student_name,
        "table": table,
        "unscored": unscored(table),
        "rejects": _rejects(store),
        "run": run,
        "nights": nights,
        "changes": changes_in_words(nights[-1]["entry"], nights[-1]["night"]) if nights else [],
        "ranking": None,
        "trajectories": [],
        "charts": {},
    }
    if not any(t["n_trajectories"] for t in table):
        return said | {"empty": "no trajectory was scored" + (": every row was rejected" if said["rejects"] else ": the store is empty")}
    scored = load_scored(store, [metric, RSR])
    if teachers:
        scored = scored.only(teachers)
    ranking = ranking or rank_teachers(scored, metric, confidence=confidence, seed=seed)
    axis = f"{metric.name} ({metric.better} is better)"
    values = metric.values(scored.columns, scored.prompt)
    codes = [scored.teachers.index(t["teacher"]) for t in ranking["teachers"]]
    rows = _shown(scored, values, metric, codes)
    most = min(TOKENS_EACH, tokens_shown // max(1, len(rows)))
    if not _add_tokens(store, rows, most) and tokens_from and run:
        from rsr_ray.page.tokens import score_again

        for row, found in score_again(rows, run, tokens_from):
            row["tokens"] = tokens_of(found, most, run["config"]["r_max"])
    points = _points(scored, codes)
    means = [dict(zip(("mean_surprisal", "mean_rank"), point["mean"], strict=True)) for point in points]
    ranking = ranking | {"teachers": [t | mean for t, mean in zip(ranking["teachers"], means, strict=True)]}
    said["ranking"], said["trajectories"] = ranking, rows
    name = f"student:{store.student_name}"  # no student's name has a colon
    drawn = {
        "whiskers": charts.whiskers(ranking, f"{name}:whiskers", axis),
        "plane": charts.plane(points, f"{name}:plane", confidence),
        "boxes": charts.boxes(_spreads(scored, values, codes), f"{name}:boxes", axis),
        "lengths": charts.lengths(ranking, _sample(scored, values, codes, seed), f"{name}:lengths", axis),
    }
    alike = [night for night in nights if night["entry"]["fingerprint"] == nights[-1]["entry"]["fingerprint"] and any(night["places"].values())]
    if len(alike) > 1:
        drawn["places"] = charts.places(alike, f"{name}:places")
    return said | {"charts": drawn}


def _nights(student: str, history: History) -> list[dict[str, Any]]:
    """The last nights in which the student has results, oldest first: its entry in the night's record, and the places."""
    entries = ((night, history.read_entry(student, night)) for night in history.nights[-NIGHTS:])
    return [{"night": night, "entry": entry, "places": places(entry)} for night, entry in entries if entry and "teachers" in entry]


def _rejects(store: Store) -> list[dict[str, Any]]:
    """Rejected rows of the store by reason, the most frequent first, each with an example."""
    found = store.count_rejects(store.generation())
    rows = [{"reason": reason, "meaning": REJECT_REASONS.get(reason, "")} | rejects for reason, rejects in found.items()]
    return sorted(rows, key=lambda row: (-row["n"], row["reason"]))


def _points(scored: Scored, codes: list[int]) -> list[dict[str, Any]]:
    """Mean surprisal and mean rank of each teacher on the prompts of the ranking, and how they vary over prompts."""
    sums, _ = scored.matrices(RSR).compared()
    points = []
    for code in codes:
        own = sums.n[:, code] > 0
        n = sums.n[own, code]
        at = np.stack([sums.y[own, code], sums.x[own, code]]) / n
        covariance = np.cov(at).tolist() if len(n) > 1 else None
        mean = np.average(at, axis=1, weights=n).tolist()
        points.append({"teacher": scored.teachers[code], "n": len(n), "mean": mean, "covariance": covariance})
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
    """Give rows the tokens of them that are shown, as `tokens`; whether the store has token scores."""
    fingerprint = store.generation()
    by_unit: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_unit.setdefault(row["unit"], []).append(row)
    for unit, some in by_unit.items():
        try:
            tokens, r_max = store.read_tokens(fingerprint, unit)
        except FileNotFoundError:
            return False
        at = {key: n for n, key in enumerate(zip(tokens["source"].to_pylist(), tokens["source_row"].to_pylist(), strict=True))}
        for row in some:
            if (row["source"], row["source_row"]) not in at:
                raise StoreError(f"store file {store.tokens_uri(fingerprint, unit)}: it has no tokens of {row['source']} row {row['source_row']}")
            found = tokens.slice(at[row["source"], row["source_row"]], 1).to_pylist()[0]
            row["tokens"] = tokens_of(found, most, r_max)
    return True


def tokens_of(found: dict[str, Any], most: int, r_max: int) -> dict[str, Any]:
    """What the viewer shows of a TOKENS row, with digits enough to be read. Keys:

    n: its tokens
    parts: [start, stop) of those that are shown, at most `most`; text, rank, surprisal, entropy: theirs, one part after the other
    strip: mean surprisal and mean clipped rank of each of BINS parts of all of it; part i begins at token i * n // BINS
    """
    surprisal, rank = np.array(found["surprisal"]), np.minimum(found["rank"], r_max)
    n, parts = len(surprisal), parts_of(surprisal, most)
    bins = min(BINS, n)
    edges = np.arange(bins + 1) * n // bins
    strip = {name: np.add.reduceat(values, edges[:-1]) / np.diff(edges) for name, values in (("surprisal", surprisal), ("rank", rank))}
    shown = {name: [value for start, stop in parts for value in found[name][start:stop]] for name in ("text", "rank", "surprisal", "entropy")}
    shown |= {name: [round(value, 2) for value in shown[name]] for name in ("surprisal", "entropy")}
    rounded = {"surprisal": strip["surprisal"].round(2).tolist(), "rank": strip["rank"].round(1).tolist()}
    return {"n": n, "parts": parts, **shown, "strip": rounded}


def parts_of(surprisal: np.ndarray, most: int) -> list[tuple[int, int]]:
    """[start, stop) of the tokens to show: all of them, or the opening and those windows apart from each other that surprise most."""
    if len(surprisal) <= most:
        return [(0, len(surprisal))]
    n_windows = 3 * most // 4 // WINDOW
    opening = most - n_windows * WINDOW
    before = np.cumsum([0.0, *surprisal[opening:]])
    sums = before[WINDOW:] - before[:-WINDOW]
    starts: list[int] = []
    while len(starts) < n_windows and sums.max() >= 0:
        start = int(sums.argmax())
        starts.append(opening + start)
        sums[max(0, start - WINDOW + 1) : start + WINDOW] = -1
    parts = [(0, opening)]
    for start in sorted(starts):
        touches = start == parts[-1][1]
        parts.append((parts.pop()[0] if touches else start, start + WINDOW))
    return parts


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
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}  # most of the page is tokens
    environment.filters |= {
        "number": number,
        "probability": probability,
        "safe_text": safe,
        "percent": percent,
        "places": places_of,
        "places_in_words": places_in_words,
    }
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


CSV_COLUMNS = ["student", "place", "teacher", "metric", "value", "low", "high", "first_place", "last_place", "p_best", "won", "n_prompts"]
CSV_COLUMNS += [
    "value_all_prompts",
    "n_trajectories",
    "mean_tokens",
    "mean",
    "median",
    "std",
    "q25",
    "q75",
    "n_rejected",
    "mean_rank",
    "mean_surprisal",
]


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
            row = {"student": student["student"], "metric": ranking["metric"], "n_prompts": ranking["n_prompts"], **more, **t}
            row["value_all_prompts"] = t["all"]["value"] if "all" in t else None
            writer.writerow({name: _no_formula(row.get(name)) for name in CSV_COLUMNS})
    return sink.getvalue()


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def as_markdown(report: dict[str, Any]) -> str:
    """A summary for chat and CI."""
    lines = [f"**Night {_md(report['night']['name'])}: student {_md(name)} failed: {_md(error)}**\n" for name, error in _failed(report)]
    for student in report["students"]:
        lines += [f"### Teachers for student {_md(student['student'])}", ""]
        ranking = student["ranking"]
        if ranking is None:
            lines += [student["empty"], ""]
            continue
        value, sure = f"{report['metric']} ({report['better']} is better)", percent(ranking["confidence"])
        lines += [f"**{_md(ranking['sentence'])}**", "", f"| # | teacher | {value} | {sure} interval | {sure} places | P(best) |"]
        lines += ["|---:|---|---:|---|---|---:|"]
        for t in ranking["teachers"][:20]:
            between = f"{number(t['low'])} – {number(t['high'])}" if t["low"] is not None else "-"
            lines.append(f"| {t['place']} | {_md(t['teacher'])} | {number(t['value'])} | {between} | {places_of(t)} | {probability(t['p_best'])} |")
        if len(ranking["teachers"]) > 20:
            lines.append(f"\n{len(ranking['teachers']) - 20} more in teachers.csv.")
        words = [places_in_words(ranking)] if ranking["best"] else []
        said = [*words, *ranking["notes"], *filter(None, [student["unscored"]]), *student["changes"]]
        lines += ["", *(f"- {_md(line)}" for line in said), ""]
    return "\n".join(lines)


def _failed(report: dict[str, Any]) -> Iterable[tuple[str, str]]:
    return report["night"]["failed"].items() if report["night"] else ()


def _md(text: str) -> str:
    """Text that Markdown takes as it stands."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+!|~&" else c for c in safe(text))


def store_report(stores: list[Store], metric: Metric, rankings: dict[str, dict[str, Any]] | None = None) -> str:
    """Make and write the report of a store into its own folder `report`; returns the page's URI."""
    return write_report(make_report(stores, metric, rankings=rankings), f"{stores[0].uri}/report", stores[0].endpoint)[0]


def students_of(uri: str, wanted: Iterable[str], endpoint: str | None) -> list[Store]:
    """The students asked for, or all that the store has. Raises UserError where there is none."""
    names = list(dict.fromkeys(wanted)) or Store.students(uri, endpoint)
    if not names:
        raise UserError(f"store {uri}: no student was scored there yet: run rsr-ray score")
    return [Store(uri, name, endpoint) for name in names]
