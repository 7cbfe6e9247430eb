"""shapes: rows of the shapes in use -> conversations of one shape.

A conversation is a list of turns. A turn has `role` (system, user, assistant, tool) and `content` (text), an assistant's
also `tool_calls` where it made some, a tool's `name` and `tool_call_id` where they are known. Reasoning that lies in a
field of its own becomes `<think>` text in front of the answer, so that the same conversation is the same in every shape.
"""

import json
from collections.abc import Iterator
from typing import Any

from rsr_ray.errors import BadRow
from rsr_ray.identity import numbered

Turn = dict[str, Any]

ROLES = {
    **{role: role for role in ("system", "user", "assistant", "tool")},
    **{"developer": "system", "human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"},
    **{"observation": "tool", "tool_response": "tool", "function_response": "tool", "function": "tool"},
    **{"function_call": "assistant", "tool_call": "assistant"},  # what such a turn says is the call itself
}
CALLS = ("function_call", "tool_call")
REASONING = ("reasoning_content", "reasoning", "thinking")
ID_COLUMNS = ("trajectory_id", "id", "_id")
# What a column may be mapped to; instruction, input and output are Alpaca's names for prompt and response.
TEXTS = ("messages", "conversations", "prompt", "response", "system", "tools", *REASONING, "instruction", "input", "output")
COLUMNS = (*ID_COLUMNS, "prompt_id", "teacher", "sample", *TEXTS)


def shape_of(columns: set[str]) -> str | None:
    """The shape of rows with these columns, mapped names included, in the order of preference; None where there is none."""
    if "messages" in columns:
        return "messages"
    if "conversations" in columns:
        return "conversations"
    if {"prompt", "response"} <= columns:
        return "prompt + response"
    if {"instruction", "output"} <= columns:
        return "instruction + input + output"
    return None


