"""What a person reads: names of the data stay names."""

import io

from rich.console import Console

from rsr_ray.errors import safe
from rsr_ray.report import print_rejects, print_teachers

HOSTILE = ["\x1b[31mred\x1b[0m", "two\nlines", "\u202egnp.exe", "[bold]markup[/bold]", "=cmd()", "../../x", "名前 🤖"]


def test_a_name_cannot_steer_the_terminal():
    teacher = dict.fromkeys(("rsr", "mean_rank", "mean_surprisal", "mean_tokens", "place")) | dict.fromkeys(
        ("n_trajectories", "n_rejected", "n_duplicates", "n_truncated"), 0
    )
    row = {"trajectory_id": "t", "source": "s", "source_row": 0, "reject_reason": "not_text", "reject_detail": "d"}
    out = io.StringIO()
    console = Console(file=out, width=200)
    print_teachers([{**teacher, "teacher": name} for name in HOSTILE], "s", console)
    print_rejects([{**row, "teacher": name} for name in HOSTILE], console)
    shown = out.getvalue()
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    for name in HOSTILE:
        assert shown.count(safe(name)) == 2, name


def test_what_is_harmless_stays_as_it_is():
    assert safe("Qwen2.5-32B [x] 名前 🤖 =cmd()") == "Qwen2.5-32B [x] 名前 🤖 =cmd()"
    assert safe("a\x1b[0m\nb") == "a\\x1b[0m\\nb"
