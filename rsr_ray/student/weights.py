"""A checkpoint is loaded whole or not at all: its files, their headers, the loader's report.

The loader itself is asked, on tensors without values, so the exceptions are the architecture's own:
tied heads, buffers that may be absent, keys of older versions. It takes a second, and is done
before any replica starts.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsr_ray.errors import UserError, one_line
from rsr_ray.student.vision import auto_model, sees

if TYPE_CHECKING:
    import torch

NAMED = 3  # keys that a message names
PREFIXES = {
    "_orig_mod.": (
        "the keys have the prefix of torch.compile: save the wrapped model (model._orig_mod)"
    ),
    "module.": (
        "the keys have the prefix of data parallel training: save the wrapped model (model.module)"
    ),
    "base_model.model.": (
        "it is a model with LoRA layers: call merge_and_unload(), then save_pretrained"
    ),
}
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def check_weights(student: str, folder: str, trust_remote_code: bool) -> None:
    """Raises UserError unless the headers of the folder's files fill the model and hold no more."""
    shapes = _read_headers(student, weight_files(student, folder))
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as e:
        # the library raises many kinds; each means that it does not know this config
        raise UserError(
            f"student {student}: {folder}/config.json cannot be used: {one_line(e)}"
        ) from e
    if getattr(config, "quantization_config", None):
        # what its tensors are is known to its quantizer only, which needs the device: each replica
        # checks it
        return
    try:
        report = _load_without_values(config, shapes, trust_remote_code, sees(folder))
    except Exception as e:  # a model's own code, and the library's conversions
        raise UserError(f"student {student}: its weights cannot be loaded: {one_line(e)}") from e
    check_report(student, report)


def weight_files(student: str, folder: str) -> list[Path]:
    """The files that the loader takes.

    Raises UserError where one is not there, or another set lies beside them.
    """
    if Path(folder, "adapter_config.json").is_file():
        what = (
            "a LoRA adapter: merge it into its base model (merge_and_unload), then save_pretrained"
        )
        raise UserError(f"student {student}: {folder} has adapter_config.json, {what}")
    single, index = Path(folder, "model.safetensors"), Path(folder, "model.safetensors.index.json")
    if single.is_file():
        taken = {single.name}
    elif index.is_file():
        taken = {str(name) for name in _named_by(student, index).values()}
    else:
        raise UserError(f"student {student}: {folder} has neither {single.name} nor {index.name}")
    if lost := sorted(name for name in taken if not Path(folder, name).is_file()):
        says = f"{index} names {few(lost)}, not found: copy the checkpoint again"
        raise UserError(f"student {student}: {says}")
    there = {path.name for path in Path(folder).glob("model*.safetensors")}
    if left := sorted(there - taken):
        says = (
            f"{few(left)} would not be loaded along with {few(sorted(taken))}: remove the stale "
            "files"
        )
        raise UserError(f"student {student}: {folder}: {says}")
    return [Path(folder, name) for name in sorted(taken)]


def _named_by(student: str, index: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(index.read_text())["weight_map"])
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(
            f"student {student}: {index} is not an index of weights: {one_line(e)}"
        ) from e


def _read_headers(student: str, files: list[Path]) -> "dict[str, torch.Tensor]":
    """Each tensor of the files by its key, without values. Raises UserError on a cut file."""
    import torch
    from safetensors import safe_open

    found: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            with safe_open(str(path), framework="pt") as file:
                headers = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
                kinds = {key: (part.get_shape(), part.get_dtype()) for key, part in headers.items()}
        except Exception as e:  # a header that is cut or no header, a file shorter than it says
            says = f"{path} is truncated or not a safetensors file ({one_line(e)}): copy it again"
            raise UserError(f"student {student}: {says}") from e
        if twice := sorted(found.keys() & kinds.keys()):
            says = f"{few(twice)} of {path} is also in another file"
            raise UserError(f"student {student}: {says}: remove the stale file")
        for key, (shape, dtype) in kinds.items():
            kind = getattr(torch, FLOATS[dtype]) if dtype in FLOATS else torch.int8
            found[key] = torch.empty(shape, dtype=kind, device="meta")
    return found


def _load_without_values(
    config: Any, shapes: "dict[str, torch.Tensor]", trust_remote_code: bool, seeing: bool
) -> dict[str, Any]:
    """The loader's report, and the keys of whole numbers where the model has floats."""
    import torch

    with torch.device("meta"):
        model = auto_model(seeing).from_config(config, trust_remote_code=trust_remote_code)
    floats = {key for key, value in model.state_dict().items() if value.is_floating_point()}
    whole_numbers = {key for key, value in shapes.items() if not value.is_floating_point()}
    load: Any = type(model).from_pretrained
    with quiet():
        _, report = load(
            None,
            config=config,
            state_dict=dict(shapes),
            device_map={"": "meta"},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # so that they are named, not raised
            output_loading_info=True,
        )
    is_weight = {key for key in whole_numbers if key in floats or key.endswith("weight")}
    return dict(report) | {"whole_numbers": is_weight}


@contextmanager
def quiet() -> Iterator[None]:
    """Leaves out the library's own table of what did not fit, and its bar: our line says it."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def check_report(student: str, report: Mapping[str, Any]) -> None:
    """Raises UserError where a loader's report has tensors missing, left over or misshapen."""
    missing = sorted(report.get("missing_keys", ()))
    unexpected = sorted(report.get("unexpected_keys", ()))
    mismatched = [
        f"{key} {list(has)} for {list(wants)}"
        for key, has, wants in sorted(report.get("mismatched_keys", ()))
    ]
    whole_numbers = sorted(report.get("whole_numbers", ()))
    errors = [one_line(error) for error in report.get("error_msgs", ())]
    kinds = {
        "missing": missing,
        "not of this model": unexpected,
        "of another shape": mismatched,
        "whole numbers without a quantization_config": whole_numbers,
        "errors": errors,
    }
    faults = "; ".join(f"{len(keys)} {kind}: {few(keys)}" for kind, keys in kinds.items() if keys)
    if not faults:
        return
    what = f"{_likely(missing, unexpected)}; rsr_ray only scores with a student's own weights"
    raise UserError(f"student {student}: its weights do not match its model: {faults}; {what}")


def _likely(missing: list[str], unexpected: list[str]) -> str:
    for prefix, says in PREFIXES.items():
        if any(key.startswith(prefix) for key in unexpected):
            return says
    if any("lora_" in key for key in unexpected):
        return PREFIXES["base_model.model."]
    if not unexpected and len(missing) == 1 and "head" in missing[0]:
        return "the head is missing: set tie_word_embeddings if it is the embedding"
    return "save it again with save_pretrained, or copy it again with its own config.json"


def check_finite(student: str, model: Any) -> None:
    """Raises UserError where a weight is NaN or infinite."""
    import torch

    for name, values in model.named_parameters():
        if not values.is_floating_point() or values.numel() == 0 or values.element_size() < 2:
            continue  # quantized ones are bytes
        plain = values.dequantize() if hasattr(values, "qdata") else values  # torchao's
        low, high = torch.aminmax(plain.detach())
        if not (math.isfinite(low.item()) and math.isfinite(high.item())):
            says = f"its weights are not finite numbers: {name}; train or save it again"
            raise UserError(f"student {student}: {says}")


def few(keys: list[str]) -> str:
    """The first keys of a list."""
    return ", ".join(keys[:NAMED]) + (", ..." if len(keys) > NAMED else "")
