"""turns: one turn of any of the forms in use -> the one form.

Every text that the assistant wrote is read or the row is refused: of an assistant's turn each key
is read, or is one of `SILENT`, or holds no text. Nothing is made up: text without a known place is
no answer.
"""

import json
from collections.abc import Mapping
from typing import Any

from rsr_ray.corpus.images import MARK, Reference, is_image_part, reference_of, references_of
from rsr_ray.errors import BadRow

Turn = dict[str, Any]
Call = dict[str, Any]  # of a tool

ROLES = {
    **{role: role for role in ("system", "user", "assistant", "tool")},
    **{"developer": "system", "human": "user"},
    **dict.fromkeys(("gpt", "model", "bot", "ai"), "assistant"),
    **dict.fromkeys(("observation", "environment", "ipython"), "tool"),
    **dict.fromkeys(("tool_response", "function_response", "function"), "tool"),
    # What such a turn says is the call itself.
    **dict.fromkeys(("function_call", "function_calls", "tool_call"), "assistant"),
}
CALLS = ("function_call", "function_calls", "tool_call")
REASONING = ("reasoning_content", "reasoning", "thinking")
TEXTS = ("content", "value", "text")
# A column `reasoning` of these says whether the teacher was asked to think, and not what.
SWITCHES = frozenset({
    "on", "off", "true", "false", "yes", "no", "none", "auto", "enabled", "disabled", "low",
    "medium", "high",
})  # fmt: skip
# Keys of an assistant's turn that hold no text of its answer.
SILENT = frozenset({
    "role", "from", "name", "id", "uuid", "type", "index", "turn", "step", "episode", "status",
    "weight", "loss", "train", "mask", "channel", "recipient", "end_turn", "author", "sender",
    "speaker", "timestamp", "date", "created", "created_at", "model", "info", "metadata", "meta",
    "source", "language", "lang", "tokens", "num_tokens", "n_tokens", "token_count", "usage",
    "finish_reason", "stop_reason", "truncated", "complete", "signature", "logprobs",
    "cutoff_date", "score", "rating", "reward", "label", "labels", "cache_control",
    "system_prompt", "functions", "tools", "annotations", "tool_call_id",
})  # fmt: skip
READ = frozenset((*TEXTS, *REASONING, "tool_calls", "function_call", "function_calls"))
TEXT_BLOCKS = (None, "text", "input_text", "output_text")
UNTRAINED = {"weight": 0, "loss": False, "train": False}


def turns_of(given: Any) -> list[Turn]:
    """Turns of a list of turns, or of such a list as JSON text. Raises BadRow."""
    if isinstance(given, str):
        given = json_or_none(given)
    if not isinstance(given, list) or not given or not all(isinstance(t, dict) for t in given):
        raise BadRow("unreadable_row", "the conversation is not a list of turns")
    return [turn for one in given for turn in turns_of_one(one)]


def turns_of_one(given: Mapping[str, Any]) -> list[Turn]:
    """The turns that one is: several where a user's blocks hold what tools said. Raises BadRow."""
    said = _role_field(given)
    role = role_of(said)
    content = _content_of(given, role)
    blocks = _blocks(content) if isinstance(content, list) else []
    results = [turn for b in blocks if b.get("type") == "tool_result" for turn in [_result(b)]]
    if results:
        rest = [b for b in blocks if b.get("type") != "tool_result"]
        return [*results, *([_turn(role, said, rest, given)] if rest else [])]
    return [_turn(role, said, content, given)]


def is_scored(turn: Mapping[str, Any]) -> bool:
    """Whether a turn of a conversation is an answer, and not context alone."""
    return turn["role"] == "assistant" and bool(turn.get("train", True))


def role_of(said: str) -> str:
    """One of the four roles. Raises BadRow."""
    role = ROLES.get(said) or ROLES.get(said.lower())
    if role is None:
        raise BadRow(
            "unknown_role",
            f"a turn has the unknown role {said!r:.60}; map it with --roles {said:.60}=ROLE",
        )
    return role


def text_of(content: Any, role: str) -> str:
    """Text given as it is or as a list of text parts. Raises BadRow."""
    if isinstance(content, list) and content:
        content = "".join(_part(part, role) for part in content)
    if not isinstance(content, str):
        what = f"the content of a {role} turn is {type(content).__name__}, not text"
        raise BadRow("not_text", what)
    try:
        content.encode()
    except UnicodeEncodeError as e:
        what = f"a {role} turn contains half a surrogate pair, which is not valid unicode"
        raise BadRow("not_text", what) from e
    return content


