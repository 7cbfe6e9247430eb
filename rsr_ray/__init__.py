"""Rank-Surprisal Ratio of reasoning trajectories under a student model, as a batch job on Ray.

    import rsr_ray

    rsr_ray.score_conversations(conversations, "Qwen/Qwen2.5-7B-Instruct")    # here, without Ray
    config = rsr_ray.ScoreConfig(corpus="traces", student="Qwen/Qwen2.5-7B-Instruct", store="rsr")
    rsr_ray.score_corpus(config)

Importing it is free: what is behind a name is loaded when the name is used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "ScoreConfig": "config.score",
    "RaceConfig": "config.race",
    "ChooseConfig": "config.choose",
    "ArmsConfig": "config.arms",
    "score_conversations": "run.local",
    "score_corpus": "run.pipeline",
    "Store": "store.store",
    "load_scored": "decide.loading",
    "rank_teachers": "decide.ranking",
    "rank_strata": "decide.strata_ranking",
    "choose_trajectories": "choose.choose",
    "make_arms": "arms.arms",
    "write_report": "report.page.write",
    "open_side": "decide.sides",
    "compare_sides": "decide.comparison",
    "METRICS": "metrics",
    "UserError": "errors",
    "RunError": "errors",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rsr_ray' has no attribute {name!r}")
    if name == "rank_teachers":
        importlib.import_module("rsr_ray.report.notebook")  # how notebooks show its answer
    return getattr(importlib.import_module(f"rsr_ray.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
