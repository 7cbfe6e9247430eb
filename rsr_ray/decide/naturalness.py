"""naturalness: local naturalness of teachers, and whether it says another thing than global
naturalness, which is minus mean surprisal.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsr_ray.decide.json_values import known
from rsr_ray.decide.scored import Scored
from rsr_ray.decide.spearman import spearman
from rsr_ray.metrics import REGISTRY

LOCAL = REGISTRY["local_naturalness"]
SURPRISAL = REGISTRY["mean_surprisal"]
COLLAPSED = 0.95  # rank correlation of local with global naturalness above which the two are one


@dataclass(frozen=True)
class TeacherNaturalness:
    """Local and global naturalness of a teacher, nats per token; higher is better."""

    teacher: str
    local: float | None
    global_: float | None

    def to_json(self) -> dict[str, Any]:
        return {"teacher": self.teacher, "local": self.local, "global": self.global_}


@dataclass(frozen=True)
class Naturalness:
    """Local naturalness of each teacher, the highest first, and global naturalness beside it."""

    matched: bool  # on the prompts that all teachers answered; else each on all its own
    n_prompts: int
    teachers: list[TeacherNaturalness]  # none where not all rows have a local one
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        return {
            "matched": self.matched,
            "n_prompts": self.n_prompts,
            "teachers": [t.to_json() for t in self.teachers],
            "notes": self.notes,
        }


def naturalness(scored: Scored) -> Naturalness:
    """On the prompts that all teachers answered, else on all.

    `scored` has the columns of LOCAL.
    """
    notes = naturalness_notes(scored.columns)
    if not scored.has(LOCAL):
        n_lacking = int(np.isnan(LOCAL.values(scored.columns)).sum())
        notes.append(
            f"no local naturalness for {n_lacking:,} of the trajectories: the prompt and a step "
            "did not fit into memory or the window"
        )
        return Naturalness(matched=False, n_prompts=0, teachers=[], notes=notes)
    compared, is_matched = scored.matrices(LOCAL).compared()
    local_T = compared.values()
    global_T = -scored.matrices(SURPRISAL).compared()[0].values()
    teachers = [
        TeacherNaturalness(scored.teachers[t], known(local_T[t]), known(global_T[t]))
        for t in np.argsort(-local_T, kind="stable")
    ]
    return Naturalness(is_matched, compared.n_prompts, teachers, notes)


def naturalness_notes(columns: Mapping[str, np.ndarray]) -> list[str]:
    """Whether local naturalness says another thing than global naturalness.

    `columns` of trajectories, each [N], as LOCAL needs and surprisal_sum.
    """
    local_N = LOCAL.values(columns)
    has_local = np.isfinite(local_N)
    if not has_local.any():
        return []
    global_N = -columns["surprisal_sum"] / columns["n_tokens"]
    correlation = spearman(local_N[has_local], global_N[has_local])
    steps = f"median number of steps {np.median(columns['n_steps'][has_local]):g}"
    if math.isnan(correlation):  # fewer than three trajectories, or all alike
        return [f"local naturalness: {steps}"]
    said = [
        f"local naturalness: rank correlation with global naturalness over {has_local.sum():,} "
        f"trajectories {correlation:.3f}; {steps}"
    ]
    if correlation > COLLAPSED:
        said.append(
            "local naturalness has collapsed into global naturalness: the window may contain "
            "nearly all steps; try a smaller --step-window"
        )
    return said