def seen_and_said(content: Any, role: str) -> Turn:
    """The `content` of a turn that is not the assistant's, and its `images` where it has some:
    each is a MARK in the text. Raises BadRow.
    """
    if not isinstance(content, list) or not any(map(is_image_part, content)):
        return {"content": text_of(content, role)}
    images: list[Reference] = [reference_of(part) for part in content if is_image_part(part)]
    text = "".join(MARK if is_image_part(part) else _part(part, role) for part in content)
    if text.count(MARK) > len(images):
        raise BadRow("media", f"a {role} turn has U+FFFC in its text, which stands for images here")
    return {"content": text_of(text, role), "images": images}


def reasoning_of(fields: Mapping[str, Any]) -> Any:
    """What the fields of a turn or row say that the teacher thought; None where nothing is.

    A switch is no reasoning. Raises BadRow where two of them differ.
    """
    given = {name: fields[name] for name in REASONING if fields.get(name)}
    texts = {name: value for name, value in given.items() if not _is_off(value, "role" in fields)}
    if len({_plain(value) for value in texts.values()}) > 1:
        what = f"the fields {' and '.join(texts)} contain different reasoning"
        raise BadRow("unread_content", f"{what}; select one with --columns thinking=...")
    return next(iter(texts.values()), None)


def _is_off(value: Any, in_turn: bool) -> bool:
    """Whether a reasoning field holds a switch; text in a turn's field is what was thought."""
    return is_switch(value) and not (in_turn and isinstance(value, str))


def is_switch(value: Any) -> bool:
    """Whether a value says that the teacher was asked to think, and not what it thought."""
    if isinstance(value, dict):
        return is_switch(value.get("type"))
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in SWITCHES)


def calls_of(given: Any) -> list[Call]:
    """Tool calls as templates want them: functions with their arguments as a mapping."""
    if not given:
        return []
    return [_call(call) for call in (given if isinstance(given, list) else [given])]


def without_nulls(value: Any) -> Any:
    """A structure without the nulls that Parquet fills in where another row has a key."""
    if isinstance(value, dict):
        return {key: without_nulls(some) for key, some in value.items() if some is not None}
    return [without_nulls(some) for some in value] if isinstance(value, list) else value


def json_or_none(text: str) -> Any:
    """What a text is as JSON; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# --- the parts of a turn ----------------------------------------------------------------------


def _role_field(turn: Mapping[str, Any]) -> str:
    name = "from" if turn.get("from") is not None and turn.get("role") is None else "role"
    value = turn.get(name)
    if not isinstance(value, str):
        raise BadRow("unknown_role", f"a turn has {name} {value!r:.60}")
    return value


def _content_of(turn: Mapping[str, Any], role: str) -> Any:
    """The turn's text under whichever key it lies. Raises BadRow where two say different things."""
    names = ("value", "content", "text") if "from" in turn and "role" not in turn else TEXTS
    found = {name: turn[name] for name in names if turn.get(name) is not None}
    spoken = {name: value for name, value in found.items() if value != ""}
    if role == "assistant" and len({_plain(value) for value in spoken.values()}) > 1:
        raise BadRow("unread_content", f"a turn has different text in {' and in '.join(spoken)}")
    if role == "system" and not found:
        return turn.get("system_prompt")
    return next(iter((spoken or found).values()), None)


def _turn(role: str, said: str, content: Any, given: Mapping[str, Any]) -> Turn:
    if role != "assistant":
        out: Turn = {"role": role, **seen_and_said(content, role)}
        if references_of(given):
            what = f"a {role} turn has images beside its content, which does not say where"
            raise BadRow("media", f"{what}; make them parts of it")
        named = ("name", "tool_call_id") if role == "tool" else ()
        return out | {name: str(given[name]) for name in named if given.get(name)}
    _check_all_read(given)
    spelt = given.get("function_calls")
    if not content and isinstance(spelt, str) and json_or_none(spelt) is None:
        content, given = spelt, {**given, "function_calls": None}  # calls as the model wrote them
    calls, thought = _calls_beside(given), reasoning_of(given)
    if said in CALLS:
        calls, content = calls_of(_parsed(content, "a call")), ""
    if isinstance(content, list) and any(not _is_text(block) for block in content):
        thought, content, calls = _assistant_blocks(content, thought, calls)
    if content in (None, []) and (calls or thought is not None):
        content = ""
    text = text_of(content, role)
    out = {"role": role, "content": text if thought is None else _thought(thought, text, calls)}
    if calls:
        out["tool_calls"] = calls
    if any(given.get(name) is not None and given[name] == off for name, off in UNTRAINED.items()):
        out["train"] = False
    return out


