"""solve: the arms of a request; or why there are none, and what would make them possible."""

import dataclasses
import functools

import numpy as np

from rsr_ray.arms.blocks import natural, solve_block, solve_in_blocks
from rsr_ray.arms.flow import fits, usable
from rsr_ray.arms.infeasible import too_few, why_not
from rsr_ray.arms.pool import Request
from rsr_ray.arms.problem import Pool, Solution, Wanted
from rsr_ray.config.arms import ArmsConfig
from rsr_ray.errors import UserError


def solve_request(request: Request, config: ArmsConfig) -> np.ndarray:
    """Which candidates are in which arm, bool [A, N]. Raises UserError that says what would do."""
    n = int(request.wanted.quotas.sum())
    if request.wanted.same_prompts and n % config.k:
        raise UserError(
            f"--k {config.k} with --match prompts: the quotas must add up to a multiple of "
            f"{config.k}, not {n:,}"
        )
    rows = usable(request.pool, request.wanted)
    pool = request.pool if len(rows) == len(request.pool) else request.pool.take(rows)
    some = dataclasses.replace(request, pool=pool)
    if not fits(some.pool, some.wanted):
        raise UserError(too_few(some.pool, request, config))
    found = _find(some, config, thorough=True)
    if found.chosen is None:
        can = functools.partial(_can, some)
        raise UserError(why_not(some, config, can, is_proof=found.is_proof))
    chosen = np.zeros(request.pool.costs.shape, bool)
    chosen[:, rows] = found.chosen
    return chosen


def _find(request: Request, config: ArmsConfig, *, thorough: bool) -> Solution:
    """The arms of a request whose rows are all usable."""
    found = solve_in_blocks(request.pool, aimed(request, config), thorough=thorough)
    if found.chosen is None and request.measures and config.tokens is None:
        # not where a random draw is, but perhaps elsewhere
        elsewhere = dataclasses.replace(request.wanted, tolerance=config.tolerance)
        found = solve_block(request.pool, elsewhere, thorough=thorough)
    if found.chosen is not None and not _are_alike(request.pool, found.chosen, config):
        return Solution(None, False)
    return found


def _can(request: Request, config: ArmsConfig) -> bool:
    """Whether arms are found in short; what a message suggests."""
    return _find(request, config, thorough=False).chosen is not None


def aimed(request: Request, config: ArmsConfig) -> Wanted:
    """What is wanted, with a window for each measure: around what a random draw has, or --tokens.

    The highest of a window is above its lowest by the tolerance.
    """
    if not request.measures:
        return request.wanted
    targets = natural(request.pool, request.wanted.quotas)
    if config.tokens is not None:
        targets[request.measures.index("tokens")] = config.tokens
    low = np.repeat(targets[:, None] * 2 / (2 + config.tolerance), len(config.arms), axis=1)
    return dataclasses.replace(request.wanted, low=low, high=low * (1 + config.tolerance))


def _are_alike(pool: Pool, chosen: np.ndarray, config: ArmsConfig) -> bool:
    """Whether the tolerance holds to the last token: the solver's own arithmetic has one too."""
    sums = pool.sums(chosen)
    return bool(
        (sums.max(1, initial=0) <= sums.min(1, initial=np.inf) * (1 + config.tolerance)).all()
    )
