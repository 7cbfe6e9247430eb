"""problem: arms of exact quotas as an integer program, solved by HiGHS (scipy.optimize.milp).

A binary x for each arm and row; A arms, N rows, T teachers, P prompts, M measures:

    minimise    sum of cost[a, i] x[a, i]
    quotas      sum over rows i of teacher t of x[a, i] = quota[t]              for all a, t
    prompts     sum over rows i of prompt p of x[a, i] <= k                     for all a, p
    disjoint    sum over a of x[a, i] <= 1                                      for all i
    measures    low[m, a] <= sum of w[m, i] x[a, i] <= high[m, a]               for all m, a
    lengths     as many rows of a teacher and length bin as in another arm      for a matched arm
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_array

OPTIMAL, INFEASIBLE = 0, 2  # of scipy's statuses
NODES = 1_000  # of a search: a limit of seconds would give other arms on another machine
GAP = 1e-3  # by how much the cost may be above the least, as a share


@dataclass(frozen=True)
class Pool:
    """Candidate rows as numbers."""

    teacher: np.ndarray  # int [N], 0 to T - 1
    prompt: np.ndarray  # int [N]
    length_bin: np.ndarray  # int [N]: a bin of its teacher's lengths
    costs: np.ndarray  # float64 [A, N], 0 to 1: what makes a row unfit for an arm
    measures: np.ndarray  # float64 [M, N], above 0: what arms are to have the same of
    order: np.ndarray  # [N]: a random number of the row's prompt

    def __len__(self) -> int:
        return len(self.teacher)

    def sums(self, chosen: np.ndarray) -> np.ndarray:
        """Of each measure over the rows of each arm, bool [A, N]; float64 [M, A]."""
        rows_of = map(np.flatnonzero, chosen)
        return np.stack([self.measures[:, rows].sum(1) for rows in rows_of], axis=1)

    def take(self, rows: np.ndarray) -> "Pool":
        """Some of the rows: bool or int64 [n]."""
        return Pool(
            self.teacher[rows],
            self.prompt[rows],
            self.length_bin[rows],
            self.costs[:, rows],
            self.measures[:, rows],
            self.order[rows],
        )


@dataclass(frozen=True)
class Wanted:
    """What every arm must hold."""

    quotas: np.ndarray  # int64 [T]: rows of each teacher in every arm
    k: int = 1  # most rows of a prompt in an arm; with `same_prompts` exactly so many
    disjoint: str = "trajectories"  # what no two arms share: trajectories, prompts, none
    same_prompts: bool = False
    copies: tuple[tuple[int, int], ...] = ()  # (control, the arm whose lengths it has)
    # of each measure the least and most that an arm may have, float64 [M, A] each; None: any
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    # how far the largest arm may be above the smallest, where no window is given; None: any
    tolerance: float | None = None


@dataclass(frozen=True)
class Solution:
    """Which rows are in which arm, bool [A, N]; None where there are no such arms."""

    chosen: np.ndarray | None
    is_proof: bool = True  # that it is the best, or that there is none


class Program:
    """An integer program that grows by groups of constraints."""

    def __init__(self, n_columns: int):
        self.n_columns = n_columns
        self._entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._bounds: list[tuple[np.ndarray, np.ndarray]] = []
        self._n_rows = 0

    def new_columns(self, n: int) -> np.ndarray:
        """Indices of n more columns."""
        self.n_columns += n
        return np.arange(self.n_columns - n, self.n_columns)

    def add(
        self,
        entries: list[tuple[np.ndarray, np.ndarray, np.ndarray | float]],
        low: np.ndarray | float,
        high: np.ndarray | float,
        n: int,
    ) -> None:
        """n constraints low <= sum <= high. An entry is rows 0 to n - 1, columns, and factors."""
        for rows, columns, factors in entries:
            values = np.broadcast_to(np.asarray(factors, float), rows.shape)
            self._entries.append((rows + self._n_rows, columns, values))
        self._bounds.append((np.broadcast_to(low, n), np.broadcast_to(high, n)))
        self._n_rows += n

    def solve(
        self, costs: np.ndarray, continuous: int, gap: float
    ) -> tuple[np.ndarray | None, bool]:
        """The best values [n_columns], None without any, and whether that is proven.

        The last `continuous` columns are numbers from 0, all others 0 or 1.
        """
        rows, columns, values = (np.concatenate(part) for part in zip(*self._entries, strict=True))
        matrix = coo_array((values, (rows, columns)), shape=(self._n_rows, self.n_columns)).tocsc()
        low, high = (np.concatenate(part) for part in zip(*self._bounds, strict=True))
        whole = np.ones(self.n_columns)
        most = np.ones(self.n_columns)
        if continuous:
            whole[-continuous:], most[-continuous:] = 0, np.inf
        found = milp(
            costs,
            integrality=whole,
            bounds=(0, most),
            constraints=LinearConstraint(matrix, low, high),
            options={"node_limit": NODES, "mip_rel_gap": gap},
        )
        return found.x, found.status in (OPTIMAL, INFEASIBLE)


def solve(
    pool: Pool, wanted: Wanted, allowed: np.ndarray | None = None, gap: float = GAP
) -> Solution:
    """The arms of the least cost; `allowed`, bool [A, N], are the rows that an arm may have."""
    if allowed is None:
        allowed = np.ones(pool.costs.shape, bool)
    arm, row = np.nonzero(allowed)
    program = Program(len(arm))
    _add_quotas(program, pool, wanted, arm, row)
    _add_prompts(program, pool, wanted, arm, row)
    _add_disjoint(program, wanted, arm, row)
    _add_lengths(program, pool, wanted, arm, row)
    n_continuous = _add_measures(program, pool, wanted, arm, row)
    costs = np.zeros(program.n_columns)
    costs[: len(arm)] = pool.costs[arm, row]
    x, is_proof = program.solve(costs, n_continuous, gap)
    if x is None:
        return Solution(None, is_proof)
    chosen = np.zeros(pool.costs.shape, bool)
    chosen[arm, row] = x[: len(arm)] > 0.5
    return Solution(chosen, is_proof)


def _add_quotas(
    program: Program, pool: Pool, wanted: Wanted, arm: np.ndarray, row: np.ndarray
) -> None:
    n_arms, n_teachers = len(pool.costs), len(wanted.quotas)
    group = arm * n_teachers + pool.teacher[row]
    quotas = np.tile(wanted.quotas, n_arms)
    program.add([(group, np.arange(len(arm)), 1)], quotas, quotas, len(quotas))


def _add_prompts(
    program: Program, pool: Pool, wanted: Wanted, arm: np.ndarray, row: np.ndarray
) -> None:
    """At most k rows of a prompt in an arm; the same prompts in all, or others in each."""
    n_arms = len(pool.costs)
    _, prompt = np.unique(pool.prompt, return_inverse=True)
    n_prompts = int(prompt.max(initial=-1)) + 1
    group = arm * n_prompts + prompt[row]
    x = np.arange(len(arm))
    n = n_arms * n_prompts
    every = np.arange(n)
    if wanted.same_prompts:
        taken = program.new_columns(n_prompts)
        program.add([(group, x, 1), (every, np.tile(taken, n_arms), -wanted.k)], 0, 0, n)
    elif wanted.disjoint == "prompts":
        taken = program.new_columns(n)
        program.add([(group, x, 1), (every, taken, -wanted.k)], -np.inf, 0, n)
        program.add([(every % n_prompts, taken, 1)], -np.inf, 1, n_prompts)
    else:
        _add_at_most(program, group, x, wanted.k)


def _add_at_most(program: Program, group: np.ndarray, x: np.ndarray, most: int) -> None:
    """At most so many columns x of each group that has more."""
    _, group, count = np.unique(group, return_inverse=True, return_counts=True)
    large = count > most
    number = np.cumsum(large) - 1
    some = large[group]
    if some.any():
        program.add([(number[group[some]], x[some], 1)], -np.inf, most, int(large.sum()))


def _add_disjoint(program: Program, wanted: Wanted, arm: np.ndarray, row: np.ndarray) -> None:
    if wanted.disjoint == "trajectories":
        _add_at_most(program, row, np.arange(len(arm)), 1)


def _add_lengths(
    program: Program, pool: Pool, wanted: Wanted, arm: np.ndarray, row: np.ndarray
) -> None:
    """A matched arm has as many rows of each teacher and length as the arm it is matched to."""
    bins = int(pool.length_bin.max(initial=0)) + 1
    group = pool.teacher[row] * bins + pool.length_bin[row]
    for control, of in wanted.copies:
        (here,), (there,) = np.nonzero(arm == control), np.nonzero(arm == of)
        n = len(wanted.quotas) * bins
        program.add([(group[here], here, 1), (group[there], there, -1)], 0, 0, n)


def _add_measures(
    program: Program, pool: Pool, wanted: Wanted, arm: np.ndarray, row: np.ndarray
) -> int:
    """Windows of each measure, or columns for the least and most of any arm: how many of these."""
    n_arms, x = len(pool.costs), np.arange(len(arm))
    every = np.arange(n_arms)
    columns = 0
    for m, measure in enumerate(pool.measures):
        scale = measure.mean()
        weights = measure[row] / scale
        if wanted.low is not None and wanted.high is not None:
            low, high = wanted.low[m] / scale, wanted.high[m] / scale
            program.add([(arm, x, weights)], low, high, n_arms)
        elif wanted.tolerance is not None:
            edges = program.new_columns(2)
            least, most = (np.full(n_arms, edge) for edge in edges)
            program.add([(arm, x, weights), (every, least, -1)], 0, np.inf, n_arms)
            program.add([(arm, x, weights), (every, most, -1)], -np.inf, 0, n_arms)
            factors = np.array([-1 - wanted.tolerance, 1])
            program.add([(np.zeros(2, int), edges, factors)], -np.inf, 0, 1)
            columns += len(edges)
    return columns


def ranks_of(costs: np.ndarray, group: np.ndarray) -> np.ndarray:
    """How many rows of its group are better, int64 [N]; of equal ones those that come first."""
    by_cost = np.lexsort((costs, group))
    first = np.searchsorted(group[by_cost], group[by_cost])
    ranks = np.empty(len(group), np.int64)
    ranks[by_cost] = np.arange(len(group)) - first
    return ranks
