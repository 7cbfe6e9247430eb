"""published: the numbers that arXiv 2601.14249 prints for its 5 students and 11 teachers."""

from dataclasses import dataclass

from rsr_ray.metrics import REGISTRY

STUDENTS = ("Qwen-3-14B", "LLaMA-3.1-8B", "Qwen-2.5-7B", "Qwen-3-4B", "Qwen-2.5-3B")
N_TEACHERS = 11
# By metric, |mean over the students of Spearman with accuracy|.
PUBLISHED = {
    name: metric.published for name, metric in REGISTRY.items() if metric.published is not None
}
PUBLISHED |= {"g_norm": 0.55, "grace": 0.59, "influence": 0.11, "mean_tokens": 0.53}
# By student, |Spearman of rsr with accuracy|.
PUBLISHED_RSR = dict(zip(STUDENTS, (0.855, 0.845, 0.918, 0.818, 0.845), strict=True))


@dataclass(frozen=True)
class PrintedTwice:
    """An accuracy that the paper prints as two numbers."""

    student: str
    teacher: str
    first: float  # in two of its tables
    second: float  # in two others


TWICE = PrintedTwice("Qwen-2.5-7B", "DeepSeek-R1-0528", 47.3, 47.8)  # the only one


def agrees(value: float, printed: float) -> bool:
    """Whether a value rounds to the printed one."""
    return abs(value - printed) <= half_unit(printed) + 1e-9


def half_unit(printed: float) -> float:
    """Half a unit of the last digit; at least two digits are printed."""
    return 0.5 * 10.0 ** -max(2, len(repr(printed).partition(".")[2]))
