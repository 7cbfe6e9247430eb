"""cap: no teacher has more than its share of the chosen rows."""

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow as pa

from rsr_ray.choose.offers import Offers
from rsr_ray.choose.summary import Moves

CAP_RULE = (
    "While any teacher has more than floor(max_share x chosen) of the chosen rows: among the "
    "rows of all such teachers, the one whose replacement costs the least value is replaced by "
    "the best candidate for the same prompt from a teacher with room for one more. If no row "
    "can be replaced, the worst row of the teacher furthest above the limit (ties: the first by "
    "name) is left out. Equal losses: the first prompt_id, and within it the better row; equal "
    "worst values: the last of these rows."
)


@dataclass(frozen=True)
class Capped:
    """What a cap changed in a choice."""

    exchanged: pa.Table  # prompt_id and place of the rows that are chosen instead, or no longer
    moves: dict[str, Moves]  # by teacher


def cap_shares(offers: Offers, k: int, max_share: float) -> Capped:
    """The best k of each prompt with no teacher above its share, by CAP_RULE."""
    place = offers.place
    best = place <= k
    choice = CappedChoice(offers, best, Fraction(str(max_share)))
    while above := choice.teachers_above():
        moves = [move for t in above if (move := choice.least_loss(t))]
        if moves:
            _, row, successor = min(moves)
            choice.move(row, successor)
        else:
            choice.leave_out_worst(above)
    other = choice.chosen != best
    exchanged = {"prompt_id": offers.prompts.take(pa.array(offers.prompt[other]))}
    exchanged["place"] = pa.array(place[other], pa.int64())
    did = {offers.teachers[t]: Moves(**counts) for t, counts in choice.did.items()}
    return Capped(pa.table(exchanged), did)


class CappedChoice:
    """A choice on its way below the cap. Rows are indices into the offers."""

    def __init__(self, offers: Offers, chosen: np.ndarray, share: Fraction):
        self.chosen = chosen.copy()
        self.did: dict[int, Counter[str]] = defaultdict(Counter)  # by teacher: fields of Moves
        self._share = share
        self._order = offers.numbers["order"]
        # of the prompt
        ends = np.cumsum(np.bincount(offers.prompt)).astype(np.int32)
        self._end = ends[offers.prompt]
        self._teacher = offers.teacher
        n_teachers = len(offers.teachers)
        self._have = np.bincount(self._teacher[chosen], minlength=n_teachers).tolist()  # rows
        self._most = int(share * sum(self._have))  # rows that a teacher may have
        # For each teacher that was above the limit, the rows that may move, by loss, and all its
        # rows, the worst first. A row's loss can only grow while others move, so what the first
        # heap says of it is a lower bound until the row is looked at again.
        self._by_loss: dict[int, list[tuple[float, int]]] = {}
        self._by_value: dict[int, list[tuple[float, int]]] = {}

    def teachers_above(self) -> list[int]:
        return [t for t, n in enumerate(self._have) if n > self._most]

    def least_loss(self, teacher: int) -> tuple[float, int, int] | None:
        """The loss, the row and its successor of the teacher's cheapest move, if it has any."""
        if teacher not in self._by_loss:
            self._by_loss[teacher] = [(0.0, row) for row in self._rows_of(teacher)]
        heap = self._by_loss[teacher]
        while heap:
            bound, row = heap[0]
            successor = self._successor(row) if self.chosen[row] else None
            if successor is None:
                heapq.heappop(heap)
                continue
            loss = float(self._order[successor] - self._order[row])
            if loss == bound:
                return loss, row, successor
            heapq.heapreplace(heap, (loss, row))
        return None

    def move(self, row: int, successor: int) -> None:
        """The row gives its place to its successor."""
        self._remove(row, "moved_away")
        self.chosen[successor] = True
        self._have[self._teacher[successor]] += 1
        self.did[int(self._teacher[successor])]["moved_to"] += 1
        self._add(successor)

    def leave_out_worst(self, teachers: list[int]) -> None:
        """The row of the worst value of the teacher furthest above is left out."""
        furthest = min(teachers, key=lambda t: (-self._have[t], t))  # names are in order
        if furthest not in self._by_value:
            rows = self._rows_of(furthest)
            self._by_value[furthest] = [(-float(self._order[row]), -row) for row in rows]
            heapq.heapify(self._by_value[furthest])
        heap = self._by_value[furthest]
        row = -heapq.heappop(heap)[1]
        while not self.chosen[row]:
            row = -heapq.heappop(heap)[1]
        self._remove(row, "left_out")
        self._most = int(self._share * sum(self._have))

    def _successor(self, row: int) -> int | None:
        """The best candidate of the row's prompt whose teacher has room.

        There is none before the row, as room never comes back.
        """
        for other in range(row + 1, self._end[row]):
            if not self.chosen[other] and self._have[self._teacher[other]] < self._most:
                return other
        return None

    def _rows_of(self, teacher: int) -> list[int]:
        """Those that are chosen."""
        rows: list[int] = np.flatnonzero(self.chosen & (self._teacher == teacher)).tolist()
        return rows

    def _add(self, row: int) -> None:
        teacher = int(self._teacher[row])
        if teacher in self._by_loss:
            heapq.heappush(self._by_loss[teacher], (0.0, row))
        if teacher in self._by_value:
            heapq.heappush(self._by_value[teacher], (-float(self._order[row]), -row))

    def _remove(self, row: int, why: str) -> None:
        self.chosen[row] = False
        self._have[self._teacher[row]] -= 1
        self.did[int(self._teacher[row])][why] += 1
