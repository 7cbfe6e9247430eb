"""flops: what it takes to train on a row, in floating-point operations."""

import json
from pathlib import Path

import numpy as np

from rsr_ray.errors import UserError
from rsr_ray.store.store import Store
from rsr_ray.student.facts import n_parameters
from rsr_ray.student.source import resolve

FORMULA = (
    "6 N S + 12 L d S^2 for a row: N parameters, S tokens up to the last target, L layers of d = "
    "heads x head size (6 N S: arXiv 2001.08361; attention, not halved for causality: arXiv "
    "2204.02311, appendix B)"
)


def training_flops(store: Store, fingerprint: str, tokens: np.ndarray) -> np.ndarray:
    """FLOPs of one pass over rows of so many tokens, float64 [N]; the formula is FORMULA.

    Raises UserError if the student's files are missing.
    """
    run = store.find_run(fingerprint)
    if run is None:
        raise UserError(
            f"store {store.uri}: no record of a run says which student scored it, so its size is "
            "unknown; remove flops from --match"
        )
    source = run.student.source
    try:
        config = json.loads(Path(resolve(source), "config.json").read_text())
        parameters = n_parameters(source)
    except OSError as e:
        raise UserError(
            f"student {source}: its files are missing, so its size is unknown; restore them, or "
            "remove flops from --match"
        ) from e
    config = config.get("text_config", config)
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    width = heads * (config.get("head_dim") or config["hidden_size"] // heads)
    s = tokens.astype(np.float64)
    return 6 * parameters * s + 12 * layers * width * s**2
