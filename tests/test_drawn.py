"""Charts of a store's report that the report before has drawn are not drawn again."""

import numpy as np

from rsr_ray.report.page.charts.drawn import PLACE, Charts
from rsr_ray.report.page.charts.plane import draw_plane
from rsr_ray.report.page.summaries import Point


def points(shift=0.0):
    return [Point(f"t{n}", 30, (1.0 + shift, 2.0 + n), ((0.1, 0.0), (0.0, 0.1))) for n in range(3)]


def drawn(store, chart, *values):
    charts = Charts(str(store))
    svg = charts.draw(chart, *values)
    charts.keep()
    return svg


def test_a_chart_of_the_same_values_is_drawn_once(tmp_path):
    calls = []

    def chart(*values):
        calls.append(values)
        return draw_plane(*values)

    given = (points(), "student:s:plane", 0.95)
    first = drawn(tmp_path, chart, *given)
    assert drawn(tmp_path, chart, *given) == first == draw_plane(*given)
    assert len(calls) == 1


def test_a_chart_of_other_values_is_drawn_anew(tmp_path):
    calls = []

    def chart(values):
        calls.append(values)
        return f"<svg>{len(calls)}</svg>"

    long = np.arange(5000.0)  # numpy leaves out the middle when it prints so many
    other = long.copy()
    other[2500] += 1e-12 * other[2500]
    given = [long, other, list(points()), list(points(1e-15)), {"n": 1}, {"n": 2}]
    assert len({drawn(tmp_path, chart, values) for values in given}) == len(given)


def test_a_broken_file_of_charts_is_drawn_anew(tmp_path):
    drawn(tmp_path, str, "<svg>1</svg>")
    file = tmp_path / PLACE
    whole = file.read_bytes()
    for content in (b"", b"{", whole.replace(b"<svg", b"<sv9", 1)):
        file.write_bytes(content)
        assert drawn(tmp_path, str, "<svg>1</svg>") == "<svg>1</svg>"
        assert file.read_bytes() == whole


def test_charts_that_are_no_longer_drawn_are_let_go(tmp_path):
    drawn(tmp_path, lambda text: text * 1000, "x")
    before = (tmp_path / PLACE).stat().st_size
    drawn(tmp_path, lambda text: text, "y")
    assert (tmp_path / PLACE).stat().st_size < before - 900
