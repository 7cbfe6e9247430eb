"""What a run needs to know of a student before any weight is loaded."""

import contextlib
import functools
import importlib.metadata
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rsr_ray
from rsr_ray.errors import RunError, UserError, one_line
from rsr_ray.student.source import (
    LOADED,
    FileStates,
    file_states,
    files_changed,
    hash_files,
    hash_text,
    resolve,
)
from rsr_ray.student.tokenizer import open_tokenizer, tokenizer_hash
from rsr_ray.student.vision import load_eyes, sees
from rsr_ray.student.weights import check_weights

# Keys of a config that change no score here.
UNSTABLE_CONFIG = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


@dataclass(frozen=True, kw_only=True)
class StudentFacts:
    """What a run needs to know of a student before any weight is loaded. Hashes are sha256."""

    # a folder, or a hub id with its revision: what `resolve` finds on every machine of a cluster
    source: str
    weights_hash: str
    config_hash: str
    tokenizer_hash: str
    template_hash: str
    context_length: int
    vocab_size: int
    sees: bool = False  # images, as a vision-language model

    @property
    def text_hash(self) -> str:
        """Of what turns a conversation into tokens."""
        return self.tokenizer_hash + self.template_hash


def inspect_student(
    student: str, trust_remote_code: bool, chat_template: str | None = None
) -> StudentFacts:
    """Everything but the weights' values checked and hashed. Raises UserError with what to do."""
    folder = resolve(student)
    config_file = Path(folder, "config.json")
    if not config_file.is_file():
        raise UserError(
            f"student {student}: {folder} has no config.json, so it is not a transformers model"
        )
    before = file_states(folder)
    config = _read_config(student, config_file)
    if config.get("auto_map") and not trust_remote_code:
        raise UserError(
            f"student {student}: it needs Python code that comes with its weights "
            f"({config['auto_map']}); pass --trust-remote-code to run it"
        )
    weights = _weights(student, folder)
    tokenizer, template = _usable_tokenizer(student, folder, chat_template)
    text_config = config.get("text_config", config)
    vocab_size = int(text_config.get("vocab_size", 0))
    _check_ids(student, tokenizer, vocab_size)
    check_weights(student, folder, trust_remote_code)
    context_length = text_config.get("max_position_embeddings") or tokenizer.model_max_length
    facts = StudentFacts(
        source=folder if os.path.isdir(student) else f"{student.split('@')[0]}@{Path(folder).name}",
        weights_hash=hash_files(weights),
        config_hash=_hash_config(config),
        tokenizer_hash=tokenizer_hash(tokenizer, folder),
        template_hash=hash_text(template),
        context_length=int(context_length),
        vocab_size=vocab_size,
        sees=_can_see(folder),
    )
    if file_states(folder) != before:
        raise RunError(
            f"student {student}: its files changed while they were read; rerun the command once "
            "they are complete"
        )
    return facts


def _can_see(folder: str) -> bool:
    """Whether it is a vision-language student. Raises UserError if its processor cannot be used."""
    seeing = sees(folder)
    if seeing:
        load_eyes(folder)
    return seeing


def _weights(student: str, folder: str) -> list[Path]:
    """The files of the student's weights, sorted. Raises UserError where there are none."""
    weights = sorted(Path(folder).glob("*.safetensors"))
    if not weights:
        raise UserError(
            f"student {student}: no *.safetensors in {folder}; pickled weights are not loaded: "
            "convert them with save_pretrained"
        )
    return weights


def _usable_tokenizer(student: str, folder: str, chat_template: str | None) -> tuple[Any, str]:
    """The tokenizer in a student's folder, and its chat template. Raises UserError."""
    try:
        tokenizer = open_tokenizer(folder, chat_template)
    except UserError:
        raise
    except Exception as e:
        # transformers raises many kinds; each means that this folder has no usable tokenizer
        raise UserError(
            f"student {student}: its tokenizer in {folder} cannot be loaded: "
            f"{_broken_json(folder)}{one_line(e)}"
        ) from e
    try:
        return tokenizer, tokenizer.get_chat_template()
    except ValueError as e:
        raise UserError(
            f"student {student}: its tokenizer has no chat template; add a chat_template.jinja "
            f"to {folder}, or pass --chat-template"
        ) from e


def _check_ids(student: str, tokenizer: Any, vocab_size: int) -> None:
    """Raise UserError where the tokenizer has ids that the head has no row for."""
    n_ids = 1 + max(tokenizer.get_vocab().values(), default=-1)  # ids may have gaps
    if n_ids > vocab_size:
        raise UserError(
            f"student {student}: its tokenizer produces ids up to {n_ids - 1:,}, but its head "
            f"has only {vocab_size:,} rows: are they from the same model?"
        )


def identify(student: str, trust_remote_code: bool, chat_template: str | None = None) -> str:
    """sha256 of all that `inspect_student` looks at: what is loaded, how, by which versions.

    Loads nothing. Raises UserError where there is no such student.
    """
    folder = resolve(student)
    files = sorted(
        {path for pattern in LOADED for path in Path(folder).glob(pattern) if path.is_file()}
    )
    versions = [
        importlib.metadata.version(name) for name in ("transformers", "tokenizers", "safetensors")
    ]
    identity = [
        hash_files(files),
        student,
        folder,
        trust_remote_code,
        chat_template,
        versions,
        rsr_ray.__version__,
    ]
    return hash_text(json.dumps(identity))


@functools.lru_cache(maxsize=32)
def inspect_identified(
    identity: str, student: str, trust_remote_code: bool, chat_template: str | None = None
) -> StudentFacts:
    """`inspect_student`, once for as long as what `identify` says is the same."""
    return inspect_student(student, trust_remote_code, chat_template)


def n_parameters(source: str) -> int:
    """Numbers in the student's weights, from the headers of its files."""
    from safetensors import SafetensorError, safe_open

    total = 0
    for path in Path(resolve(source)).glob("*.safetensors"):
        # A file that is cut is what `inspect_student` refuses.
        with contextlib.suppress(SafetensorError), safe_open(str(path), framework="np") as file:
            total += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return total


def prove(facts: StudentFacts, before: FileStates) -> None:
    """Raises RunError unless what was loaded since `before` is what the run's fingerprint says.

    The files' content is hashed after the load, so an earlier change is seen by its content and one
    in between by its times.
    """
    folder = resolve(facts.source)
    weights = sorted(Path(folder).glob("*.safetensors"))
    config = Path(folder, "config.json")
    try:
        found = (hash_files(weights), _hash_config(_read_config(facts.source, config)))
    except (OSError, UserError):
        found = ("", "")
    if found != (facts.weights_hash, facts.config_hash) or file_states(folder) != before:
        raise files_changed(facts.source)


def _read_config(student: str, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError) as e:
        raise UserError(f"student {student}: {path} is not JSON: {one_line(e)}") from e
    if not isinstance(config, dict):
        raise UserError(f"student {student}: {path} is not a JSON object")
    return config


def _broken_json(folder: str) -> str:
    """Which of a tokenizer's files is no JSON, where one is."""
    for path in (Path(folder, name) for name in ("tokenizer.json", "tokenizer_config.json")):
        try:
            if path.is_file():
                json.loads(path.read_text())
        except (ValueError, RecursionError):
            return f"{path.name} is not JSON: "
    return ""


def _hash_config(config: dict[str, Any]) -> str:
    return hash_text(
        json.dumps({k: v for k, v in config.items() if k not in UNSTABLE_CONFIG}, sort_keys=True)
    )
