"""blocks: arms of a pool of any size, from programs of a size that is solved in seconds.

Prompts are dealt into blocks at random. No prompt is in two blocks, so what is asked of prompts and
trajectories holds for all if it holds in each; quotas and measures are carried from block to block:
each block has its share of the quotas that are left, and the sum of a measure over the blocks so
far stays within the final tolerance of its share. So the last block meets both exactly. What blocks
cost is the choice between them: an arm has the lowest rows of each block, not of the whole pool.

Of a large block an arm looks only at some of the best rows of each teacher and length. A block
without a solution is tried with all its rows, and a pool without one in half as many blocks, at
last in one.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from rsr_ray.arms.flow import arms_apart
from rsr_ray.arms.problem import Pool, Solution, Wanted, solve

COLUMNS = 8_000  # of a program that takes about a second
MOST_COLUMNS = 200_000  # of one that is tried at all
LEAST_QUOTA = 10  # rows of the most wanted teacher in a block: fewer would hardly be the lowest


def solve_in_blocks(pool: Pool, wanted: Wanted) -> Solution:
    """Arms within the windows of `wanted`, in as many blocks as the pool's size asks for."""
    n_blocks = blocks_of(pool, wanted)
    while True:
        solution = _in_blocks(pool, wanted, n_blocks)
        if solution.chosen is not None or n_blocks == 1:
            return solution
        n_blocks //= 2


def blocks_of(pool: Pool, wanted: Wanted) -> int:
    """In how many blocks a pool is solved."""
    n_arms = len(pool.costs)
    columns = n_arms * min(len(pool), _looked_at(wanted.quotas, pool).sum())
    of_quotas = int(wanted.quotas.max()) // LEAST_QUOTA
    return max(1, min(-(-int(columns) // COLUMNS), of_quotas))


def _in_blocks(pool: Pool, wanted: Wanted, n_blocks: int) -> Solution:
    if n_blocks == 1:
        return solve_block(pool, wanted)
    chosen = np.zeros(pool.costs.shape, bool)
    left = wanted.quotas.copy()
    for rows, still in _dealt(pool, n_blocks):
        most = np.bincount(pool.teacher[rows], minlength=len(left)) // arms_apart(pool, wanted)
        quotas = np.minimum(_share(left, pool.teacher[rows], pool.teacher[still]), most)
        left = left - quotas
        if not quotas.any():
            continue
        done = 1 - natural(pool, left) / natural(pool, wanted.quotas)  # [M]
        part = pool.take(rows)
        found = solve_block(part, _of_block(wanted, quotas, done, pool.measures @ chosen.T))
        if found.chosen is None:
            return Solution(None, False)
        chosen[:, rows] = found.chosen
    return Solution(chosen, False) if not left.any() else Solution(None, False)


def _dealt(pool: Pool, n_blocks: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows of each block, and those of this and all blocks behind it."""
    prompts = np.unique(np.stack([pool.order, pool.prompt]), axis=1)[1].astype(np.int64)
    block_of = np.empty(pool.prompt.max() + 1, np.int64)
    block_of[prompts] = np.arange(len(prompts)) * n_blocks // len(prompts)
    block = block_of[pool.prompt]
    for b in range(n_blocks):
        yield np.flatnonzero(block == b), np.flatnonzero(block >= b)


def _share(left: np.ndarray, here: np.ndarray, still: np.ndarray) -> np.ndarray:
    """A block's part of the quotas that are left, as of the rows that are left; int64 [T]."""
    n_here, n_still = (np.bincount(teachers, minlength=len(left)) for teachers in (here, still))
    return np.where(n_still > 0, (2 * left * n_here + n_still) // np.maximum(2 * n_still, 1), 0)


def natural(pool: Pool, quotas: np.ndarray) -> np.ndarray:
    """What an arm drawn at random has of each measure on average, float64 [M]."""
    count = np.maximum(np.bincount(pool.teacher, minlength=len(quotas)), 1)
    means = [np.bincount(pool.teacher, w, len(quotas)) / count for w in pool.measures]
    return np.array(means).reshape(-1, len(quotas)) @ quotas


def _of_block(wanted: Wanted, quotas: np.ndarray, done: np.ndarray, used: np.ndarray) -> Wanted:
    """What is wanted of a block at whose end `done` [M] is to be reached; `used` [M, A] is."""
    if wanted.low is None or wanted.high is None:
        return dataclasses.replace(wanted, quotas=quotas)
    centre, width = (wanted.high + wanted.low) / 2, (wanted.high - wanted.low) / 2
    middle = centre * done[:, None] - used
    return dataclasses.replace(wanted, quotas=quotas, low=middle - width, high=middle + width)


def solve_block(pool: Pool, wanted: Wanted) -> Solution:
    """One program: of the rows that are likely to be taken, else of all."""
    allowed = _likely(pool, wanted)
    if not allowed.all():
        found = solve(pool, wanted, allowed)
        if found.chosen is not None:
            return Solution(found.chosen, False)
        if allowed.size > MOST_COLUMNS:
            return Solution(None, False)
    return solve(pool, wanted)


def _looked_at(quotas: np.ndarray, pool: Pool) -> np.ndarray:
    """Rows of each teacher that an arm looks at, at most; int64 [T]."""
    bins = int(pool.length_bin.max(initial=0)) + 1
    return np.where(quotas > 0, bins * (2 * quotas + 4), 0)


def _likely(pool: Pool, wanted: Wanted) -> np.ndarray:
    """The best rows of each teacher and length bin for each arm, bool [A, N].

    Where arms have the same prompts, all rows of some prompts.
    """
    allowed = np.zeros(pool.costs.shape, bool)
    if pool.costs.size <= COLUMNS:
        return ~allowed
    if wanted.same_prompts:
        orders = np.unique(pool.order)
        most = 3 * int(wanted.quotas.sum()) // wanted.k + 10
        allowed[:] = pool.order <= orders[min(most, len(orders)) - 1]
        return allowed
    bins = int(pool.length_bin.max()) + 1
    cell = pool.teacher * bins + pool.length_bin
    most = 2 * wanted.quotas[pool.teacher] + 4
    most[wanted.quotas[pool.teacher] == 0] = 0
    for arm, costs in enumerate(pool.costs):
        by_cost = np.lexsort((costs, cell))
        first = np.searchsorted(cell[by_cost], cell[by_cost])
        place = np.empty(len(cell), np.int64)
        place[by_cost] = np.arange(len(cell)) - first
        allowed[arm] = place < most
    return allowed
