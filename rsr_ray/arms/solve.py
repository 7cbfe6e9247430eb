"""solve: the arms of a request; or why there are none, and what would make them possible."""

import dataclasses

import numpy as np

from rsr_ray.arms.blocks import natural, solve_block, solve_in_blocks
from rsr_ray.arms.flow import fits, usable
from rsr_ray.arms.infeasible import too_few, why_not
from rsr_ray.arms.pool import Request
from rsr_ray.arms.problem import Pool, Wanted
from rsr_ray.config.arms import ArmsConfig
from rsr_ray.errors import UserError


def solve_request(request: Request, config: ArmsConfig) -> np.ndarray:
    """Which candidates are in which arm, bool [A, N]. Raises UserError that says what would do."""
    rows = usable(request.pool, request.wanted)
    pool, wanted = request.pool.take(rows), request.wanted
    n = int(wanted.quotas.sum())
    if wanted.same_prompts and n % config.k:
        raise UserError(
            f"--k {config.k} with --match prompts: the quotas must add up to a multiple of "
            f"{config.k}, not {n:,}"
        )
    if not fits(pool, wanted):
        raise UserError(too_few(pool, request, config))
    found = solve_in_blocks(pool, aimed(request, config))
    if found.chosen is None and request.measures and config.tokens is None:
        # not where a random draw is, but perhaps elsewhere
        found = solve_block(pool, dataclasses.replace(wanted, tolerance=config.tolerance))
    if found.chosen is None or not _are_alike(pool, found.chosen, config):
        raise UserError(why_not(pool, request, config, is_proof=found.is_proof))
    chosen = np.zeros(request.pool.costs.shape, bool)
    chosen[:, rows] = found.chosen
    return chosen


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
    sums = pool.measures @ chosen.T
    return bool(
        (sums.max(1, initial=0) <= sums.min(1, initial=np.inf) * (1 + config.tolerance)).all()
    )
