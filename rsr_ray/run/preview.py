"""preview: how a corpus is read, and its rows as the student will see them. No Ray, no weights."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsr_ray.config.score import PreviewConfig
from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.plan import make_plan
from rsr_ray.corpus.row_faults import Row, row_boundary
from rsr_ray.corpus.rows import iter_trajectories
from rsr_ray.corpus.shards import find_corpus
from rsr_ray.encode.found import Found
from rsr_ray.encode.how import How
from rsr_ray.encode.locate import find
from rsr_ray.encode.placed import with_images, without_images
from rsr_ray.encode.tokens import tokenize
from rsr_ray.errors import BadRow, UserError
from rsr_ray.student.source import resolve
from rsr_ray.student.tokenizer import load_tokenizer
from rsr_ray.student.vision import load_eyes, sees

NO_LIMIT = 1 << 62  # tokens of a row, where the student's files tell none


@dataclass(frozen=True, kw_only=True)
class PreviewRow:
    """A row as the student will see it; of a reject `reject_reason` and `reject_detail` alone."""

    source: str
    source_row: int
    trajectory_id: str
    prompt_id: str | None
    teacher: str | None
    sample: int | None
    content: str | None = None
    complete: bool | None = None
    strata: dict[str, str | None] | None = None
    text: str | None = None  # rendered
    spans: tuple[tuple[int, int], ...] = ()  # [start, stop) in characters of what is scored
    reject_reason: str | None = None
    reject_detail: str | None = None

    @property
    def scored(self) -> list[str]:
        return [(self.text or "")[start:stop] for start, stop in self.spans]

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("source", "source_row", "trajectory_id")},
            **{name: getattr(self, name) for name in ("prompt_id", "teacher", "sample", "text")},
            "scored": self.scored,
            **({"strata": self.strata} if self.strata else {}),
            "reject_reason": self.reject_reason,
            "reject_detail": self.reject_detail,
        }


class Preview:
    """One look at a corpus: `plan` says how it is read, `skipped` what is left out, if anything,
    and `rows` shows some of it.

    Raises UserError where the corpus cannot be read at all, or the student has no usable tokenizer.
    """

    def __init__(self, config: PreviewConfig):
        self.config = config
        endpoint = config.s3_endpoint
        self.objects, self.skipped = find_corpus(config.corpus, endpoint, config.store)
        self.plan = make_plan(self.objects, endpoint, config.reading)

    def plan_to_json(self) -> dict[str, Any]:
        skipped = {"skipped": self.skipped} if self.skipped else {}
        return dataclasses.asdict(self.plan) | skipped

    def rows(self) -> Iterator[PreviewRow]:
        """`--rows` trajectories in the order of shards and rows, as many of each shard as the
        rest allows.
        """
        config, left = self.config, self.config.rows
        reading = dataclasses.replace(config.reading, sees=self.how.sees)
        every = max(1, len(self.objects) // config.rows)
        chosen = self.objects[::every][: config.rows]
        for n, obj in enumerate(chosen):
            share = -(-left // (len(chosen) - n))
            rows = iter_trajectories(obj, config.s3_endpoint, config.reading)
            for index, row in zip(range(share), rows, strict=False):
                yield self.seen(canonical(row, obj, index, reading, config.s3_endpoint))
                left -= 1

    @functools.cached_property
    def how(self) -> How:
        return How(
            max_length=min(self.config.max_length or NO_LIMIT, context_length(self.config.student)),
            chat_template=self.config.template_text,
            system_prompt=self.config.system_prompt,
            system_role=self.config.system_role,
            verbatim=self.config.render == "verbatim",
            raw=self.config.render == "raw",
            over_length=self.config.over_length,
            token_text=True,
            sees=sees(resolve(self.config.student)),
        )

    @functools.cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.config.student, self.how.chat_template)

    def seen(self, row: Row) -> PreviewRow:
        """A canonical row through the student's template and tokenizer."""
        messages, tools, images = row.pop("messages"), row.pop("tools"), row.pop("images")
        shown = PreviewRow(**row)
        if shown.reject_reason:
            return shown
        try:
            with row_boundary("encoding the row"):
                functions = json.loads(tools) if tools else None
                found = find(json.loads(messages), self.tokenizer, self.how, functions)
                eyes = load_eyes(self.config.student) if self.how.sees else None
                read = with_images(found, images or (), eyes)
                spans = self.within_limit(read)
                shown_text, spans = without_images(read, spans, images or ())
        except BadRow as e:
            return dataclasses.replace(shown, reject_reason=e.reason, reject_detail=e.detail)
        return dataclasses.replace(shown, text=shown_text, spans=tuple(spans))

    def within_limit(self, found: Found) -> list[tuple[int, int]]:
        """The spans of what is scored; of a row that is cut to the length limit those that fit."""
        encoded = tokenize(found, self.tokenizer, self.how)
        spans = found.spans
        if not encoded.truncated:
            return spans
        encoding = self.tokenizer.backend_tokenizer.encode(found.text, add_special_tokens=False)
        end = encoding.offsets[len(encoded.input_ids) - 1][1]
        return [(start, min(stop, end)) for start, stop in spans if start < end]


def context_length(student: str) -> int:
    """Tokens that the student's own config.json allows a row. Raises UserError."""
    path = Path(resolve(student), "config.json")
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise UserError(f"student {student}: {path} cannot be read: {e}") from e
    text_config = config.get("text_config", config)
    return int(text_config.get("max_position_embeddings") or NO_LIMIT)
