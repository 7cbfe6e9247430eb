"""Students of random weights of several architectures, made where they are measured."""

import copy
from dataclasses import replace
from typing import Any

from rsr_ray.bench.student import Shape, config_of, parameters_of
from rsr_ray.student.model import Student


def of_shape(shape: Shape) -> Any:
    """The configuration of a Qwen3 of a shape."""
    from transformers import Qwen3Config

    return config_of(Qwen3Config, shape)


def with_sliding_window(shape: Shape, window: int) -> Any:
    """Of a Mistral, whose layers all look at the last `window` tokens alone."""
    from transformers import MistralConfig

    return config_of(MistralConfig, shape, sliding_window=window)


def with_caps(shape: Shape, window: int) -> Any:
    """Of a Gemma 2: scores of attention are capped, and every other layer has a window."""
    from transformers import Gemma2Config

    return config_of(Gemma2Config, shape, sliding_window=window)


def with_sinks(shape: Shape, window: int) -> Any:
    """Of a gpt-oss: experts, attention with sinks, and a window in every other layer."""
    from transformers import GptOssConfig

    return config_of(
        GptOssConfig, shape, sliding_window=window, num_local_experts=8, num_experts_per_tok=2
    )


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

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    shared: dict[int, Any] = {id(one): one for one in (*model.parameters(), *model.buffers())}
    whole = copy.deepcopy(model, shared).eval()
    return Student.around(model), whole


def in_4bit(shape: Shape, device: str) -> tuple[Student, int]:
    """A student whose layers are quantized by bitsandbytes, and their parameters before. One layer
    is made and quantized, the others are its copies: there is no room for all before.
    """
    import bitsandbytes
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, shape.dtype)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(of_shape(replace(shape, layers=1)), dtype=dtype)
    (layer,) = model.model.layers
    parameters = parameters_of(model) * shape.layers
    for module in list(layer.modules()):
        for name, linear in module.named_children():
            if isinstance(linear, torch.nn.Linear):
                small = bitsandbytes.nn.Linear4bit(
                    linear.in_features, linear.out_features, bias=False, compute_dtype=dtype
                )
                small.weight = bitsandbytes.nn.Params4bit(linear.weight.data, requires_grad=False)
                setattr(module, name, small.to(device))
    copies = [copy.deepcopy(layer) for _ in range(shape.layers - 1)]
    model.model.layers.extend(copies)
    model.config.num_hidden_layers = shape.layers
    model.config.layer_types = ["full_attention"] * shape.layers
    return Student.around(model), parameters
