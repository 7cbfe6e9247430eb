"""Tiny vision-language students with random weights, made from their config classes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    CLIPImageProcessorPil,
    Gemma3Config,
    Gemma3ImageProcessorPil,
    GotOcr2ImageProcessorPil,
    Idefics3Config,
    Idefics3ImageProcessorPil,
    InternVLConfig,
    LlavaConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessorPil,
    Qwen2_5_VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    SmolVLMConfig,
    SmolVLMImageProcessorPil,
)

from tests.conftest import DEMO_STUDENT

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As LLaVA-OneVision's and Idefics3's: content is a list of parts, and nothing else.
PARTS_ONLY = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% elif part['type'] == 'text' %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
}
QWEN_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
SMALL = {"height": 28, "width": 28}


def tokenizer_with(special: dict[str, str], template: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_STUDENT, extra_special_tokens=special)
    tokenizer.chat_template = template
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _qwen(config: type, vision: dict[str, Any], text: dict[str, Any], patch: int) -> Callable:
    def make() -> tuple[Any, Any, Any, dict[str, Any]]:
        image = "<|vision_start|><|image_pad|><|vision_end|>"
        tokenizer = tokenizer_with(QWEN_TOKENS, CHATML.replace("IMAGE", image))
        ids = tokenizer.convert_tokens_to_ids
        made = config(
            text_config=TEXT
            | {
                "vocab_size": len(tokenizer),
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "mrope_section": [1, 1, 2],
                },
            }
            | text,
            vision_config=vision,
            image_token_id=ids("<|image_pad|>"),
            video_token_id=ids("<|video_pad|>"),
            vision_start_token_id=ids("<|vision_start|>"),
            vision_end_token_id=ids("<|vision_end|>"),
            tie_word_embeddings=False,
        )
        pixels = Qwen2VLImageProcessorPil(
            patch_size=patch,
            merge_size=2,
            size={"shortest_edge": 16 * patch**2, "longest_edge": 64 * patch**2},
        )
        return made, tokenizer, pixels, {}

    return make


def _gemma3() -> tuple[Any, Any, Any, dict[str, Any]]:
    special = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    tokenizer = tokenizer_with(special, CHATML.replace("IMAGE", "<start_of_image>"))
    ids = tokenizer.convert_tokens_to_ids
    made = Gemma3Config(
        text_config=TEXT | {"vocab_size": len(tokenizer), "head_dim": 8, "sliding_window": 16},
        vision_config=VISION | {"image_size": 28, "patch_size": 7},
        mm_tokens_per_image=4,
        image_token_index=ids("<image_soft_token>"),
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
    )
    return made, tokenizer, Gemma3ImageProcessorPil(size=SMALL), {"image_seq_length": 4}


VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def _llava() -> tuple[Any, Any, Any, dict[str, Any]]:
    tokenizer = tokenizer_with({"image_token": "<image>"}, PARTS_ONLY.replace("IMAGE", "<image>"))
    made = LlavaConfig(
        text_config=TEXT | {"vocab_size": len(tokenizer), "model_type": "llama"},
        vision_config=VISION
        | {
            "model_type": "clip_vision_model",
            "image_size": 28,
            "patch_size": 7,
            "projection_dim": 16,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    pixels = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=SMALL)
    more = {
        "patch_size": 7,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    return made, tokenizer, pixels, more


def _llava_onevision() -> tuple[Any, Any, Any, dict[str, Any]]:
    special = {"image_token": "<image>", "video_token": "<video>"}
    tokenizer = tokenizer_with(special, PARTS_ONLY.replace("IMAGE", "<image>"))
    ids = tokenizer.convert_tokens_to_ids
    grid = [[28, 28], [28, 56], [56, 28], [56, 56]]
    made = LlavaOnevisionConfig(
        text_config=TEXT | {"vocab_size": len(tokenizer), "model_type": "qwen2"},
        vision_config=VISION
        | {
            "model_type": "siglip_vision_model",
            "image_size": 28,
            "patch_size": 7,
            "vision_use_head": False,
        },
        image_token_index=ids("<image>"),
        video_token_index=ids("<video>"),
        image_grid_pinpoints=grid,
        vision_feature_layer=-1,
        vision_aspect_ratio="anyres_max_9",
    )
    pixels = LlavaOnevisionImageProcessorPil(size=SMALL, image_grid_pinpoints=grid)
    more = {
        "num_image_tokens": 16,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
    }
    return made, tokenizer, pixels, more


def _internvl() -> tuple[Any, Any, Any, dict[str, Any]]:
    special = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = tokenizer_with(special, CHATML.replace("IMAGE", "<IMG_CONTEXT>"))
    made = InternVLConfig(
        text_config=TEXT | {"vocab_size": len(tokenizer), "model_type": "qwen2"},
        vision_config=VISION | {"image_size": [28, 28], "patch_size": [7, 7]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    pixels = GotOcr2ImageProcessorPil(
        size=SMALL, crop_to_patches=True, min_patches=1, max_patches=4
    )
    return made, tokenizer, pixels, {"image_seq_length": 4}


def _idefics3(config: type, pixels: Any) -> Callable:
    def make() -> tuple[Any, Any, Any, dict[str, Any]]:
        names = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
        special = {f"extra_{n}": name for n, name in enumerate(names)}
        special |= {f"cell_{i}_{j}": f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)}
        tokenizer = tokenizer_with(special, PARTS_ONLY.replace("IMAGE", "<image>"))
        made = config(
            text_config=TEXT | {"vocab_size": len(tokenizer), "model_type": "llama"},
            vision_config=VISION | {"image_size": 28, "patch_size": 7},
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            scale_factor=2,
            tie_word_embeddings=False,
        )
        sizes = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}
        return made, tokenizer, pixels(**sizes), {"image_seq_len": 4}

    return make


KINDS: dict[str, Callable[[], tuple[Any, Any, Any, dict[str, Any]]]] = {
    "Qwen2.5-VL": _qwen(
        Qwen2_5_VLConfig,
        {
            "hidden_size": 16,
            "out_hidden_size": 32,
            "intermediate_size": 24,
            "depth": 2,
            "num_heads": 2,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        {},
        14,
    ),
    "Qwen3-VL": _qwen(
        Qwen3VLConfig,
        {
            "hidden_size": 16,
            "out_hidden_size": 32,
            "intermediate_size": 24,
            "depth": 2,
            "num_heads": 2,
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        {"head_dim": 8},
        16,
    ),
    "Gemma-3": _gemma3,
    "LLaVA": _llava,
    "LLaVA-OneVision": _llava_onevision,
    "InternVL": _internvl,
    "Idefics3": _idefics3(Idefics3Config, Idefics3ImageProcessorPil),
    "SmolVLM": _idefics3(SmolVLMConfig, SmolVLMImageProcessorPil),
}


def make_student(kind: str, folder: Path, seed: int = 0) -> Path:
    """A student of a kind, saved as the Hub has them."""
    config, tokenizer, pixels, more = KINDS[kind]()
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))  # biases and norms too
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pixels.save_pretrained(folder)
    name = type(model).__name__.replace("ForConditionalGeneration", "Processor")
    said = {"processor_class": name, **more}
    (folder / "processor_config.json").write_text(json.dumps(said))
    return folder
