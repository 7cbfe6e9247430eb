"""matrices: a metric's terms by prompt and teacher, or by block of prompts and teacher.

Teachers are compared by prompt, on the same prompts. Of very many prompts there are sums over
blocks of them, drawn at random (whole.py): what is said of certainty resamples groups of prompts
anyway, and how many prompts there are is counted beside. Legend: P prompts, or blocks of them,
T teachers.
"""

from dataclasses import dataclass

import numpy as np

from rsr_ray.decide.inference import share_first
from rsr_ray.metrics import Metric


@dataclass(frozen=True)
class Matrices:
    """Sums of a metric's terms over the answers of a teacher to a prompt, float64 [P, T], and
    how many there are, [P, T].
    """

    x: np.ndarray
    y: np.ndarray
    n: np.ndarray

    @property
    def n_prompts(self) -> int:
        return len(self.x)

    @property
    def n_answered(self) -> np.ndarray:
        """Prompts that each teacher answered, int [T]."""
        answered: np.ndarray = (self.n > 0).sum(0)
        return answered

    @property
    def n_without(self) -> np.ndarray:
        """Prompts that all other teachers answered, int [T]."""
        answered = self.n > 0
        missing = (~answered).sum(1)
        others: np.ndarray = ((missing[:, None] - ~answered) == 0).sum(0)
        return others

    @property
    def answered(self) -> np.ndarray:
        """Which teachers answered which prompt, bool [P, T]; of blocks, of some prompts."""
        answered: np.ndarray = self.n > 0
        return answered

    def matched(self) -> "Matrices":
        """Only prompts that every teacher answered, and of several answers of a teacher their
        mean: every prompt weighs the same.
        """
        whole = (self.n > 0).all(1)
        n = self.n[whole]
        return Matrices(self.x[whole] / n, self.y[whole] / n, np.ones_like(n))

    def compared(self) -> tuple["Matrices", bool]:
        """What teachers are compared on: the prompts that all of them answered (True), or all,
        where there are none (False).
        """
        matched = self.matched()
        return (matched, True) if matched.n_prompts else (self, False)

    def teachers(self, order: np.ndarray) -> "Matrices":
        """The columns of teachers, int [K], in this order."""
        return Matrices(self.x[:, order], self.y[:, order], self.n[:, order])

    def ratios(self) -> np.ndarray:
        """The metric of each teacher on each prompt, [P, T]; NaN where there is no answer."""
        return ratio(self.x, self.y)

    def values(self) -> np.ndarray:
        """The metric of each teacher, [T]; NaN for one without an answer."""
        return ratio(self.x.sum(0), self.y.sum(0))

    def won(self, metric: Metric) -> np.ndarray:
        """Share of prompts on which each teacher is the best, a tie shared evenly, [T]."""
        return share_first(metric.order(self.ratios()))


@dataclass(frozen=True)
class Prompts:
    """What is counted of prompts beside sums over blocks of them; arrays are [T]."""

    n: int
    answered: np.ndarray  # int: those that each teacher answered
    without: np.ndarray  # int: those that all other teachers answered
    some: np.ndarray  # bool [S, T]: which teachers answered some of the prompts
    won: np.ndarray | None = None  # of prompts that all answered, the share on which it is the best

    def teachers(self, order: np.ndarray) -> "Prompts":
        won = None if self.won is None else self.won[order]
        return Prompts(self.n, self.answered[order], self.without[order], self.some[:, order], won)


@dataclass(frozen=True)
class Blocks(Matrices):
    """The same over blocks of prompts, where `shared` has those of the prompts that every teacher
    answered.
    """

    prompts: Prompts
    shared: "Blocks | None"  # None: these are they

    @property
    def n_prompts(self) -> int:
        return self.prompts.n

    @property
    def n_answered(self) -> np.ndarray:
        return self.prompts.answered

    @property
    def n_without(self) -> np.ndarray:
        return self.prompts.without

    @property
    def answered(self) -> np.ndarray:
        return self.prompts.some

    def matched(self) -> Matrices:
        return self.shared or self

    def teachers(self, order: np.ndarray) -> "Blocks":
        """The columns of teachers, int [K], in this order; all of them, or of matched prompts."""
        own = Matrices.teachers(self, order)
        shared = self.shared and self.shared.teachers(order)
        return Blocks(own.x, own.y, own.n, self.prompts.teachers(order), shared)

    def won(self, metric: Metric) -> np.ndarray:  # noqa: ARG002
        assert self.prompts.won is not None
        return self.prompts.won


def ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x / y; NaN where y is 0."""
    found = np.full(np.shape(x), np.nan)
    np.divide(x, y, out=found, where=y != 0)
    return found
