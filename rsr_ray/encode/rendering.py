"""rendering: a conversation -> text, by the student's own chat template."""

import functools
import itertools
import json
from typing import Any

from rsr_ray.corpus.images import in_parts
from rsr_ray.corpus.row_faults import one_line
from rsr_ray.corpus.turns import Turn
from rsr_ray.errors import BadRow

# A template that prints today's date would give the same trajectory another score tomorrow. This
# macro hides the function that tells it; the date is the one that Llama-3.1's template falls back
# to.
DATE = {
    "Y": "2024",
    "m": "07",
    "d": "26",
    "b": "Jul",
    "B": "July",
    "y": "24",
    "A": "Friday",
    "a": "Fri",
    "H": "00",
    "M": "00",
    "S": "00",
}
FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('%{code}', '{value}')" for code, value in DATE.items())
    + " }}{% endmacro %}\n"
)


def render(
    turns: list[Turn],
    tokenizer: Any,
    tools: list | None = None,
    *,
    add_generation_prompt: bool = False,
) -> str:
    """The conversation through the student's chat template. Raises BadRow."""
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = FIXED_DATE + template
    all_in_parts = _takes_parts_only(tokenizer, template)
    turns = [_in_parts(turn) if all_in_parts or turn.get("images") else turn for turn in turns]
    for functions, conversation in itertools.product(
        _forms_of_tools(tools, template), _forms_of_turns(turns)
    ):
        try:
            return tokenizer.apply_chat_template(
                conversation,
                tools=functions,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except Exception as e:  # the template is a program, and anything can go wrong in it
            problem = e
    raise BadRow("template_error", one_line(problem)) from problem


@functools.lru_cache(maxsize=8)
def _takes_parts_only(tokenizer: Any, template: str) -> bool:
    """Whether a template leaves out a turn's content if it is text and not a list of parts."""
    if "type" not in template:
        return False
    said = "Hello."
    turn = {"role": "user", "content": said}
    shown = []
    for form in (turn, _in_parts(turn)):
        try:
            shown.append(
                tokenizer.apply_chat_template([form], chat_template=template, tokenize=False)
            )
        except Exception:  # as it does with a form that it does not take
            shown.append("")
    return said not in shown[0] and said in shown[1]


def _in_parts(turn: Turn) -> Turn:
    """The turn with its content as parts, text and images."""
    return in_parts(turn, [{"type": "image"} for _ in turn.get("images", ())])


def _forms_of_tools(tools: list | None, template: str) -> list[list | None]:
    """What to try as tools: some templates loop over them unasked."""
    if tools:
        return [tools]
    return [None, []] if "tools" in template else [None]


def _forms_of_turns(turns: list[Turn]) -> list[list[Turn]]:
    """What to try as turns: some templates want the arguments of tool calls as JSON text."""
    if not any(turn.get("tool_calls") for turn in turns):
        return [turns]
    return [turns, [_spelt_out(turn) for turn in turns]]


def _spelt_out(turn: Turn) -> Turn:
    """The turn with the arguments of its tool calls as JSON text in place of a mapping."""
    if not turn.get("tool_calls"):
        return turn
    calls = []
    for call in turn["tool_calls"]:
        arguments = json.dumps(call["function"]["arguments"])
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**turn, "tool_calls": calls}
