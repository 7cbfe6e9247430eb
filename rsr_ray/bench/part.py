"""A part of the suite of checks and measurements: what came out of it, and how it is told."""

import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rsr_ray.bench.student import Shape
from rsr_ray.errors import one_line

GIB = 1 << 30


@dataclass(frozen=True)
class Figure:
    """Something that was measured, and what it should at most, or at least, be."""

    name: str
    value: float
    unit: str = ""
    most: float | None = None
    least: float | None = None

    @property
    def is_met(self) -> bool:
        low = -math.inf if self.least is None else self.least
        high = math.inf if self.most is None else self.most
        return low <= self.value <= high


@dataclass
class Part:
    """A part of the suite, and what came out."""

    name: str
    seconds: float = 0.0
    figures: list[Figure] = field(default_factory=list)
    skipped: str = ""  # why, where it was
    broke: str = ""  # how, where it did


@dataclass(frozen=True)
class Machine:
    """What is measured on it."""

    device: str
    sizes: dict[str, Shape]
    small: Shape  # of the checks
    long_row: int  # tokens
    window: int  # of the students with a sliding one
    large: Shape  # measured with weights in 4 bits


class SkippedError(Exception):
    """A part that this machine has no place for."""


def needs(package: str) -> None:
    """Raise SkippedError where a package cannot be imported."""
    if importlib.util.find_spec(package) is None:
        raise SkippedError(f"{package} is not installed")


def run_part(
    name: str, machine: Machine, measure_part: Callable[[Machine], Iterator[Figure]]
) -> Part:
    import torch

    part, begun = Part(name), time.perf_counter()
    try:
        with torch.inference_mode():
            part.figures.extend(measure_part(machine))
    except SkippedError as e:
        part.skipped = str(e)
    except Exception as e:  # the parts behind it are measured all the same
        part.broke = f"{type(e).__name__}: {one_line(e)}"
    part.seconds = time.perf_counter() - begun
    if machine.device == "cuda":
        torch.cuda.empty_cache()
    return part


def lines_of(part: Part) -> Iterator[str]:
    """A part for the terminal."""
    how = f"skipped: {part.skipped}" if part.skipped else f"{part.seconds:.1f} s"
    yield f"{part.name} ({how})" + (f": BROKE: {part.broke}" if part.broke else "")
    for figure in part.figures:
        bounds = [f"at most {figure.most:g}"] if figure.most is not None else []
        bounds += [f"at least {figure.least:g}"] if figure.least is not None else []
        wanted = f"  ({' and '.join(bounds)}{'' if figure.is_met else ': NOT MET'})"
        yield f"  {figure.name:44} {figure.value:12,.6g} {figure.unit}{wanted if bounds else ''}"
