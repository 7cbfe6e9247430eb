"""No text of the assistant is lost, altered or joined by another's; the whole table is `python
-m tests.fuzz_text`.
"""

from .conftest import few
from .fuzz_text import run


def test_what_the_assistant_wrote_is_scored_once_and_nothing_else():
    counts, faults = run(few(3_000, 250), seed=5)
    assert not faults, faults[0]
    scored = sum(n for what, n in counts.items() if what.endswith(": scored"))
    assert scored > 0.7 * counts.total()
    assert {what.split(":")[0] for what in counts if what.endswith(": scored")} >= {
        "messages",
        "conversations",
        "prompt + response",
        "side by side",
    }
    assert any("unread_content" in what for what in counts)
