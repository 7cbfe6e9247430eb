"""The student's files, and what its chat template does to a conversation."""

import json
from pathlib import Path
from typing import Any

from rsr_ray.config.score import ScoreConfig
from rsr_ray.corpus.turns import Turn
from rsr_ray.encode.aside import Aside, Ended
from rsr_ray.encode.encode import finder, reject_of
from rsr_ray.encode.found import Found
from rsr_ray.encode.how import How
from rsr_ray.errors import BadRow
from rsr_ray.run.doctor.findings import Findings
from rsr_ray.student.facts import StudentFacts, inspect_student
from rsr_ray.student.source import resolve
from rsr_ray.student.tokenizer import load_tokenizer
from rsr_ray.student.vision import Eyes, load_eyes

PROBE = [
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is 4."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "<think>\nYes.\n</think>\n\nI am."},
]
SHORT = [PROBE[0], {"role": "assistant", "content": "It is 4."}]
SYSTEM = {"role": "system", "content": "Answer briefly."}


class Renderer:
    """A student's template in a process aside: it may never end."""

    def __init__(self, config: ScoreConfig, facts: StudentFacts):
        self.source = facts.source
        self.how = How.of(config, facts)
        self.endless = False  # the template took too long for a conversation of two words
        self._aside: Aside | None = None

    @property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.source, self.how.chat_template, self.how.proof)

    @property
    def eyes(self) -> Eyes | None:
        return load_eyes(self.source) if self.how.sees else None

    def find(self, turns: list[Turn], tools: list[Any] | None = None) -> Found:
        """A conversation rendered, and where the assistant's texts lie in it. Raises BadRow."""
        self._aside = self._aside or Aside(finder, self.source, self.how)
        try:
            found: Found = self._aside.ask((turns, tools))
        except Ended as e:
            self.endless = e.over_time and turns == SHORT
            raise reject_of(e, self.how) from None
        return found

    def close(self) -> None:
        if self._aside is not None:
            self._aside.close()


def check_student(findings: Findings, config: ScoreConfig) -> StudentFacts:
    """Whether its files can be used, and belong together. Raises UserError."""
    facts = inspect_student(config.student, config.trust_remote_code, config.template_text)
    tokenizer = load_tokenizer(facts.source, config.template_text, facts.text_hash)
    ends = _end_tokens(facts.source)
    said = (
        f"{facts.vocab_size:,} rows in the head, {len(tokenizer):,} tokens in the "
        f"tokenizer, context {facts.context_length:,}"
    )
    both_say = None not in ends and tokenizer.eos_token_id is not None
    if both_say and tokenizer.eos_token_id not in ends:
        said += (
            f"; the tokenizer ends with token {tokenizer.eos_token_id}, the model with {ends}: "
            "are they from the same student?"
        )
        findings.warn("student", said)
    else:
        findings.ok("student", said)
    return facts


def _end_tokens(source: str) -> list[int | None]:
    """The tokens that end a text, as the model's config.json says."""
    ends = json.loads(Path(resolve(source), "config.json").read_text()).get("eos_token_id")
    return ends if isinstance(ends, list) else [ends]


def check_template(findings: Findings, renderer: Renderer) -> None:
    """Whether it ends, and keeps what the assistant says. Raises BadRow."""
    text, *_ = renderer.find(SHORT)
    if not _comes_back(text, renderer.tokenizer):
        findings.warn(
            "template",
            "encoding and decoding a rendered conversation changes its text: does the tokenizer "
            "know all characters?",
        )
    kept = []
    for turns, name in ((PROBE[:2], "the last answer"), (PROBE, "earlier answers")):
        try:
            renderer.find(turns)
        except BadRow as e:
            if e.reason != "template_drops_response":
                raise
            findings.warn(
                "template",
                f"the chat template drops the reasoning of {name}: such rows are rejected; "
                "--render verbatim keeps it",
            )
            return
        kept.append(name)
    findings.ok(
        "template",
        f"keeps the text of every answer, including the reasoning of {' and '.join(kept)}",
    )


def check_renders(findings: Findings, renderer: Renderer) -> None:
    """Whether the template renders a conversation of two words at all, if only after a system turn.

    Raises BadRow.
    """
    try:
        renderer.find(SHORT)
    except BadRow:
        if renderer.endless:
            raise
        try:
            renderer.find([SYSTEM, *SHORT])
            return
        except BadRow:
            pass
        raise


def _comes_back(text: str, tokenizer: Any) -> bool:
    """Whether a text, encoded and decoded, is the same but for spaces."""
    ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    again = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)
    return bool(again.replace(" ", "") == text.replace(" ", ""))
