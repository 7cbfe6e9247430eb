"""endings: whether a corpus says that an answer ended by itself, or was cut off."""

from collections.abc import Mapping
from typing import Any

from rsr_ray.corpus.pairs import ANSWERS

ENDINGS = ("complete", "finish_reason", "stop_reason", "truncated")
# What inference servers and their clients call an answer that ended by itself, or was cut off.
ENDED = frozenset({
    "stop", "eos", "eos_token", "stop_sequence", "end_turn", "tool_calls", "tool_use",
    "function_call", "completed", "complete", "success", "submitted",
})  # fmt: skip
CUT_OFF = frozenset({
    "length", "max_tokens", "max_new_tokens", "max_output_tokens", "model_length", "context_length",
    "content_filter", "abort", "aborted", "cancelled", "error", "timeout", "incomplete",
    "truncated", "max_turns", "exit_context", "exit_cost", "repetition",
})  # fmt: skip
YES = frozenset({"true", "1", "1.0", "yes"})
NO = frozenset({"false", "0", "0.0", "no"})


def is_complete(row: Mapping[str, Any]) -> bool | None:
    """What a row, or its last turn, says of its answer; None where it says nothing that is known.

    Of several fields that differ, the one that calls it cut off counts.
    """
    given = [row.get(name) for name in ("messages", "conversations", *ANSWERS)]
    last = [some[-1] if isinstance(some, list) and some else some for some in given]
    places = [row, *(place for place in last if isinstance(place, Mapping))]
    verdicts = [_verdict(name, place.get(name)) for place in places for name in ENDINGS]
    said = {verdict for verdict in verdicts if verdict is not None}
    return False not in said if said else None


def _verdict(name: str, value: Any) -> bool | None:
    if isinstance(value, float) and value != value:
        return None
    text = str(value).strip().lower()
    if text in YES | NO:
        return (text in YES) != (name == "truncated") if name in ("complete", "truncated") else None
    return True if text in ENDED else False if text in CUT_OFF else None
