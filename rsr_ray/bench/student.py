"""What is measured: a student of random weights, and rows of random ids."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rsr_ray.student.weights import quiet


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A student's dimensions and the lengths it is measured on.

    Lengths are log-normal, a third of each row is prompt.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    dtype: str
    batch_tokens: int
    rows: int
    median: int
    p95: int
    shortest: int
    longest: int


SHAPES = {
    "cpu": Shape(
        hidden=256,
        layers=4,
        heads=4,
        kv_heads=2,
        intermediate=768,
        vocabulary=151_936,
        dtype="float32",
        batch_tokens=4096,
        rows=16,
        median=400,
        p95=1600,
        shortest=64,
        longest=2048,
    ),
    "cuda": Shape(
        hidden=4096,
        layers=36,
        heads=32,
        kv_heads=8,
        intermediate=12_288,
        vocabulary=151_936,
        dtype="bfloat16",
        batch_tokens=32_768,
        rows=64,
        median=2000,
        p95=12_000,
        shortest=64,
        longest=32_768,
    ),
}


def rows_of(shape: Shape) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Random ids and one span a row, the same every time."""
    rng = np.random.default_rng(0)
    sigma = np.log(shape.p95 / shape.median) / 1.645
    lengths = np.clip(
        np.exp(rng.normal(np.log(shape.median), sigma, shape.rows)), shape.shortest, shape.longest
    ).astype(int)
    ids = [rng.integers(0, shape.vocabulary, n).astype(np.int32) for n in lengths]
    return ids, [np.array([n // 3, n], np.int32) for n in lengths]


def make_student(shape: Shape, folder: str) -> int:
    """Save a Qwen3 of this shape with random weights; returns the number of parameters outside
    the embeddings.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = config_of(Qwen3Config, shape)
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, shape.dtype))
    try:
        model = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    with quiet():
        model.save_pretrained(folder)
    return parameters_of(model)


def config_of(kind: Any, shape: Shape, **more: Any) -> Any:
    """A configuration of transformers, of this class, for a shape."""
    return kind(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.heads,
        max_position_embeddings=max(shape.longest, 131_072),
        tie_word_embeddings=True,
        **more,
    )


def parameters_of(model: Any) -> int:
    """Outside the embeddings."""
    return sum(p.numel() for p in model.model.layers.parameters())
