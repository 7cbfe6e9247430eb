"""Students of random weights of several architectures, made where they are measured."""

import copy
from typing import Any

from rsr_ray.bench.student import Shape, config_of
from rsr_ray.student.model import Student


def of_shape(shape: Shape) -> Any:
    """The configuration of a Qwen3 of a shape."""
    from transformers import Qwen3Config

    return config_of(Qwen3Config, shape)


def with_sliding_window(shape: Shape, window: int) -> Any:
    """Of a Mistral, whose layers all look at the last `window` tokens alone."""
    from transformers import MistralConfig

    return config_of(MistralConfig, shape, sliding_window=window)


def with_experts(shape: Shape) -> Any:
    """Of a mixture of 8 experts, 2 for each token."""
    from transformers import Qwen3MoeConfig

    return config_of(
        Qwen3MoeConfig,
        shape,
        moe_intermediate_size=shape.intermediate,
        num_experts=8,
        num_experts_per_tok=2,
    )


def make_both(config: Any, dtype: str, device: str) -> tuple[Student, Any]:
    """A student and, of the same weights in the same memory, the whole model."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import is_flash_attn_2_available

    packed = device == "cuda" and dtype != "float32" and is_flash_attn_2_available()
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=getattr(torch, dtype),
            attn_implementation="flash_attention_2" if packed else "sdpa",
        )
    shared: dict[int, Any] = {id(one): one for one in (*model.parameters(), *model.buffers())}
    whole = copy.deepcopy(model, shared).eval()
    return Student.around(model, packed=packed), whole
