"""wording: a ranking in words: the answer, and what a reader of it has to know."""

import numpy as np

from rsr_ray.decide.inference import FEWEST
from rsr_ray.decide.matrices import Matrices
from rsr_ray.decide.naturalness import LOCAL, naturalness_notes
from rsr_ray.decide.scored import Scored
from rsr_ray.guard import UNCHECKED
from rsr_ray.metrics import Metric

NAMED = 5  # teachers that the answer names before it only counts
GROUPS_TRIED = 12  # teachers from which a group that shares prompts is sought


def sentence(
    names: list[str],
    best: list[str],
    *,
    is_matched: bool,
    n_prompts: int,
    more_prompts: int | None,
    confidence: float,
) -> str:
    """The answer: which teachers may be the best, and what would tell more.

    `names` are all teachers, best first; for the others see `Ranking`.
    """
    first = names[0]
    if len(names) == 1:
        return f"{first} is the only teacher."
    if not is_matched:
        return (
            f"{first} ranks first, but without a confidence estimate, because the teachers "
            "answered different prompts."
        )
    if not best:
        return (
            f"{first} ranks first, but {_why_unsure(len(names), n_prompts)} for a confidence "
            "estimate."
        )
    sure = f"on prompts like these ({100 * confidence:g}% confidence)"
    if len(best) == 1:
        return f"{first} is best {sure}."
    told = (
        f"; about {about(more_prompts):,} more prompts would probably separate {best[0]} and "
        f"{best[1]}"
        if more_prompts
        else ""
    )
    if len(best) < len(names):
        return f"{listed(best)} is best {sure}{told}."
    any_of = "Either" if len(best) == 2 else "Any"
    which = f"{any_of} of the {len(best)} teachers may be best {sure}"
    return f"{which}; {first} ranks first on these {n_prompts:,}{told}."


def about(n: int) -> int:
    """A number of which two digits are known."""
    return int(float(f"{n:.2g}"))


def _why_unsure(n_teachers: int, n_prompts: int) -> str:
    if n_prompts < FEWEST:
        return f"{n_prompts:,} prompt{'s are' if n_prompts > 1 else ' is'} too few"
    return f"{n_teachers:,} teachers are too many"


def listed(names: list[str]) -> str:
    """One of some names, in words."""
    if len(names) > NAMED:
        return (
            f"One of {len(names)} teachers ({', '.join(names[:NAMED])} and {len(names) - NAMED} "
            f"more)"
        )
    return f"{', '.join(names[:-1])} or {names[-1]}"


def probability(p: float | None) -> str:
    """Two digits, as sure as draws are, which never show that anything is certain."""
    if p is None:
        return "-"
    return "> 0.99" if p > 0.99 else "< 0.01" if p < 0.01 else f"{p:.2f}"


def notes(scored: Scored, metric: Metric, every: Matrices, is_matched: bool) -> list[str]:
    """What a reader of the ranking has to know; `every` has the teachers in Scored's order."""
    said = [*scored.notes]
    if np.isnan(scored.columns.get("longest_repeat", 0)).all():
        said.append(UNCHECKED)
    share = every.matched().n_prompts / every.n_prompts
    if not is_matched:
        said.append(
            f"no prompt was answered by all {len(scored.teachers)} teachers: they are "
            f"compared on different prompts. {_largest_group(scored.teachers, every)}"
        )
    elif len(scored.teachers) > 2 and share < 0.5:
        fewest = int(every.n_answered.argmin())
        said.append(
            f"all teachers answered only {share:.0%} of the prompts; {scored.teachers[fewest]} "
            f"answered the fewest: without it the others share {every.n_without[fewest]:,}, so "
            "leave it out with --teachers"
        )
    return said + (naturalness_notes(scored.columns) if metric is LOCAL else [])


def _largest_group(teachers: list[str], every: Matrices) -> str:
    """The largest group of teachers that share prompts, among those that are found by adding one
    at a time the teacher that keeps the most shared prompts.
    """
    answered_PT = every.answered
    busiest = np.argsort(-answered_PT.sum(0), kind="stable")[:GROUPS_TRIED]
    groups = [_group_of(first, answered_PT) for first in busiest.tolist()]
    n_members, n_prompts, members = max(groups)
    if n_members < 2:
        return "No two of them share a prompt."
    share = n_prompts / len(answered_PT)
    of_all = (
        f"{n_prompts:,}" if len(answered_PT) == every.n_prompts else f"About {share:.2g} of all"
    )
    return (
        f"{of_all} prompts are shared by {', '.join(teachers[t] for t in members)}: compare "
        "only these with --teachers."
    )


def _group_of(first: int, answered_PT: np.ndarray) -> tuple[int, int, list[int]]:
    """A group that begins with this teacher: its size, its shared prompts, its members, sorted.

    It ends where no other teacher keeps a shared prompt, or a third one not even half of them.
    """
    members = [first]
    shared_P = answered_PT[:, first]
    while len(members) < answered_PT.shape[1]:
        kept_T = answered_PT[shared_P].sum(0)
        kept_T[members] = -1
        most = kept_T.max()
        if most <= 0 or (len(members) > 1 and most * 2 < shared_P.sum()):
            break
        members.append(int(np.argmax(kept_T)))
        shared_P = shared_P & answered_PT[:, members[-1]]
    return len(members), int(shared_P.sum()), sorted(members)
