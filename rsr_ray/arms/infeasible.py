"""infeasible: why there are no such arms, and what would make them possible.

What is suggested was tried. Smaller quotas were tried without regard to tokens: a second message
may follow on these.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from rsr_ray.arms.blocks import natural, solve_block
from rsr_ray.arms.flow import demand, fits, served, usable
from rsr_ray.arms.pool import Request
from rsr_ray.arms.problem import Pool, Wanted
from rsr_ray.config.arms import ArmsConfig

HALVINGS = 7  # of the range in which the largest quotas are looked for
TOKEN_HALVINGS = 4  # of that in which the nearest number of tokens is looked for
TOLERANCES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def too_few(pool: Pool, request: Request, config: ArmsConfig) -> str:
    """Of quotas that a flow cannot meet."""
    wanted = request.wanted
    ways = _quotas_that(lambda quotas: fits(pool, _with(wanted, quotas)), request, config)
    short = int(np.argmax(demand(pool, wanted) - served(pool, wanted)))
    others = _with(wanted, np.where(np.arange(len(wanted.quotas)) == short, 0, wanted.quotas))
    may_leave_out = config.per_teacher is not None and not config.teachers
    if may_leave_out and others.quotas.any() and _fits(request, others):
        names = [*config.exclude_teachers, request.teachers[short]]
        ways.append(f"pass --exclude-teachers {' '.join(names)}")
    if config.disjoint != "none":
        overlapping = dataclasses.replace(wanted, disjoint="none")
        if _fits(request, overlapping):
            ways.append("pass --disjoint none")
    return f"{_shortage(pool, request, config)}. {_would_do(ways)}"


def _fits(request: Request, wanted: Wanted) -> bool:
    """Whether a flow meets other wishes."""
    return fits(request.pool.take(usable(request.pool, wanted)), wanted)


def _shortage(pool: Pool, request: Request, config: ArmsConfig) -> str:
    """Of what there is too little: prompts, or trajectories of a teacher."""
    wanted, n_arms = request.wanted, len(config.arms)
    prompts, each = len(np.unique(pool.prompt)), int(wanted.quotas.sum())
    in_all = each * (n_arms if config.disjoint == "prompts" else 1)
    if in_all > wanted.k * prompts:
        of = "have enough trajectories for that" if wanted.same_prompts else "can be used"
        return (
            f"too few prompts: {each:,} trajectories in each of {n_arms} arms, {_rules(config)}, "
            f"but only {prompts:,} prompts {of}"
        )
    need, have = demand(pool, wanted), served(pool, wanted)
    short = int(np.argmax(need - have))
    rows = int((request.pool.teacher == short).sum())
    return (
        f"too few trajectories of teacher {request.teachers[short]}: {wanted.quotas[short]:,} in "
        f"each of {n_arms} arms, {_rules(config)}, are {need[short]:,}; it has {rows:,}, of which "
        f"{have[short]:,} can be used together with those of the other teachers"
    )


def why_not(
    request: Request, config: ArmsConfig, can: Callable[[ArmsConfig], bool], *, is_proof: bool
) -> str:
    """Of quotas that can be met, but not with all that is asked beside them.

    `can` says whether arms are found with other settings.
    """
    pool, wanted = request.pool, request.wanted
    there = "there are no such arms" if is_proof else "no such arms were found"
    if request.measures and solve_block(pool, wanted).chosen is not None:
        return f"{there}: {_not_so_alike(request, config, can)}"
    ways = _quotas_that(_solvable(pool, wanted), request, config)
    if wanted.copies:
        plain = dataclasses.replace(wanted, copies=())
        if solve_block(pool, plain).chosen is not None:
            names = " and ".join(config.arms[control] for control, _ in wanted.copies)
            ways = [f"leave {names} out of --arms", *ways]
            return (
                f"{there}: too few trajectories of the same lengths are left for {names}. "
                f"{_would_do(ways)}"
            )
    return f"{there}: the quotas cannot be met with {_rules(config)}. {_would_do(ways)}"


def _not_so_alike(request: Request, config: ArmsConfig, can: Callable[[ArmsConfig], bool]) -> str:
    """Of arms that cannot have the same of each measure, at least not as much as asked for."""
    ways = []
    names = " and ".join(request.measures)
    what = f"none whose {names} are within {config.tolerance * 100:g}%"
    if config.tokens is not None:
        least, usual, most = _range_of(request)
        what += (
            f" of {config.tokens:,}; an arm can have {least:,} to {most:,}, and has "
            f"{usual:,} if drawn at random"
        )
        near = min(max(config.tokens, least), most)
        if (tokens := _nearest(near, usual, config, can)) is not None:
            ways.append(f"pass --tokens {tokens}")
    else:
        what += " of each other"
    wider = (tolerance for tolerance in TOLERANCES if tolerance > config.tolerance)
    if not ways:
        for tolerance in wider:
            if can(dataclasses.replace(config, tolerance=tolerance)):
                ways.append(f"pass --tolerance {tolerance:g}")
                break
    return f"{what}. {_would_do(ways)}"


def _range_of(request: Request) -> tuple[int, int, int]:
    """The fewest tokens of an arm with these quotas, the mean of random ones, and the most."""
    pool, quotas = request.pool, request.wanted.quotas
    tokens = pool.measures[request.measures.index("tokens")]
    of_teachers = [np.sort(tokens[pool.teacher == t]) for t in range(len(quotas))]
    least = sum(some[:n].sum() for some, n in zip(of_teachers, quotas, strict=True))
    most = sum(some[len(some) - n :].sum() for some, n in zip(of_teachers, quotas, strict=True))
    (usual,) = natural(dataclasses.replace(pool, measures=tokens[None]), quotas)
    return int(least), round(usual), int(most)


def _nearest(
    tokens: int, usual: int, config: ArmsConfig, can: Callable[[ArmsConfig], bool]
) -> int | None:
    """The number of tokens nearest to `tokens` that was found to do, on the way to `usual`."""
    near, far = tokens, usual
    if not can(dataclasses.replace(config, tokens=far)):
        return None
    for _ in range(TOKEN_HALVINGS):
        middle = (near + far) // 2
        if can(dataclasses.replace(config, tokens=middle)):
            far = middle
        else:
            near = middle
    return far


def _rules(config: ArmsConfig) -> str:
    """What limits how often a row and a prompt are taken, in words."""
    alike = (
        f"exactly {config.k} per prompt, the same prompts in all arms"
        if "prompts" in config.match
        else f"at most {config.k} per prompt"
    )
    apart = {
        "trajectories": ", no trajectory in two arms",
        "prompts": ", no prompt in two arms",
        "none": "",
    }
    return f"{alike}{apart[config.disjoint]}"


def _solvable(pool: Pool, wanted: Wanted) -> Callable[[np.ndarray], bool]:
    return lambda quotas: (
        solve_block(pool, _with(wanted, quotas), thorough=False).chosen is not None
    )


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
