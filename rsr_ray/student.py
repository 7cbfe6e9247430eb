"""The student: what identifies it, its tokenizer, and its two halves for scoring, backbone and head."""

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_ray.errors import RunError, UserError, one_line
from rsr_ray.weights import check_finite, check_report, check_weights, quiet

if TYPE_CHECKING:
    import torch

SLICE_POSITIONS = 8192
QUANTIZE = ("4bit", "8bit")
DTYPES = ("float32", "bfloat16", "float16")
# For base models: the two most used forms of a turn, and one without special tokens.
CHAT_TEMPLATES = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "llama3": "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "plain": "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}",
}
UNSTABLE_CONFIG = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")  # change no score here


@dataclass(frozen=True, kw_only=True)
class StudentFacts:
    """What a run needs to know of a student before any weight is loaded. Hashes are sha256."""

    source: str  # a folder, or a hub id with its revision: what `resolve` finds on every machine of a cluster
    weights_hash: str
    config_hash: str
    tokenizer_hash: str
    template_hash: str
    context_length: int
    vocab_size: int

    @property
    def text_hash(self) -> str:
        """Of what turns a conversation into tokens."""
        return self.tokenizer_hash + self.template_hash


def inspect_student(student: str, trust_remote_code: bool, chat_template: str | None = None) -> StudentFacts:
    """Everything but the weights' values checked and hashed. Raises UserError with what to do."""
    folder = resolve(student)
    config_file = Path(folder, "config.json")
    if not config_file.is_file():
        raise UserError(f"student {student}: {folder} holds no config.json, so it is no transformers model")
    before = file_states(folder)
    config = _read_config(student, config_file)
    if config.get("auto_map") and not trust_remote_code:
        raise UserError(f"student {student}: its code comes with its weights ({config['auto_map']}); pass --trust-remote-code to run it")
    weights = sorted(Path(folder).glob("*.safetensors"))
    if not weights:
        raise UserError(f"student {student}: no *.safetensors in {folder}; pickled weights are not loaded: save it with save_pretrained")
    try:
        tokenizer = _open_tokenizer(folder, chat_template)
    except UserError:
        raise
    except Exception as e:  # transformers raises many kinds; each means that this folder has no usable tokenizer
        raise UserError(f"student {student}: its tokenizer in {folder} cannot be loaded: {_broken_json(folder)}{one_line(e)}") from e
    try:
        template = tokenizer.get_chat_template()
    except ValueError as e:
        raise UserError(
            f"student {student}: its tokenizer has no chat template; put a chat_template.jinja into {folder}, or pass --chat-template"
        ) from e
    text_config = config.get("text_config", config)
    vocab_size = int(text_config.get("vocab_size", 0))
    n_ids = 1 + max(tokenizer.get_vocab().values(), default=-1)  # ids may have gaps
    if n_ids > vocab_size:
        raise UserError(f"student {student}: its tokenizer gives ids up to {n_ids - 1:,}, and its head has {vocab_size:,} rows only")
    check_weights(student, folder, trust_remote_code)
    facts = StudentFacts(
        source=folder if os.path.isdir(student) else f"{student.split('@')[0]}@{Path(folder).name}",
        weights_hash=_hash_files(weights),
        config_hash=_hash_config(config),
        tokenizer_hash=_hash(tokenizer.backend_tokenizer.to_str()),
        template_hash=_hash(template),
        context_length=int(text_config.get("max_position_embeddings") or tokenizer.model_max_length),
        vocab_size=vocab_size,
    )
    if file_states(folder) != before:
        raise RunError(f"student {student}: its files changed while they were read; run the command again once they are whole")
    return facts


