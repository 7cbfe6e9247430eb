"""notebook: a ranking as a notebook shows it, its sentence, a table and a chart.

A notebook asks a value for `_repr_html_`, which `rsr_ray.rank_teachers` brings.
"""

import uuid
from html import escape

from rsr_ray.decide.ranking import Ranking, TeacherPlace
from rsr_ray.decide.wording import probability
from rsr_ray.errors import safe
from rsr_ray.report.terminal.formats import number, percent, prompts
from rsr_ray.report.terminal.ranking import about_places, place_range

SHOWN = 40  # teachers; as many as the chart has
# The chart's colours, of a light and of a dark notebook.
STYLE = "--ink: currentColor; --faint: #888; --grid: #8883; --series-0: #2b83d0"


def ranking_html(ranking: Ranking) -> str:
    """The ranking as an element of a page that needs nothing else."""
    from rsr_ray.report.page.charts.whiskers import draw_whiskers

    sure = percent(ranking.confidence)
    better = f"{ranking.metric} ({ranking.better} is better)"
    columns = [
        "",
        "teacher",
        better,
        f"{sure} interval",
        f"{sure} places",
        "P(best)",
        "mean tokens",
    ]
    rows = "".join(_row(t) for t in ranking.teachers[:SHOWN])
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    chart = draw_whiskers(ranking, f"ranking-{uuid.uuid4().hex[:8]}", better)
    more = len(ranking.teachers) - SHOWN
    notes = [*ranking.notes, *([f"and {more:,} more teachers"] if more > 0 else [])]
    notes += [about_places(ranking.confidence)] if ranking.best else []
    return (
        f'<div class="rsr-ray" style="{STYLE}">'
        "<style>.rsr-ray .narrow { display: none } .rsr-ray svg { max-width: 45rem }</style>"
        f"<p><b>{escape(safe(ranking.sentence))}</b><br>"
        f"On {prompts(ranking.n_prompts, ranking.matched)}.</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{chart}"
        + "".join(f"<p>{escape(safe(note))}</p>" for note in notes)
        + "</div>"
    )


def _row(t: TeacherPlace) -> str:
    interval = f"{number(t.low)} to {number(t.high)}" if t.low is not None else "-"
    cells = [
        f"{t.place}",
        safe(t.teacher),
        number(t.value),
        interval,
        place_range(t.first_place, t.last_place),
        probability(t.p_best),
        f"{t.mean_tokens:,.0f}",
    ]
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


# It is set from here, because decide/ knows nothing of pages.
Ranking._repr_html_ = ranking_html  # type: ignore[attr-defined]
