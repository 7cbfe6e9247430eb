"""verbatim: the assistant's texts as they stand, with only what is around them from a template."""

import json
import re
from typing import Any

from rsr_ray.corpus.turns import Turn
from rsr_ray.encode.calls import find_calls
from rsr_ray.encode.found import Assembly, Found, Span
from rsr_ray.encode.marks import make_marks
from rsr_ray.encode.rendering import render
from rsr_ray.encode.segments import CALLS
from rsr_ray.errors import BadRow


def find_raw(turns: list[Turn], tokenizer: Any, tools: list | None = None) -> Found:
    """A prompt that is rendered already and its answer, as they stand. Raises BadRow."""
    roles = [turn["role"] for turn in turns]
    if roles != ["user", "assistant"] or turns[1].get("tool_calls") or tools:
        raise BadRow(
            "template_error",
            "--render raw expects a rendered prompt and an answer, both text; the row has more "
            "than that",
        )
    answer = turns[1]["content"]
    assembly = Assembly()
    assembly.add(_header_for(answer, turns[0]["content"]))
    assembly.say(answer, 1)
    return assembly.found()


def find_verbatim(turns: list[Turn], tokenizer: Any, tools: list | None = None) -> Found:
    """As `find_turns`, with the assistant's texts as they stand. Raises BadRow.

    The template renders the conversation up to the generation prompt of the last answer, earlier
    answers being marks; what a template would drop or rewrite of an answer it never sees. This is
    what most fine-tuning code trains on.
    """
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    if any(turns[i].get("tool_calls") for i in answers):
        return _find_verbatim_calls(turns, answers, tokenizer, tools)
    *before, last = answers
    *marks, spare = make_marks(len(answers), json.dumps(turns, ensure_ascii=False))
    context = [dict(turn) for turn in turns[:last]]
    for i, mark in zip(before, marks, strict=True):
        context[i]["content"] = mark
    opened = _header_for(turns[last]["content"], _opened(context, spare, tokenizer, tools))
    assembly = Assembly()
    for i, mark in zip(before, marks, strict=True):
        piece, found, opened = opened.partition(mark)
        if not found:
            raise BadRow("template_error", "the template leaves out an earlier answer entirely")
        assembly.add(piece)
        assembly.say(turns[i]["content"], i)
    assembly.add(opened)
    assembly.say(turns[last]["content"], last)
    return assembly.found()


def _opened(context: list[Turn], mark: str, tokenizer: Any, tools: list | None) -> str:
    """The rendering up to where an answer begins."""
    opened = render(context, tokenizer, tools, add_generation_prompt=True)
    if opened != render(context, tokenizer, tools):
        return opened
    # No generation prompt: what stands before an answer is the header of one.
    answered = [*context, {"role": "assistant", "content": mark}]
    return render(answered, tokenizer, tools).partition(mark)[0]


def _header_for(answer: str, header: str) -> str:
    """What stands before an answer, without a <think> that the answer brings itself."""
    if header.rstrip().endswith("<think>") and answer.lstrip().startswith("<think>"):
        return header.rstrip().removesuffix("<think>")
    return header


def _find_verbatim_calls(
    turns: list[Turn], answers: list[int], tokenizer: Any, tools: list | None
) -> Found:
    """As `find_verbatim`, structured calls being what the template makes of them behind a mark."""
    last = answers[-1]
    # Without calls the last answer is text alone, behind the generation prompt.
    opens = not turns[last].get("tool_calls")
    marks = make_marks(len(answers), json.dumps(turns, ensure_ascii=False))
    mark_of = dict(zip(answers, marks, strict=True))
    shown = [dict(turn) for turn in (turns[:last] if opens else turns[: last + 1])]
    for i in answers:
        if i < len(shown) and turns[i]["content"].strip():
            shown[i]["content"] = mark_of[i]
    closed = render(shown, tokenizer, tools)
    calls = find_calls(shown, closed, tokenizer, tools)
    text = render(shown, tokenizer, tools, add_generation_prompt=True) if opens else closed
    if not text.startswith(closed):
        raise BadRow(
            "template_error",
            "the template renders the conversation differently if an answer is to follow",
        )
    if opens:
        text += mark_of[last]
    return _with_answers(text, turns, mark_of, calls)


def _with_answers(
    text: str, turns: list[Turn], mark_of: dict[int, str], calls: dict[int, Span]
) -> Found:
    """The rendering `text` with the answers in place of their marks, and its tool calls."""
    assembly = Assembly()
    at = 0  # in `text`: what is before it is in the assembly
    for i, mark in mark_of.items():
        content = turns[i]["content"]
        if content.strip():
            before = text.find(mark, at)
            if before < 0:
                raise BadRow(
                    "template_drops_response",
                    "the template leaves out an earlier answer entirely",
                )
            header = text[at:before]
            if content.lstrip().startswith("<think>"):  # the answer brings its own
                header = re.sub(r"<think>\s*(</think>\s*)?$", "", header)
            assembly.add(header)
            assembly.say(content, i)
            at = before + len(mark)
        if i in calls:
            start, stop = calls[i]
            between = text[at:start]
            call = text[start:stop]
            if content.strip() and content[-1].isspace():
                between = ""
                call = call.lstrip()
            assembly.add(between)
            assembly.say(call, i, CALLS)
            at = stop
    return assembly.found()