def mapped(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    """A row with its columns under the names that they are mapped to, {name: column}; rows without such a column as they are."""
    return {**row, **{name: row[column] for name, column in columns.items() if row.get(column) is not None}}


def samples(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row of one answer as it is; one that holds a list of answers to its prompt as a row an answer, `sample` numbered."""
    name = "response" if row.get("response") is not None else "output"
    answers = row.get(name)
    if not isinstance(answers, list) or _is_turns(answers) or not all(isinstance(a, str) or _is_turns(a) for a in answers) or not answers:
        yield row
        return
    given = next((column for column in ID_COLUMNS if numbered(row.get(column), 0) is not None), None)
    for n, answer in enumerate(answers):
        one = {**row, name: answer, "sample": n}
        if given and len(answers) > 1:  # one id for all would count them once
            one[given] = numbered(row[given], n)
        for field in REASONING:
            if isinstance(row.get(field), list):
                one[field] = row[field][n] if n < len(row[field]) else None
        yield one


def as_it_came(row: dict[str, Any], one: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    """One of the `samples` of the mapped `row` with the columns, and under the names, that the row came with."""
    names = {column: name for name, column in columns.items() if row.get(column) is not None}
    return {column: one[names.get(column, column)] for column in row}


def conversation(row: dict[str, Any]) -> list[Turn]:
    """The turns of a row of any shape. Raises BadRow."""
    if row.get("messages") is not None:
        turns = [_turn(_text_field(t, "role"), t.get("content"), t) for t in _turns(row["messages"])]
    elif row.get("conversations") is not None:
        turns = [_turn(*_from_value(t), t) for t in _turns(row["conversations"])]
    elif row.get("prompt") is not None and row.get("response") is not None:
        turns = _side(row["prompt"], "user", {}) + _side(row["response"], "assistant", row)
    elif row.get("instruction") is not None and row.get("output") is not None:
        asked = [row["instruction"], *([row["input"]] if row.get("input") else [])]
        text = "\n".join(_text(part, "user") for part in asked)
        turns = [_turn("user", text, {}), *_side(row["output"], "assistant", row)]
    else:
        wanted = "messages, conversations, prompt and response, or instruction and output"
        raise BadRow("unreadable_row", f"a row needs {wanted} (--columns maps other names); columns: {', '.join(map(str, row))[:200]}")
    if isinstance(row.get("system"), str) and row["system"] and all(t["role"] != "system" for t in turns):
        turns = [_turn("system", row["system"], {}), *turns]
    return turns


def _is_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(t, dict) and ("role" in t or "from" in t) for t in value)


def _side(value: Any, role: str, row: dict[str, Any]) -> list[Turn]:
    """The turns of a prompt or a response: text, or turns themselves."""
    if _is_turns(value):
        return [_turn(*(_from_value(t) if "from" in t else (_text_field(t, "role"), t.get("content"))), t) for t in value]
    return [_turn(role, value, {name: row.get(name) for name in REASONING})]


def _turns(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list) and value and all(isinstance(t, dict) for t in value):
        return value
    raise BadRow("unreadable_row", "the conversation is not a list of turns")


def _from_value(turn: dict[str, Any]) -> tuple[str, Any]:
    return _text_field(turn, "from" if turn.get("from") is not None else "role"), turn.get("value", turn.get("content"))


def _text_field(turn: dict[str, Any], name: str) -> str:
    value = turn.get(name)
    if not isinstance(value, str):
        raise BadRow("unknown_role", f"a turn has {name} {value!r:.60}")
    return value


def _turn(given_role: str, content: Any, turn: dict[str, Any]) -> Turn:
    role = ROLES.get(given_role)
    if role is None:
        raise BadRow("unknown_role", f"a turn has the role {given_role!r:.60}")
    calls = _calls(turn.get("tool_calls"))
    if given_role in CALLS:
        calls, content = _calls(_parsed(content, "a call")), ""
    if content is None and calls:
        content = ""
    out: Turn = {"role": role, "content": _text(content, role)}
    if role == "assistant":
        reasoning = next((turn[name] for name in REASONING if turn.get(name)), None)
        if reasoning is not None:
            out["content"] = f"<think>\n{_text(reasoning, role).strip()}\n</think>\n\n{out['content'].lstrip()}"
        if calls:
            out["tool_calls"] = calls
    if role == "tool":
        out |= {name: str(turn[name]) for name in ("name", "tool_call_id") if turn.get(name)}
    return out


def _text(content: Any, role: str) -> str:
    """Text given as it is or as a list of text parts."""
    if isinstance(content, list) and content:
        parts = [part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None for part in content]
        wrong = next((part for part, text in zip(content, parts, strict=True) if not isinstance(text, str)), None)
        if wrong is not None:
            kind = wrong.get("type", "no text") if isinstance(wrong, dict) else type(wrong).__name__
            raise BadRow("not_text", f"a turn of the {role} has a part that is not text: {kind!r:.60}")
        content = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str):
        raise BadRow("not_text", f"the content of a turn of the {role} is {type(content).__name__}, not text")
    try:
        content.encode()
    except UnicodeEncodeError as e:
        raise BadRow("not_text", f"a turn of the {role} holds half a surrogate pair: not valid unicode") from e
    return content


def _calls(given: Any) -> list[dict[str, Any]]:
    """Tool calls as templates want them: a list of functions with their arguments as a mapping."""
    if not given:
        return []
    calls = []
    for call in given if isinstance(given, list) else [given]:
        function = (call.get("function") or call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow("tool_calls", f"a tool call names no function: {call!r:.100}")
        arguments = function.get("arguments", function.get("parameters"))
        arguments = _parsed(arguments, "the arguments of a tool call") if isinstance(arguments, str) and arguments else arguments or {}
        if isinstance(arguments, dict):
            arguments = {name: value for name, value in arguments.items() if value is not None}  # what a Parquet struct fills in
        out: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
        if isinstance(call.get("id"), str):
            out["id"] = call["id"]
        calls.append(out)
    return calls


def _parsed(text: Any, what: str) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise BadRow("tool_calls", f"{what}: not JSON: {text!r:.100}") from e