def _check_all_read(turn: Mapping[str, Any]) -> None:
    unread = [name for name in turn if name not in READ and name not in SILENT]
    if name := next((name for name in unread if _holds_text(turn[name])), None):
        what = f"an assistant turn has text in {name!r:.60}, which is not read"
        raise BadRow("unread_content", what)


def _holds_text(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_text, value.values()))
    if isinstance(value, list):
        return any(map(_holds_text, value))
    return isinstance(value, str) and bool(value.strip())


def _thought(reasoning: Any, text: str, calls: list[Call]) -> str:
    """The answer with its reasoning in front as <think> text; what was cut off stays open."""
    thought = text_of(reasoning, "assistant").strip()
    opening = text.lstrip()
    if opening.startswith("<think>") or "</think>" in text:
        inner = opening.removeprefix("<think>").partition("</think>")[0]
        if _plain(inner) == _plain(thought):
            return text
        what = "a turn has different reasoning in a field and in its text"
        raise BadRow("unread_content", what)
    if not thought:
        return text
    if not opening and not calls:
        return f"<think>\n{thought}"
    return f"<think>\n{thought}\n</think>\n\n{opening}"


def _calls_beside(turn: Mapping[str, Any]) -> list[Call]:
    """The calls that lie in fields of a turn of their own. Raises BadRow."""
    given = {name: turn[name] for name in ("tool_calls", *CALLS[:2]) if turn.get(name)}
    if len(given) > 1:
        raise BadRow("tool_calls", f"a turn has tool calls in {' and in '.join(given)}")
    for name, value in given.items():
        parsed = json_or_none(value) if isinstance(value, str) else value
        if parsed is None:
            what = f"the field {name} is not JSON: {value!r:.80}"
            raise BadRow("unread_content", what)
        return calls_of(parsed)
    return []


def _blocks(content: list[Any]) -> list[Turn]:
    return [b if isinstance(b, dict) else {"type": "text", "text": b} for b in content]


def _is_text(block: Any) -> bool:
    return isinstance(block, str) or (
        isinstance(block, dict) and block.get("type") in TEXT_BLOCKS and "text" in block
    )


def _assistant_blocks(content: list[Any], thought: Any, calls: list[Call]) -> tuple[Any, str, Any]:
    """Reasoning, text and calls of an assistant's blocks. Raises BadRow for any other order."""
    kinds = {"thinking": 0, "reasoning": 0, "text": 1, "output_text": 1, "tool_use": 2}
    thoughts, texts, used, last = [], [], [], 0
    for block in _blocks(content):
        kind = block.get("type") or "text"
        place = kinds.get(kind)
        if place is None:
            raise BadRow("not_text", f"an assistant turn has a part that is not text: {kind!r:.60}")
        if place < last:
            what = f"an assistant turn has {kind} after parts that no template puts before it"
            raise BadRow("unread_content", what)
        last = place
        if place == 0:
            thoughts.append(text_of(block.get(kind) or block.get("text"), "assistant"))
        elif place == 1:
            texts.append(_part(block, "assistant"))
        else:
            used.append({**block, "arguments": block.get("input") or {}})
    if thought is not None and thoughts:
        raise BadRow("unread_content", "a turn has reasoning both in a field and in its blocks")
    return "".join(thoughts) or thought, "".join(texts), calls + calls_of(used)


def _result(block: Mapping[str, Any]) -> Turn:
    """What a tool said, in a block of a user's turn."""
    content = block.get("content")
    out: Turn = {"role": "tool", **seen_and_said("" if content is None else content, "tool")}
    return out | ({"tool_call_id": str(block["tool_use_id"])} if block.get("tool_use_id") else {})


def _part(part: Any, role: str) -> str:
    text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
    if not isinstance(text, str):
        kind = part.get("type", "no text") if isinstance(part, dict) else type(part).__name__
        what = f"a {role} turn has a part that is not text: {kind!r:.60}"
        raise BadRow("not_text", what)
    return text


def _call(call: Any) -> Call:
    function = (call.get("function") or call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow("tool_calls", f"a tool call names no function: {call!r:.100}")
    given = function.get("arguments", function.get("parameters"))
    as_text = isinstance(given, str) and given
    parsed = _parsed(given, "the arguments of a tool call") if as_text else without_nulls(given)
    arguments = parsed if as_text else parsed or {}
    out: Call = {
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }
    return out | ({"id": call["id"]} if isinstance(call.get("id"), str) else {})


def _parsed(text: Any, what: str) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise BadRow("tool_calls", f"{what}: not JSON: {text!r:.100}") from e


def _plain(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else repr(value)
