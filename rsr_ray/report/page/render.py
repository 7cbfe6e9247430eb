"""render: a report -> the text of its four files."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import rsr_ray
from rsr_ray.decide.ranking import TeacherPlace
from rsr_ray.decide.strata_in_words import in_words
from rsr_ray.decide.wording import probability
from rsr_ray.errors import safe
from rsr_ray.report.page.charts.strata import usual_difference
from rsr_ray.report.page.contents import reasons
from rsr_ray.report.page.report import Report, StudentReport
from rsr_ray.report.page.trajectories import ShownTrajectory, short_hash
from rsr_ray.report.terminal.formats import coefficient, number, percent
from rsr_ray.report.terminal.ranking import about_places, place_range, share_of

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGE = "rsr_ray.report.page"  # which has the template, the style and the script
MARKDOWN_TEACHERS = 20  # of a student; the others are only counted
CSV_COLUMNS = (
    "student",
    "place",
    "teacher",
    "metric",
    "value",
    "low",
    "high",
    "first_place",
    "last_place",
    "p_best",
    "won",
    "n_prompts",
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
    "degenerate",
    "cut_off",
)
FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for a formula


# --- HTML -----------------------------------------------------------------------------------------


def as_html(report: Report) -> str:
    """The page: it loads nothing from anywhere."""
    contents = {
        f"student:{student.student}:trajectory:{row.link}": _contents_to_json(student, i, row)
        for student in report.students
        for i, row in enumerate(student.trajectories)
    }
    template = _environment().get_template("page.html.jinja")
    return template.render(
        **vars(report),
        css=_part("css"),
        js=_part("js"),
        contents=contents,
        version=rsr_ray.__version__,
    )


def _contents_to_json(student: StudentReport, i: int, row: ShownTrajectory) -> dict[str, Any]:
    """What the viewer shows of student.trajectories[i], as page.js reads it."""
    shown = {"source": safe(row.source), "row": row.source_row}
    contents = student.contents
    if i in contents.tokens:
        return shown | {"tokens": contents.tokens[i].to_json()}
    if i in contents.texts:
        return shown | {"text": contents.texts[i]}
    return shown | {"missing": safe(contents.missing[i])}


def _part(name: str) -> str:
    return (files(PACKAGE) / f"page.{name}").read_text()


def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(PACKAGE, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # most of the page is tokens
    environment.policies["json.dumps_kwargs"] = {
        "separators": (",", ":"),
        "ensure_ascii": False,
    }
    environment.filters |= {
        "number": number,
        "probability": probability,
        "safe_text": safe,
        "percent": percent,
        "place_range": place_range,
        "about_places": about_places,
        "coefficient": coefficient,
        "in_words": in_words,
        "usual_difference": usual_difference,
        "share": share_of,
        "reasons": reasons,
        "short_hash": short_hash,
    }
    return environment


# --- JSON and CSV ---------------------------------------------------------------------------------


def as_json(report: Report) -> str:
    """All numbers, without charts and tokens."""
    return json.dumps(report.to_json(), indent=1)


def as_csv(report: Report) -> str:
    """A row per student and teacher.

    A text that a spreadsheet would take for a formula has an apostrophe in front.
    """
    sink = io.StringIO()
    writer = csv.DictWriter(sink, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for student in report.students:
        for row in _csv_rows(student, report.metric):
            writer.writerow({name: _no_formula(row.get(name)) for name in CSV_COLUMNS})
    return sink.getvalue()


def _csv_rows(student: StudentReport, metric: str) -> Iterator[Mapping[str, Any]]:
    """The ranked teachers of a student, best first, then the others of its table; by column."""
    table = {t.teacher: t for t in student.table}
    common = {"student": student.student, "metric": metric}
    teachers = student.ranking.teachers if student.ranking else []
    for t, point in zip(teachers, student.points, strict=True):
        in_table = table.pop(t.teacher, None)
        surprisal, rank = point.mean
        yield (
            common
            | vars(t)
            | {
                "n_prompts": student.ranking and student.ranking.n_prompts,
                "value_all_prompts": t.all.value,
                "n_rejected": in_table and in_table.n_rejected,
                "mean_rank": rank,
                "mean_surprisal": surprisal,
            }
        )
    for row in table.values():
        yield common | vars(row)


def _no_formula(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(FORMULA_BEGINS)
    return f"'{value}" if is_formula else value


# --- Markdown -------------------------------------------------------------------------------------


def as_markdown(report: Report) -> str:
    """A summary for chat and CI."""
    lines: list[str] = []
    if night := report.night:
        lines = [
            f"**Night {_md(night.name)}: student {_md(name)} failed: {_md(error)}**\n"
            for name, error in night.failed.items()
        ]
    value = f"{report.metric} ({report.better} is better)"
    for student in report.students:
        lines += [f"### Teachers for student {_md(student.student)}", ""]
        lines += _markdown_answer(student, value)
    return "\n".join(lines)


def _markdown_answer(student: StudentReport, value: str) -> list[str]:
    """The ranking of a student and what is said of it, in lines; `value` heads the values."""
    ranking = student.ranking
    if ranking is None:
        return [student.answer, ""]
    sure = percent(ranking.confidence)
    teachers = ranking.teachers
    lines = [
        f"**{_md(ranking.sentence)}**",
        "",
        f"| # | teacher | {value} | {sure} interval | {sure} places | P(best) |",
        "|---:|---|---:|---|---|---:|",
        *(_markdown_row(t) for t in teachers[:MARKDOWN_TEACHERS]),
    ]
    if len(teachers) > MARKDOWN_TEACHERS:
        lines.append(f"\n{len(teachers) - MARKDOWN_TEACHERS} more in teachers.csv.")
    said = [
        *([about_places(ranking.confidence)] if ranking.best else []),
        *ranking.notes,
        *([student.unscored] if student.unscored else []),
        *student.changes,
    ]
    if strata := student.strata:
        overall = [strata.overall.sentence] if strata.overall else []
        said += [strata.sentence, *overall, *strata.notes]
    return [*lines, "", *(f"- {_md(line)}" for line in said), ""]


def _markdown_row(t: TeacherPlace) -> str:
    between = f"{number(t.low)} – {number(t.high)}" if t.low is not None else "-"
    return (
        f"| {t.place} | {_md(t.teacher)} | {number(t.value)} | {between} | "
        f"{place_range(t.first_place, t.last_place)} | {probability(t.p_best)} |"
    )


def _md(text: str) -> str:
    """Text that Markdown takes as it stands."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+!|~&" else c for c in safe(text))
