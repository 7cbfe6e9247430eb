"""fingerprint: a hash of all that decides a score."""

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

from rsr_ray.schema import SCORES, SCORES_VERSION
from rsr_ray.store.beside import Beside
from rsr_ray.student.facts import StudentFacts

if TYPE_CHECKING:
    from rsr_ray.config.score import ScoreConfig


def fingerprint_of(
    config: "ScoreConfig", student: StudentFacts, dtype: str, max_length: int, beside: Beside
) -> str:
    """The hash of these settings, and of what earlier versions hashed too: what is kept beside the
    scores.

    The strata decide scores, because a row whose stratum cannot be read is rejected.
    """
    facts = dataclasses.asdict(student)
    del facts["source"], facts["sees"]
    facts |= {
        "system_prompt": config.system_prompt,
        "render": config.render,
        "over_length": config.over_length,
        **beside.hashed,
    }
    if config.system_role != "merge":
        facts["system_role"] = config.system_role
    if config.stratum:
        facts["stratum"] = config.stratum
    if config.local:
        facts |= {"steps": config.steps, "step_window": config.step_window}
        if config.over_length == "window":  # earlier versions cut the front off, the prompt too
            facts["step_context"] = "with prompt"
    # What is kept of a row.
    facts["columns"] = [f"{field.name} {field.type}" for field in SCORES]
    settings = {
        "version": SCORES_VERSION,
        "r_max": config.r_max,
        "dtype": dtype,
        "quantize": config.quantize,
        "max_length": max_length,
        **facts,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