FileStates = dict[str, tuple[int, ...]]
LOADED = ("*.safetensors", "*.index.json", "config.json", "tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "*.jinja", "*.model")


def file_states(folder: str) -> FileStates:
    """What a write to a file that is loaded from the folder changes: its inode, size, and times, of which the last cannot be set back."""
    states: FileStates = {}
    for path in (path for pattern in LOADED for path in Path(folder).glob(pattern)):
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile, or a link to nothing
            stat = path.stat()
            if not path.is_dir():
                states[path.name] = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return states


def prove(facts: StudentFacts, before: FileStates) -> None:
    """Raises RunError unless what was loaded since `before` was taken is what the run's fingerprint says.

    The files' content is hashed after the load, so an earlier change is seen by its content and one in between by its
    times.
    """
    folder = resolve(facts.source)
    weights = sorted(Path(folder).glob("*.safetensors"))
    config = Path(folder, "config.json")
    try:
        found = (_hash_files(weights), _hash_config(_read_config(facts.source, config)))
    except (OSError, UserError):
        found = ("", "")
    if found != (facts.weights_hash, facts.config_hash) or file_states(folder) != before:
        raise _changed(facts.source)


def _changed(student: str) -> RunError:
    return RunError(
        f"student {student}: its files changed while the run was starting, so nothing was scored with them; run it again once they are whole"
    )


def _read_config(student: str, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError) as e:
        raise UserError(f"student {student}: {path} is no JSON: {one_line(e)}") from e
    if not isinstance(config, dict):
        raise UserError(f"student {student}: {path} is no JSON object")
    return config


def _broken_json(folder: str) -> str:
    """Which of a tokenizer's files is no JSON, where one is."""
    for path in (Path(folder, name) for name in ("tokenizer.json", "tokenizer_config.json")):
        try:
            if path.is_file():
                json.loads(path.read_text())
        except (ValueError, RecursionError):
            return f"{path.name} is no JSON: "
    return ""


def _hash_config(config: dict[str, Any]) -> str:
    return _hash(json.dumps({k: v for k, v in config.items() if k not in UNSTABLE_CONFIG}, sort_keys=True))


@functools.lru_cache(maxsize=8)
def resolve(student: str) -> str:
    """A local folder that holds the student: the one given, or the snapshot of a hub id (`org/name` or `org/name@revision`).

    Replicas of one machine share the hub's cache, so weights are fetched once a machine. Raises UserError.
    """
    if os.path.isdir(student):
        return os.path.abspath(student)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    name, _, revision = student.partition("@")
    wanted = ["*.json", "*.jinja", "*.safetensors", "*.model", "*.txt"]
    try:
        return snapshot_download(name, revision=revision or None, allow_patterns=wanted, ignore_patterns=["consolidated*"])
    except HFValidationError as e:
        raise UserError(f"student {student}: there is no such folder, and it is not a hub id") from e
    except Exception as e:  # the hub client raises many kinds; each means that the student cannot be had
        raise UserError(f"student {student}: no such folder, and not available from the hub: {' '.join(str(e).split())[:200]}") from e


@functools.lru_cache(maxsize=2)
def load_tokenizer(student: str, chat_template: str | None = None, proof: str | None = None) -> Any:
    """The student's fast tokenizer, set to encode text as it stands: nothing added, cut or padded, exact offsets.

    `chat_template` is put in place of its own. With `proof`, a StudentFacts' `text_hash`, raises RunError where the
    tokenizer or template is another.
    """
    if proof is None:
        return _open_tokenizer(student, chat_template)
    try:
        tokenizer = _open_tokenizer(student, chat_template)
        found = _hash(tokenizer.backend_tokenizer.to_str()) + _hash(tokenizer.get_chat_template())
    except Exception as e:  # it could be loaded when the run was planned
        raise _changed(student) from e
    if found != proof:
        raise _changed(student)
    return tokenizer


def _open_tokenizer(student: str, chat_template: str | None) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve(student))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"student {student}: its tokenizer has no fast (tokenizers) form, which exact token offsets need")
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    backend.no_truncation()
    backend.no_padding()
    backend.post_processor = None  # it would only add special tokens, and some trim the offsets of leading spaces
    return tokenizer


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _hash_files(paths: list[Path]) -> str:
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        hashes = list(pool.map(_hash_file, paths))
    return _hash(json.dumps([[p.name, h] for p, h in zip(paths, hashes, strict=True)]))


