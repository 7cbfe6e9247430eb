"""What a command that takes long shows while it works, in the user's own units.

In a terminal it is shown in place, in a log a line every 30 s, under --log json an object a line
every 30 s. Ray's own bars and messages stay in its log files, unless --verbose asks for them.
"""

import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from rsr_ray.errors import safe
from rsr_ray.watch import log

if TYPE_CHECKING:
    from rich.text import Text

LOG_SECONDS = 30.0
BAR = 30  # characters
BETWEEN = "  ·  "
Thing = TypeVar("Thing")


class State(Protocol):
    """What is shown of a command at a moment: a dataclass."""

    @property
    def parts(self) -> list[str]:
        """What is said, a few words each."""

    @property
    def share(self) -> float | None:
        """How much of the work is done, 0 to 1, where that is known."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command that says no more than what it is at."""

    doing: str
    seconds: float
    share: float | None = None

    @property
    def parts(self) -> list[str]:
        share = [f"{self.share:.0%}"] if self.share is not None else []
        return [self.doing, *share, duration(self.seconds)]


@contextmanager
def shown(state: Callable[[], State], how: str = "text") -> Iterator[None]:
    """While inside, `state` is shown on stderr; `how` is what --log says."""
    if how == "text" and sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        with Live(
            get_renderable=lambda: _drawn(state(), console.width),
            console=console,
            refresh_per_second=2,
            transient=True,
        ):
            yield
        return
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(LOG_SECONDS):
            now = state()
            if how == "json":
                log.info("progress", extra=dataclasses.asdict(now))  # type: ignore[call-overload]
            else:
                print(safe("rsr-ray: " + "; ".join(now.parts)), file=sys.stderr, flush=True)

    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    try:
        yield
    finally:
        ended.set()
        telling.join()


@contextmanager
def at_stage(
    doing: str, how: str = "text", share: Callable[[], float | None] = lambda: None
) -> Iterator[None]:
    """While inside, it is shown what the command is at, for how long, and how much of that is
    done where it is known.
    """
    begun = time.monotonic()
    with shown(lambda: Stage(doing=doing, seconds=time.monotonic() - begun, share=share()), how):
        yield


def each(things: Iterable[Thing], total: int, doing: str, how: str = "text") -> Iterator[Thing]:
    """The things, and while they are worked on how many of `total` are done."""
    done = 0
    with at_stage(doing, how, lambda: min(1.0, done / max(1, total))):
        for thing in things:
            yield thing
            done += 1


def _drawn(state: State, width: int) -> "Text":
    """A bar, and the parts below it: lines are broken between them."""
    from rich.text import Text

    drawn = Text()
    if state.share is not None:
        full = round(BAR * state.share)
        drawn.append("━" * full, "cyan")
        drawn.append("━" * (BAR - full), "bright_black")
        drawn.append("\n")
    lines = [""]
    for part in map(safe, state.parts):
        if lines[-1] and len(lines[-1]) + len(part) + len(BETWEEN) > width:
            lines.append("")
        lines[-1] += BETWEEN * bool(lines[-1]) + part
    drawn.append("\n".join(lines))
    return drawn


def duration(seconds: float) -> str:
    """As a person says it: 12 s, 3:25 min, 2:05 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def size(n_bytes: float) -> str:
    """In the largest unit of which there is one."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"
