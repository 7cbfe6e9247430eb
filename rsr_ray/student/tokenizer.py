"""A student's tokenizer and chat template."""

import functools
import json
from pathlib import Path
from typing import Any

from rsr_ray.errors import UserError
from rsr_ray.student.source import files_changed, hash_text, resolve
from rsr_ray.student.vision import hash_of_processor

# For base models: the two most used forms of a turn, and one without special tokens.
CHAT_TEMPLATES = {
    "chatml": "{% for m in messages %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "llama3": "{{ bos_token }}{% for m in messages %}"
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "plain": "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}",
}


@functools.lru_cache(maxsize=2)
def load_tokenizer(student: str, chat_template: str | None = None, proof: str | None = None) -> Any:
    """The student's fast tokenizer, set to encode text as it stands.

    It adds, cuts and pads nothing, and its offsets are exact. `chat_template` is put in place of
    its own. With `proof`, a StudentFacts' `text_hash`, raises RunError where the tokenizer or
    template is another.
    """
    if proof is None:
        return open_tokenizer(student, chat_template)
    try:
        tokenizer = open_tokenizer(student, chat_template)
        found = tokenizer_hash(tokenizer, student) + hash_text(tokenizer.get_chat_template())
    except Exception as e:  # it could be loaded when the run was planned
        raise files_changed(student) from e
    if found != proof:
        raise files_changed(student)
    return tokenizer


def tokenizer_hash(tokenizer: Any, student: str) -> str:
    """sha256 of what turns a rendering into tokens: images too, where the student sees."""
    text = tokenizer.backend_tokenizer.to_str()
    return hash_text(text + hash_of_processor(resolve(student)))


def open_tokenizer(student: str, chat_template: str | None) -> Any:
    from transformers import AutoTokenizer

    folder = resolve(student)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    of_processor = Path(folder, "chat_template.json")
    if tokenizer.chat_template is None and of_processor.is_file():
        tokenizer.chat_template = json.loads(of_processor.read_text())["chat_template"]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"student {student}: its tokenizer has no fast version (tokenizers), which is needed "
            "for exact token offsets"
        )
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    backend.no_truncation()
    backend.no_padding()
    # It would only add special tokens, and some trim the offsets of leading spaces.
    backend.post_processor = None
    return tokenizer