def _hash_file(path: Path) -> str:
    blob = path.resolve().name
    if path.is_symlink() and re.fullmatch("[0-9a-f]{64}", blob):
        return blob  # the hub's cache names a file by its sha256
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reuse_large_blocks() -> None:
    """Let the C library keep freed blocks of up to a GiB instead of handing them back to the system.

    Otherwise every chunk of logits is new memory that the kernel zeroes page by page: 0.8 ms a position for the head at
    vocabulary 151,936 and hidden 256, against 0.55 ms with this. Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(ctypes.c_int(-3), ctypes.c_int(1 << 30))  # M_MMAP_THRESHOLD
        mallopt(ctypes.c_int(-1), ctypes.c_int(1 << 30))  # M_TRIM_THRESHOLD


def _in_slices(forward: Any) -> Any:
    """A feed-forward layer that takes long sequences a slice of positions at a time.

    Its intermediate values are several times as wide as a hidden state: at 131,072 positions they, and not the attention, set
    the peak of memory. Every position is computed by itself, so slicing changes nothing but rounding.
    """
    import torch

    def sliced(hidden_BTD: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows = max(1, hidden_BTD.shape[0])
        if hidden_BTD.dim() != 3 or args or kwargs or rows * hidden_BTD.shape[1] <= 2 * SLICE_POSITIONS:
            return forward(hidden_BTD, *args, **kwargs)
        out_BTD = torch.empty_like(hidden_BTD)
        for start in range(0, hidden_BTD.shape[1], max(1, SLICE_POSITIONS // rows)):
            at = slice(start, start + max(1, SLICE_POSITIONS // rows))
            part = forward(hidden_BTD[:, at])
            if not isinstance(part, torch.Tensor):  # a mixture of experts that also returns its routing
                return forward(hidden_BTD)
            out_BTD[:, at] = part
        return out_BTD

    return sliced


def load_whole(source: str, dtype: str, **how: Any) -> Any:
    """The model of a folder or hub id, every tensor of it from its files; `how` goes to the loader.

    Raises UserError where the files give no model, RunError where they could not be read or the device broke.
    """
    import torch
    from transformers import AutoModelForCausalLM

    load: Any = AutoModelForCausalLM.from_pretrained
    named = {"dtype": getattr(torch, dtype), "use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with quiet():
            model, report = load(resolve(source), **named, **how)
    except torch.OutOfMemoryError:
        raise
    except (MemoryError, torch.AcceleratorError) as e:
        raise RunError(f"student {source}: it cannot be loaded on this machine: {one_line(e)}") from e
    except Exception as e:  # the library raises many kinds; each means that these files give no model here
        if isinstance(e, OSError) and e.errno is not None:  # the system's own, and not the library's word for a bad file
            raise RunError(f"student {source}: its files cannot be read: {one_line(e)}") from e
        raise UserError(f"student {source}: it cannot be loaded: {one_line(e)}") from e
    check_report(source, report)
    return model


def _files_differ(expected: StudentFacts, before: FileStates) -> bool:
    try:
        prove(expected, before)
    except RunError:
        return True
    return False


def _given_backbone() -> Any:
    """A backbone that ignores its arguments and returns the hidden states it was given."""
    import torch
    from transformers.modeling_outputs import BaseModelOutputWithPast

    class Given(torch.nn.Module):
        hidden: torch.Tensor

        def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPast:
            return BaseModelOutputWithPast(last_hidden_state=self.hidden)

    return Given()


class Student:
    """A causal language model in two halves: token ids -> hidden states -> logits.

    On one device, or with `spread` over all GPUs the process sees, whole layers on each (accelerate's device map).
    `quantize` is "4bit" or "8bit" (bitsandbytes) or None. It is loaded whole or not at all (UserError), and with `expected`
    from the files that were hashed (RunError). Legend: B rows, T positions, N scored positions, D hidden size, V vocabulary.
    """

    def __init__(
        self,
        source: str,
        dtype: str,
        device: str,
        *,
        trust_remote_code: bool = False,
        spread: bool = False,
        quantize: str | None = None,
        expected: StudentFacts | None = None,
    ):
        import torch
        from transformers import BitsAndBytesConfig
        from transformers.utils import is_flash_attn_2_available

        if device == "cpu":
            _reuse_large_blocks()
        # Rows are packed without padding where the attention takes rows of different lengths as they are.
        self.packed = device == "cuda" and dtype != "float32" and is_flash_attn_2_available()
        placed: dict[str, Any] = {"device_map": "auto" if spread else {"": device}} if spread or quantize else {}
        if quantize:
            how = {"4bit": {"load_in_4bit": True, "bnb_4bit_compute_dtype": getattr(torch, dtype)}, "8bit": {"load_in_8bit": True}}[quantize]
            placed["quantization_config"] = BitsAndBytesConfig(**how)
        if self.packed:
            placed["attn_implementation"] = "flash_attention_2"
        before = file_states(resolve(source))
        try:
            self.model = load_whole(source, dtype, trust_remote_code=trust_remote_code, **placed)
        except UserError:
            if expected is not None and _files_differ(expected, before):  # they were whole when they were hashed
                raise _changed(source) from None
            raise
        if expected is not None:
            prove(expected, before)
        check_finite(source, self.model)
        if "device_map" not in placed:
            self.model.to(torch.device(device))
        self.model.eval()
        self.vocab_size = self.model.get_output_embeddings().weight.shape[0]
        self.backbone = self.model.base_model
        if self.backbone is self.model:
            raise UserError(f"student {source}: {type(self.model).__name__} has no separate backbone and head")
        # Where the ids go, and where hidden states and targets meet.
        self.device = self.model.get_input_embeddings().weight.device
        self.head_device = self.model.get_output_embeddings().weight.device
        for name, module in self.backbone.named_modules():
            if name.split(".")[-1] == "mlp":
                module.forward = _in_slices(module.forward)
        # With its backbone replaced, the model's own forward is its head alone, with all that the architecture does to
        # logits (soft caps, scales): nothing of that is written again here.
        self._given = _given_backbone()
        setattr(self.model, self.model.base_model_prefix, self._given)

    def hidden(self, ids_BT: np.ndarray, position_BT: np.ndarray | None = None) -> "torch.Tensor":
        """Hidden states [B, T, D] of right-padded ids, or of rows packed one behind the other whose positions start anew.

        No attention mask is passed: under causal attention a position never sees the padding behind it, and without a
        mask no [T, T] tensor is built. Where rows are packed, the attention finds their borders in the positions.
        """
        import torch

        given = {"input_ids": ids_BT} | ({} if position_BT is None else {"position_ids": position_BT})
        moved = {name: torch.from_numpy(values).to(self.device, non_blocking=True) for name, values in given.items()}
        return self.backbone(**moved, use_cache=False).last_hidden_state.to(self.head_device)

    def logits(self, hidden_ND: "torch.Tensor") -> "torch.Tensor":
        """The model's own logits [N, V], in its own dtype."""
        import torch

        self._given.hidden = hidden_ND.unsqueeze(0)
        return self.model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=self.head_device), use_cache=False).logits.squeeze(0)
