"""blocks: arms of a pool of any size, from programs of a size that is solved in seconds.

Prompts are dealt into blocks at random. No prompt is in two blocks, so what is asked of prompts and
trajectories holds for all if it holds in each; quotas and measures are carried from block to block:
each block has its share of the quotas that are left, and the sum of a measure over the blocks so
far stays within the final tolerance of its share. So the last block meets both exactly. What blocks
cost is the choice between them: an arm has the lowest rows of each block, not of the whole pool.

A large block is solved one arm after the other, each from the rows that are left, and an arm looks
first at some of the best rows of each teacher and length. Where arms have the same prompts, these
are drawn first, as many as the quotas take. Where that finds nothing, the block is tried with all
arms at once, and the pool in half as many blocks, at last in one.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from rsr_ray.arms.flow import arms_apart
from rsr_ray.arms.problem import Pool, Solution, Wanted, ranks_of, solve

TOGETHER = 1_500  # columns of a program of all arms: more are solved one arm after the other
COLUMNS = 9_000  # of the programs of a block, which take a second or two
MOST_COLUMNS = 50_000  # of one that is tried at all
MOST_SHARED = 3_000  # the same, of arms that have the same prompts: minutes with more
LEAST_QUOTA = 10  # rows of the most wanted teacher in a block: fewer would hardly be the lowest


def solve_in_blocks(pool: Pool, wanted: Wanted, *, thorough: bool = True) -> Solution:
    """Arms within the windows of `wanted`, in as many blocks as the pool's size asks for.

    If not `thorough`, only the rows that are likely to be taken are tried, in these blocks.
    """
    n_blocks = blocks_of(pool, wanted)
    while True:
        solution = _in_blocks(pool, wanted, n_blocks, thorough)
        if solution.chosen is not None or n_blocks == 1 or not thorough:
            return solution
        n_blocks //= 2


def blocks_of(pool: Pool, wanted: Wanted) -> int:
    """In how many blocks a pool is solved."""
    n_arms = len(pool.costs)
    of_teacher, of_bin = _most_likely(wanted.quotas)
    bins = int(pool.length_bin.max(initial=0)) + 1
    if wanted.same_prompts:
        looked_at = int(_is_of_first_prompts(pool, _n_prompts(wanted)).sum())
    else:
        looked_at = int((of_teacher + bins * of_bin).sum())
    columns = n_arms * min(len(pool), looked_at)
    of_quotas = int(wanted.quotas.max()) // LEAST_QUOTA
    return max(1, min(-(-columns // COLUMNS), of_quotas))


def _in_blocks(pool: Pool, wanted: Wanted, n_blocks: int, thorough: bool) -> Solution:
    if n_blocks == 1:
        return solve_block(pool, wanted, thorough=thorough)
    chosen = np.zeros(pool.costs.shape, bool)
    left = wanted.quotas.copy()
    still = np.bincount(pool.teacher, minlength=len(left))  # rows of this block and those behind
    means = _means(pool, len(left))
    used = np.zeros((len(pool.measures), len(chosen)))
    for rows in _dealt(pool, n_blocks):
        here = np.bincount(pool.teacher[rows], minlength=len(left))
        quotas = np.minimum(_share(left, here, still), here // arms_apart(pool, wanted))
        left, still = left - quotas, still - here
        if not quotas.any():
            continue
        done = 1 - (means @ left) / (means @ wanted.quotas)  # [M]
        part = pool.take(rows)
        window = _of_block(wanted, quotas, done, used)
        found = solve_block(part, window, thorough=thorough)
        if found.chosen is None:
            return Solution(None, False)
        chosen[:, rows] = found.chosen
        used += part.sums(found.chosen)
    return Solution(chosen, False) if not left.any() else Solution(None, False)


def _dealt(pool: Pool, n_blocks: int) -> Iterator[np.ndarray]:
    """The rows of each block."""
    prompts, first = np.unique(pool.prompt, return_index=True)
    prompts = prompts[np.argsort(pool.order[first], kind="stable")]
    block_of = np.empty(pool.prompt.max() + 1, np.int32)
    block_of[prompts] = np.arange(len(prompts)) * n_blocks // len(prompts)
    block = block_of[pool.prompt]
    for b in range(n_blocks):
        yield np.flatnonzero(block == b)


def _share(left: np.ndarray, here: np.ndarray, still: np.ndarray) -> np.ndarray:
    """A block's part of the quotas that are left, as of the rows that are left; int64 [T]."""
    return np.where(still > 0, (2 * left * here + still) // np.maximum(2 * still, 1), 0)


def natural(pool: Pool, quotas: np.ndarray) -> np.ndarray:
    """What an arm drawn at random has of each measure on average, float64 [M]."""
    return _means(pool, len(quotas)) @ quotas


def _means(pool: Pool, n_teachers: int) -> np.ndarray:
    """Of each measure over the rows of each teacher, float64 [M, T]."""
    count = np.maximum(np.bincount(pool.teacher, minlength=n_teachers), 1)
    means = [np.bincount(pool.teacher, w, n_teachers) / count for w in pool.measures]
    return np.array(means).reshape(-1, n_teachers)


def _of_block(wanted: Wanted, quotas: np.ndarray, done: np.ndarray, used: np.ndarray) -> Wanted:
    """What is wanted of a block at whose end `done` [M] is to be reached; `used` [M, A] is."""
    if wanted.low is None or wanted.high is None:
        return dataclasses.replace(wanted, quotas=quotas)
    centre, width = (wanted.high + wanted.low) / 2, (wanted.high - wanted.low) / 2
    middle = centre * done[:, None] - used
    return dataclasses.replace(wanted, quotas=quotas, low=middle - width, high=middle + width)


def solve_block(pool: Pool, wanted: Wanted, *, thorough: bool = True) -> Solution:
    """The arms of a block: if it is large one after the other, else, or if that fails, at once."""
    if pool.costs.size > TOGETHER and wanted.tolerance is None:
        found = _in_turn(pool, wanted, thorough)
        is_hopeless = wanted.same_prompts and pool.costs.size > MOST_SHARED
        if found.chosen is not None or found.is_proof or is_hopeless:
            return found
    return _one_program(pool, wanted, thorough)


def _in_turn(pool: Pool, wanted: Wanted, thorough: bool) -> Solution:
    """Each arm of the rows that the arms before it left, matched ones last.

    If the first arm cannot be had even of all rows, that is a proof.
    """
    drawn = _is_of_first_prompts(pool, _n_prompts(wanted)) if wanted.same_prompts else True
    chosen = np.zeros(pool.costs.shape, bool)
    control_of = dict(wanted.copies)
    cell = pool.teacher * (int(pool.length_bin.max()) + 1) + pool.length_bin
    for arm in sorted(range(len(chosen)), key=lambda arm: arm in control_of):
        free = np.flatnonzero(_is_free(pool, wanted, chosen) & drawn)
        own = dataclasses.replace(pool.take(free), costs=pool.costs[[arm]][:, free])
        low, high = (edge if edge is None else edge[:, [arm]] for edge in (wanted.low, wanted.high))
        alone = Wanted(wanted.quotas, wanted.k, "none", wanted.same_prompts, low=low, high=high)
        if arm in control_of:  # its quotas are those of teachers and lengths
            quotas = np.bincount(cell[chosen[control_of[arm]]], minlength=int(cell.max()) + 1)
            own = dataclasses.replace(own, teacher=cell[free])
            alone = dataclasses.replace(alone, quotas=quotas)
        found = _one_program(own, alone, thorough)
        if found.chosen is None:
            is_proof = found.is_proof and not chosen.any() and not wanted.same_prompts
            return Solution(None, is_proof)
        chosen[arm, free] = found.chosen[0]
    return Solution(chosen, False)


def _n_prompts(wanted: Wanted) -> int:
    """Prompts of arms that have the same ones."""
    return int(wanted.quotas.sum()) // wanted.k


def _is_of_first_prompts(pool: Pool, most: int) -> np.ndarray:
    """The rows of the first so many prompts in their random order; bool [N]."""
    orders = np.unique(pool.order)
    first: np.ndarray = pool.order <= orders[min(most, len(orders)) - 1]
    return first


def _is_free(pool: Pool, wanted: Wanted, chosen: np.ndarray) -> np.ndarray:
    """The rows that another arm may still have, bool [N]."""
    if wanted.disjoint == "none":
        return np.ones(len(pool), bool)
    taken = chosen.any(0)
    if wanted.disjoint == "prompts":
        taken = np.isin(pool.prompt, pool.prompt[taken])
    return np.logical_not(taken)


def _one_program(pool: Pool, wanted: Wanted, thorough: bool) -> Solution:
    """One program: of the rows that are likely to be taken; if that fails, of all."""
    allowed = _likely(pool, wanted)
    if not allowed.all():
        found = solve(pool, wanted, allowed)
        if found.chosen is not None:
            return Solution(found.chosen, False)
        if allowed.size > MOST_COLUMNS or not thorough:
            return Solution(None, False)
    return solve(pool, wanted)


def _most_likely(quotas: np.ndarray) -> np.ndarray:
    """Rows that an arm looks at, of each teacher and of each of its length bins; int64 [2, T]."""
    return np.stack([quotas + 5, quotas // 4 + 2]) * (quotas > 0)


def _likely(pool: Pool, wanted: Wanted) -> np.ndarray:
    """The best rows of each teacher, and of each length of it, for each arm; bool [A, N].

    Where arms have the same prompts, all rows of some prompts.
    """
    allowed = np.zeros(pool.costs.shape, bool)
    if pool.costs.size <= TOGETHER:
        return ~allowed
    if wanted.same_prompts:
        most = 3 * int(wanted.quotas.sum()) // wanted.k + 10
        allowed[:] = _is_of_first_prompts(pool, most)
        return allowed
    of_teacher, of_bin = _most_likely(wanted.quotas)[:, pool.teacher]
    cell = pool.teacher * (int(pool.length_bin.max()) + 1) + pool.length_bin
    for arm, costs in enumerate(pool.costs):
        allowed[arm] = ranks_of(costs, pool.teacher) < of_teacher
        allowed[arm] |= ranks_of(costs, cell) < of_bin
    return allowed
