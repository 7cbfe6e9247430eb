"""infeasible: why there are no such arms, and what would make them possible.

What is suggested was tried. Smaller quotas were tried without regard to tokens: a second message
may follow on these.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from rsr_ray.arms.blocks import solve_block
from rsr_ray.arms.flow import demand, fits, served, usable
from rsr_ray.arms.pool import Request
from rsr_ray.arms.problem import Pool, Wanted, without_measures
from rsr_ray.config.arms import ArmsConfig

HALVINGS = 7  # of the range in which the largest quotas are looked for


def too_few(pool: Pool, request: Request, config: ArmsConfig) -> str:
    """Of quotas that a flow cannot meet."""
    wanted = request.wanted
    ways = _quotas_that(lambda quotas: fits(pool, _with(wanted, quotas)), request, config)
    if config.disjoint != "none":
        overlapping = dataclasses.replace(wanted, disjoint="none")
        if fits(request.pool.take(usable(request.pool, overlapping)), overlapping):
            ways.append("pass --disjoint none")
    return f"{_shortage(pool, request, config)}. {_would_do(ways)}"


def _shortage(pool: Pool, request: Request, config: ArmsConfig) -> str:
    """Of what there is too little: prompts, or trajectories of a teacher."""
    wanted, n_arms = request.wanted, len(config.arms)
    prompts, each = len(np.unique(pool.prompt)), int(wanted.quotas.sum())
    in_all = each * (n_arms if config.disjoint == "prompts" else 1)
    if in_all > wanted.k * prompts:
        of = "have enough trajectories for that" if wanted.same_prompts else "can be chosen"
        return (
            f"too few prompts: {each:,} trajectories in each of {n_arms} arms, {_rules(config)}, "
            f"and {prompts:,} prompts {of}"
        )
    need, have = demand(pool, wanted), served(pool, wanted)
    short = int(np.argmax(need - have))
    rows = int((request.pool.teacher == short).sum())
    return (
        f"too few trajectories of teacher {request.teachers[short]}: {wanted.quotas[short]:,} in "
        f"each of {n_arms} arms, {_rules(config)}; of its {rows:,} that can be chosen "
        f"{have[short]:,} can be had beside the other teachers, and {need[short]:,} are needed"
    )


def why_not(pool: Pool, request: Request, config: ArmsConfig, *, is_proof: bool) -> str:
    """Of quotas that can be met, but not with all that is asked beside them."""
    wanted = without_measures(request.wanted)
    there = "there are no such arms" if is_proof else "no such arms were found"
    closest = solve_block(pool, wanted).chosen
    if closest is not None and request.measures:
        return f"{there}: {_not_so_alike(pool, closest, request, config)}"
    if wanted.copies:
        plain = dataclasses.replace(wanted, copies=())
        if solve_block(pool, plain).chosen is not None:
            names = [config.arms[control] for control, _ in wanted.copies]
            ways = [f"leave {' and '.join(names)} out of --arms"]
            ways += _quotas_that(_solvable(pool, wanted), request, config)
            return (
                f"{there}: too few trajectories of the same lengths are left for "
                f"{' and '.join(names)}. {_would_do(ways)}"
            )
    ways = _quotas_that(_solvable(pool, wanted), request, config)
    return f"{there}: the quotas cannot be met with {_rules(config)}. {_would_do(ways)}"


def _not_so_alike(pool: Pool, closest: np.ndarray, request: Request, config: ArmsConfig) -> str:
    """What the arms nearest to each other have, and the options that take them."""
    sums = pool.measures @ closest.T  # [M, A]
    least, most = sums.min(1), sums.max(1)
    spread = float((most / least - 1).max())
    options = []
    tolerance = config.tolerance
    if spread > tolerance:
        digit = 10.0 ** (math.floor(math.log10(spread)) - 1)
        tolerance = math.ceil(spread / digit) * digit
        options.append(f"--tolerance {tolerance:.2g}")
    names = " and ".join(request.measures)
    what = f"the arms whose {names} are nearest to each other differ by {spread:.2%}"
    if config.tokens is not None:
        at = request.measures.index("tokens")
        tokens = math.floor(least[at] * (2 + tolerance) / 2)
        what += f", at {least[at]:,.0f} to {most[at]:,.0f} tokens, not {config.tokens:,}"
        options.insert(0, f"--tokens {tokens}")
    return f"{what}. {_would_do([' '.join(['pass', *options])] if options else [])}"


def _rules(config: ArmsConfig) -> str:
    """What limits how often a row and a prompt are taken, in words."""
    alike = (
        f"{config.k} trajectories of each prompt, the same prompts in all arms"
        if "prompts" in config.match
        else f"at most {config.k} of a prompt in an arm"
    )
    apart = {
        "trajectories": ", no trajectory in two arms",
        "prompts": ", no prompt in two arms",
        "none": "",
    }
    return f"{alike}{apart[config.disjoint]}"


def _solvable(pool: Pool, wanted: Wanted) -> Callable[[np.ndarray], bool]:
    return lambda quotas: solve_block(pool, _with(wanted, quotas)).chosen is not None


def _with(wanted: Wanted, quotas: np.ndarray) -> Wanted:
    return dataclasses.replace(wanted, quotas=quotas)


def _quotas_that(
    do: Callable[[np.ndarray], bool], request: Request, config: ArmsConfig
) -> list[str]:
    """The largest quotas of the same proportions that were found to do, as an option; or none."""
    quotas = request.wanted.quotas
    low, high = 0.0, 1.0
    for _ in range(max(HALVINGS, int(quotas.max()).bit_length())):
        middle = (low + high) / 2
        some = _scaled(quotas, middle, config)
        if some.any() and do(some):
            low = middle
        else:
            high = middle
    some = _scaled(quotas, low, config)
    if not some.any():
        return []
    if config.per_teacher is not None:
        return [f"pass --per-teacher {some.max()}"]
    pairs = zip(request.teachers, some.tolist(), strict=True)
    return ["pass --quotas " + " ".join(f"{name}={n}" for name, n in pairs if n)]


def _scaled(quotas: np.ndarray, share: float, config: ArmsConfig) -> np.ndarray:
    some = np.floor(quotas * share).astype(np.int64)
    if "prompts" in config.match and (over := int(some.sum()) % config.k):
        some[np.argmax(some)] -= over
    return np.maximum(some, 0)


def _would_do(ways: list[str]) -> str:
    if not ways:
        return "Ask for fewer arms, or score more trajectories"
    return f"To fix it, {', or '.join(ways)}"
