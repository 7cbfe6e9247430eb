"""tokens: rendered text -> token ids, and the spans of scored tokens."""

import re
from typing import Any, NamedTuple

import numpy as np

from rsr_ray.corpus.row_faults import one_line
from rsr_ray.encode.found import Found
from rsr_ray.encode.how import How
from rsr_ray.errors import BadRow

# Where a step of the assistant's text ends. A stop inside a number or a name has no white space
# behind it.
STEP_ENDS = {
    "sentence": re.compile(r"[.!?…]+[\"')\]*_”’»]*(?=\s)|[。！？]+|(?<=\S)(?=[^\S\n]*\n)"),
    "paragraph": re.compile(r"(?<=\S)(?=[^\S\n]*\n\s*\n)"),
}


class Run(NamedTuple):
    """Scored tokens in a row, [start, stop), of one turn."""

    start: int
    stop: int
    turn: int  # 0-based


class Encoded(NamedTuple):
    """A conversation as tokens."""

    input_ids: np.ndarray  # int32 [T], up to the last scored token
    spans: np.ndarray  # int32 [2S]: start, stop of each run of scored tokens
    truncated: bool  # cut to the length limit
    span_turns: np.ndarray  # int32 [S]: the turn that each run belongs to, 0-based
    sentences: np.ndarray  # int32 [K]: scored tokens of each; a turn or part of it begins one
    # int32 [2K]: start, stop of each step; together they are the runs
    steps: np.ndarray | None = None
    token_segments: np.ndarray | None = None  # uint8 [N]: the segment of each scored token
    token_text: list[str] | None = None  # of each scored token its part of the text
    image_stops: np.ndarray | None = None  # int32 [I]: the token behind each image in input_ids


def tokenize(found: Found, tokenizer: Any, how: How) -> Encoded:
    """Rendered text as tokens, within the length limit. Raises BadRow.

    A token belongs to the text that its first character belongs to. No special token is added to
    what the template rendered, so there is never a second BOS.
    """
    encoding = _encoding(found.text, tokenizer)
    runs = _runs(found, encoding)
    if not runs:
        raise BadRow("empty_response", "no token of the assistant's text can be scored")
    length = runs[-1].stop
    truncated = length > how.max_length and how.over_length == "truncate"
    if truncated:
        length = how.max_length
        runs = [Run(a, min(b, length), i) for a, b, i in runs if a < length]
    if not runs or (length > how.max_length and how.over_length == "reject"):
        way_out = (
            "--over-length truncate or window accepts longer rows"
            if runs
            else "the prompt alone fills it"
        )
        raise BadRow("over_length", f"{len(encoding)} tokens, limit {how.max_length}; {way_out}")
    image_stops = _image_stops(found, encoding, length, how)
    starts, stops, owners = np.array(runs, np.int32).T
    scored = _Scored.of(runs, encoding)
    return Encoded(
        input_ids=np.asarray(encoding.ids[:length], np.int32),
        spans=np.stack([starts, stops], 1).reshape(-1),
        truncated=truncated,
        span_turns=owners.copy(),
        sentences=np.diff(scored.steps(found, "sentence").reshape(-1, 2))[:, 0],
        steps=scored.steps(found, how.steps) if how.steps else None,
        token_segments=scored.segments(found),
        token_text=_token_text(found.text, runs, encoding) if how.token_text else None,
        image_stops=image_stops,
    )


def _image_stops(found: Found, encoding: Any, length: int, how: How) -> np.ndarray | None:
    """The token behind each image that lies before `length`. Raises BadRow where an image would be
    cut, at the limit or between two windows.
    """
    if not found.images:
        return None
    if length > how.max_length:
        what = "windows cannot cut a row with images"
        raise BadRow("over_length", f"{length} tokens, limit {how.max_length}; {what}")
    ends = [[_first_token(encoding, at, len(found.text)) for at in span] for span in found.images]
    if any(start < length < stop for start, stop in ends):
        raise BadRow("over_length", f"the limit {how.max_length} cuts an image")
    return np.array([stop for _, stop in ends if stop <= length], np.int32)


def _encoding(text: str, tokenizer: Any) -> Any:
    """The tokenizers library's Encoding of the text. Raises BadRow."""
    try:
        return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as e:  # a panic in the tokenizer's Rust code derives from BaseException
        raise BadRow("tokenizer_error", one_line(e)) from e


def _runs(found: Found, encoding: Any) -> list[Run]:
    """The runs of scored tokens. Position 0 has no context and is not scored."""
    runs = []
    for (start, stop), turn in zip(found.spans, found.turns, strict=True):
        first = max(_first_token(encoding, start, len(found.text)), 1)
        end = _first_token(encoding, stop, len(found.text))
        if first < end:
            runs.append(Run(first, end, turn))
    return runs


def _first_token(encoding: Any, position: int, n_chars: int) -> int:
    """Index of the first token whose first character is at `position` or behind it."""
    token = None
    while token is None and position < n_chars:
        token = encoding.char_to_token(position)
        position += token is None  # a character that the tokenizer drops belongs to no token
    if token is None:
        return len(encoding)
    while token < len(encoding) and encoding.token_to_chars(token)[0] < position:
        token += 1
    return token


class _Scored(NamedTuple):
    """The scored tokens, in order: each [N]."""

    position: np.ndarray  # int32: in input_ids
    first_char: np.ndarray  # int64: of each token, in the text
    begins_run: np.ndarray  # bool

    @classmethod
    def of(cls, runs: list[Run], encoding: Any) -> "_Scored":
        position = np.concatenate([np.arange(a, b, dtype=np.int32) for a, b, _ in runs])
        offsets = encoding.offsets
        first_char = np.array([offsets[p][0] for p in position.tolist()], np.int64)
        return cls(position, first_char, np.isin(position, [start for start, *_ in runs]))

    def steps(self, found: Found, kind: str) -> np.ndarray:
        """The runs cut where a sentence or paragraph ends: start, stop ... int32 [2K].

        White space behind a step belongs to the next one, as the tokens that begin with it do.
        """
        ends = [
            start + end.end()
            for start, stop in found.spans
            for end in STEP_ENDS[kind].finditer(found.text[start:stop])
        ]
        step = np.searchsorted(ends, self.first_char, "right")
        begins = np.flatnonzero(self.begins_run | (np.diff(step, prepend=0) > 0))
        last = np.append(begins[1:], len(step)) - 1
        return np.stack([self.position[begins], self.position[last] + 1], 1).reshape(-1)

    def segments(self, found: Found) -> np.ndarray | None:
        """The segment of each token's first character, uint8 [N], if segments are wanted."""
        if found.segments is None:
            return None
        return found.segments.take(self.first_char, mode="clip")


def _token_text(text: str, runs: list[Run], encoding: Any) -> list[str]:
    """The text of each scored token, up to the next token of its run."""
    starts = [start for start, _ in encoding.offsets]
    stops = [stop for _, stop in encoding.offsets]
    out = []
    for start, stop, _ in runs:
        for t in range(start, stop):
            out.append(text[starts[t] : starts[t + 1] if t + 1 < stop else stops[t]])
    return out
