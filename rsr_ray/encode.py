"""encode: conversations -> token ids and the exact spans of scored tokens, by the student's own template and tokenizer.

Where a turn's text lies in the rendering is found from the template itself, not from a table of markers. The
conversation is rendered as it is, and once more with a mark of two private-use characters behind each text of an
assistant. Where taking the marks out again gives the first rendering, each mark shows where its text ends, whatever the
template wrote around it; the text must then stand right before it. What a turn's tool calls are rendered as is what the
rendering loses when they are taken out, found for all turns at once where marks behind the turns of others keep them apart.
"""

import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from rsr_ray.aside import SECONDS, Aside, Ended, time_limit
from rsr_ray.errors import RunError
from rsr_ray.row_faults import one_line, row_boundary
from rsr_ray.schema import ENCODED_ROWS
from rsr_ray.shapes import REASONING, BadRow, Turn
from rsr_ray.student import load_tokenizer
from rsr_ray.watch import attempt, in_task

if TYPE_CHECKING:
    from rsr_ray.config import ScoreConfig
    from rsr_ray.student import StudentFacts

# A template that prints today's date would give the same trajectory another score tomorrow. This macro hides the
# function that tells it; the date is the one that Llama-3.1's template falls back to.
FIXED_DATE = "".join(
    [
        "{% macro strftime_now(format) %}{{ format",
        *(f" | replace('%{code}', '{value}')" for code, value in {"Y": "2024", "m": "07", "d": "26", "b": "Jul", "B": "July", "y": "24"}.items()),
        " | replace('%A', 'Friday') | replace('%a', 'Fri') | replace('%H', '00') | replace('%M', '00') | replace('%S', '00') }}{% endmacro %}\n",
    ]
)

# Where a step of the assistant's text ends. A stop inside a number or a name has no white space behind it.
STEP_ENDS = {
    "sentence": re.compile(r"[.!?…]+[\"')\]*_”’»]*(?=\s)|[。！？]+|(?<=\S)(?=[^\S\n]*\n)"),
    "paragraph": re.compile(r"(?<=\S)(?=[^\S\n]*\n\s*\n)"),
}


WORD = re.compile(r"[A-Za-z0-9_]+")


class Encode:
    """Ray Data UDF over units: READ_ROWS in, ENCODED_ROWS out, one row for one row.

    A row may make native code end the whole process, or a template run for ever, which the kernel ends the process for. Ray
    then starts the task again, and forever; so from the second try on rows are encoded in a process aside, one after the
    other, and the row that ends it is rejected.
    """

    def __init__(self, student: str, how: "How"):
        self.how = (student, how)

    def __call__(self, unit: pa.Table) -> pa.Table:
        (rows,) = unit["rows"].to_pylist()
        encoded = self.encode_here(rows) if attempt() == 0 else self.encode_aside(rows)
        return unit.set_column(unit.schema.get_field_index("rows"), "rows", pa.array([encoded], pa.list_(ENCODED_ROWS)))

    def encode_here(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What `encode_rows` gives; in a task of Ray's, which is done again, the process may end over it."""
        return encode_rows(rows, *self.how, limit=time_limit if in_task() else nullcontext)

    def encode_aside(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What `encode_rows` gives, by processes that may end. Raises RunError where the template never ends at all."""
        done = []
        with Aside(_encoder, *self.how) as aside:
            for row in rows:
                try:
                    done.append(aside.ask(row))
                except Ended as e:
                    if e.over_time:
                        check_template(aside)
                    reject = reject_of(e)
                    row |= {"reject_reason": reject.reason, "reject_detail": reject.detail, **dict.fromkeys(Encoded._fields)}
                    done.append({name: value for name, value in row.items() if name not in ("messages", "tools")})
        return done


def _encoder(student: str, how: "How") -> Callable[[dict[str, Any]], dict[str, Any]]:
    tokenizer = load_tokenizer(student, how.chat_template, how.proof)
    return functools.partial(encode_row, tokenizer=tokenizer, how=how, limit=time_limit)


def finder(student: str, how: "How") -> Callable[[tuple[list[Turn], list | None]], "Found"]:
    """For a process aside: what `find` gives for turns and tools."""
    tokenizer = load_tokenizer(student, how.chat_template, how.proof)

    def answer(question: tuple[list[Turn], list | None]) -> Found:
        turns, tools = question
        with time_limit():
            return find(turns, tokenizer, how, tools)

    return answer


def reject_of(ended: Ended) -> BadRow:
    """Why a row over which the process aside ended cannot be scored."""
    if ended.over_time:
        return BadRow("template_error", f"the chat template took over {SECONDS:g} s of processor time for the row")
    return BadRow("tokenizer_error", "the tokenizer ended its whole process on this row")


def check_template(aside: Aside) -> None:
    """Raise RunError where the template takes too long for any conversation: that is no row's fault."""
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    try:
        aside.ask({"messages": json.dumps(turns), "tools": None, "reject_reason": None})
    except Ended as e:
        if e.over_time:
            says = f"took over {SECONDS:g} s of processor time for a conversation of two words"
            raise RunError(f"the student's chat template {says}: does it end? rsr-ray doctor tries it on a few rows") from None


@dataclass(frozen=True, kw_only=True)
class How:
    """What decides how a conversation becomes tokens, beside the student."""

    max_length: int
    chat_template: str | None = None  # in place of the student's own
    system_prompt: str | None = None  # for conversations without a system turn
    system_role: str = "merge"  # of a template without one: merge into the first user turn, drop, or refuse
    verbatim: bool = False
    raw: bool = False  # prompts are rendered already
    over_length: str = "reject"  # of rows with more than max_length tokens: reject, truncate, or window (left whole here)
    steps: str | None = None  # what a step is, where they are wanted: a sentence or a paragraph
    token_text: bool = False  # the text of each scored token is wanted
    proof: str | None = None  # hash of the tokenizer and template that the run began with

    @classmethod
    def of(cls, config: "ScoreConfig", student: "StudentFacts") -> "How":
        """What the settings of a run say."""
        return cls(
            max_length=config.length_limit(student),
            chat_template=config.template_text,
            system_prompt=config.system_prompt,
            system_role=config.system_role,
            verbatim=config.render == "verbatim",
            raw=config.render == "raw",
            over_length=config.over_length,
            steps=config.steps if config.local else None,
            token_text=config.token_scores,
            proof=student.text_hash,
        )


Limit = Callable[[], AbstractContextManager[None]]


def encode_rows(rows: list[dict[str, Any]], student: str, how: How, limit: Limit = nullcontext) -> list[dict[str, Any]]:
    """READ_ROWS values as ENCODED_ROWS values, in their order. `limit` is of the time that the rendering of a row may take."""
    tokenizer = load_tokenizer(student, how.chat_template, how.proof)
    return [encode_row(row, tokenizer, how, limit) for row in rows]


def encode_row(row: dict[str, Any], tokenizer: Any, how: How, limit: Limit = nullcontext) -> dict[str, Any]:
    """A READ_ROWS value as an ENCODED_ROWS value; rejected rows pass through."""
    messages, tools = row.pop("messages"), row.pop("tools")
    row |= dict.fromkeys(Encoded._fields)
    if row["reject_reason"] is None:
        try:
            with row_boundary("encoding the row"):
                turns, functions = json.loads(messages), json.loads(tools) if tools else None
                with limit():
                    found = find(turns, tokenizer, how, functions)
                row |= tokenize(found, tokenizer, how)._asdict()
        except BadRow as e:
            row["reject_reason"], row["reject_detail"] = e.reason, e.detail
    return row


Found = tuple[str, list[tuple[int, int]], list[int]]  # rendered text; [start, stop) of the assistant's texts; their turns


class Encoded(NamedTuple):
    """A conversation as tokens."""

    input_ids: np.ndarray  # int32 [T], up to the last scored token
    spans: np.ndarray  # int32 [2S]: start, stop of each run of scored tokens
    truncated: bool  # cut to the length limit
    span_turns: np.ndarray  # int32 [S]: the turn that each run belongs to, 0-based
    steps: np.ndarray | None = None  # int32 [2K]: start, stop of each step; together they are the runs
    token_text: list[str] | None = None  # of each scored token its part of the text


def encode(turns: list[Turn], tokenizer: Any, how: How, tools: list | None = None) -> Encoded:
    """The conversation as the student's template and tokenizer have it.

    A token belongs to the text that its first character belongs to. No special token is added to what the template
    rendered, so there is never a second BOS. Position 0 has no context and is not scored. Raises BadRow.
    """
    return tokenize(find(turns, tokenizer, how, tools), tokenizer, how)


def tokenize(found: Found, tokenizer: Any, how: How) -> Encoded:
    """Rendered text as tokens, within the length limit. Raises BadRow."""
    text, spoken, whose = found
    backend = tokenizer.backend_tokenizer
    try:
        encoding = backend.encode(text, add_special_tokens=False)
    except BaseException as e:  # a panic inside the tokenizer's Rust code derives from BaseException alone
        if isinstance(e, (KeyboardInterrupt, SystemExit)):
            raise
        raise BadRow("tokenizer_error", one_line(e)) from e
    runs = [(_first_token(encoding, a, len(text)), _first_token(encoding, b, len(text)), i) for (a, b), i in zip(spoken, whose, strict=True)]
    runs = [(max(a, 1), b, i) for a, b, i in runs if max(a, 1) < b]
    if not runs:
        raise BadRow("empty_response", "no token of the assistant's text can be scored")
    length = runs[-1][1]
    truncated = length > how.max_length and how.over_length == "truncate"
    if truncated:
        length = how.max_length
        runs = [(a, min(b, length), i) for a, b, i in runs if a < length]
    if not runs or (length > how.max_length and how.over_length == "reject"):
        way_out = "--over-length truncate or window takes longer rows" if runs else "the prompt alone fills it"
        raise BadRow("over_length", f"{len(encoding)} tokens, limit {how.max_length}; {way_out}")
    starts, stops, owners = np.array(runs, np.int32).T
    return Encoded(
        np.asarray(encoding.ids[:length], np.int32),
        np.stack([starts, stops], 1).reshape(-1),
        truncated,
        owners.copy(),
        steps=_steps(found, runs, encoding, how.steps) if how.steps else None,
        token_text=_token_text(text, runs, encoding) if how.token_text else None,
    )


def _steps(found: Found, runs: list[tuple[int, int, int]], encoding: Any, kind: str) -> np.ndarray:
    """The runs of scored tokens cut where a sentence or paragraph ends: start, stop ... int32 [2K].

    White space behind a step belongs to the next one, as the tokens that begin with it do.
    """
    text, spoken, _ = found
    ends = {_first_token(encoding, start + end.end(), len(text)) for start, stop in spoken for end in STEP_ENDS[kind].finditer(text[start:stop])}
    edges = np.array(sorted(ends), np.int32)
    steps: list[int] = []
    for start, stop, _ in runs:
        inside = [start, *edges[(edges > start) & (edges < stop)], stop]
        steps += itertools.chain.from_iterable(itertools.pairwise(inside))
    return np.array(steps, np.int32)


def _token_text(text: str, runs: list[tuple[int, int, int]], encoding: Any) -> list[str]:
    offsets = [*encoding.offsets, (len(text), len(text))]
    return [text[offsets[t][0] : offsets[t + 1][0] if t + 1 < stop else offsets[t][1]] for start, stop, _ in runs for t in range(start, stop)]


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


# --- the place of the assistant's text in the rendering ---------------------------------------------------------------


def find(turns: list[Turn], tokenizer: Any, how: How, tools: list | None = None) -> Found:
    """As `find_turns` or `find_verbatim`, whichever is asked for, with the system prompt put in where there is none. Raises BadRow."""
    added = bool(how.system_prompt) and all(turn["role"] != "system" for turn in turns)
    if added:
        turns = [{"role": "system", "content": how.system_prompt}, *turns]
    context = {i for i, turn in enumerate(turns) if not turn.get("train", True)}
    turns = [{k: v for k, v in turn.items() if k != "train"} for turn in turns]
    look = find_raw if how.raw else find_verbatim if how.verbatim else find_turns
    try:
        text, spans, whose = look(turns, tokenizer, tools)
    except BadRow as problem:
        if how.raw:
            raise
        without = _without_system(turns, how.system_role)
        if problem.reason != "template_error" or without is None:
            raise _with_way_out(problem, turns, tokenizer, tools, how) from None
        try:
            text, spans, whose = look(without, tokenizer, tools)
        except BadRow:
            raise _with_way_out(problem, turns, tokenizer, tools, how) from None
        whose = [i + 1 for i in whose]
    found = [(span, i - added) for span, i in zip(spans, whose, strict=True) if i not in context]
    return text, [span for span, _ in found], [i for _, i in found]


def _with_way_out(problem: BadRow, turns: list[Turn], tokenizer: Any, tools: list | None, how: How) -> BadRow:
    """The reject of a row that a template cannot take, with the option that can: what is named has been tried."""
    other, name = (find_turns, "template") if how.verbatim else (find_verbatim, "verbatim")
    try:
        other(turns, tokenizer, tools)
    except BadRow:
        way_out = "--render template and verbatim cannot have all of it under this template; --chat-template gives another"
    else:
        way_out = f"--render {name} keeps it"
    return BadRow(problem.reason, f"{problem.detail}; {way_out}")


def _without_system(turns: list[Turn], policy: str) -> list[Turn] | None:
    """The turns for a template without a system role; None where there is no system turn, or the policy is to refuse."""
    if policy == "refuse" or [turn["role"] for turn in turns[:2]] != ["system", "user"]:
        return None
    system, user, *rest = turns
    if policy == "drop":
        return [user, *rest]
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]


def find_turns(turns: list[Turn], tokenizer: Any, tools: list | None = None) -> Found:
    """The rendered conversation; [start, stop) in characters of the assistant's texts in it (content, reasoning, tool calls); their turns.

    White space that the template strips from a text's ends is not in the span; white space that it keeps is. Raises
    BadRow where the template fails, or leaves out or rewrites any of the assistant's text.
    """
    template = tokenizer.get_chat_template()
    plain = _split_reasoning(turns, template)
    try:
        return _find_in_rendering(plain, tokenizer, tools)
    except BadRow as problem:
        field = _field_of(template)
        split = _in_fields(turns, field) if field else plain
        if split == plain:
            raise
        try:
            return _widened(_find_in_rendering(split, tokenizer, tools), turns, split, str(field))
        except BadRow:
            raise problem from None


def _find_in_rendering(turns: list[Turn], tokenizer: Any, tools: list | None) -> Found:
    """What `find_turns` gives, of turns with reasoning in the fields where it is to be."""
    text = render(turns, tokenizer, tools)
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    slots = [Slot(i, field, n) for n, i in enumerate(answers, 1) for field in (*REASONING, "content") if turns[i].get(field, "").strip()]
    spans = _find_texts(turns, slots, text, tokenizer, tools)
    ends = {slot.index: end for slot, (_, end) in zip(slots, spans, strict=True)}
    owned = [(span, slot.index) for span, slot in zip(spans, slots, strict=True)]
    for i, (start, stop) in _find_calls(turns, text, tokenizer, tools).items():
        owned.append(((max(start, ends.get(i, 0)), stop), i))
    owned.sort()
    return text, [span for span, _ in owned], [i for _, i in owned]


def find_raw(turns: list[Turn], tokenizer: Any, tools: list | None = None) -> Found:
    """As `find_turns`, of a prompt that is rendered already: it and the answer as they stand, and nothing else. Raises BadRow."""
    if [turn["role"] for turn in turns] != ["user", "assistant"] or turns[1].get("tool_calls") or tools:
        raise BadRow("template_error", "--render raw takes a rendered prompt and an answer, both text, and the row has more")
    prompt, answer = turns[0]["content"], turns[1]["content"]
    if prompt.rstrip().endswith("<think>") and answer.lstrip().startswith("<think>"):
        prompt = prompt.rstrip().removesuffix("<think>")  # the answer brings its own
    return prompt + answer, [(len(prompt), len(prompt) + len(answer))], [1]


def find_verbatim(turns: list[Turn], tokenizer: Any, tools: list | None = None) -> Found:
    """As `find_turns`, with the assistant's texts as they stand and only what is around them from the template.

    The template renders the conversation up to the generation prompt of the last answer, earlier answers being marks; what a
    template would drop or rewrite of an answer it never sees. This is what most fine-tuning code trains on. Raises BadRow.
    """
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    if any(turns[i].get("tool_calls") for i in answers):
        return _find_verbatim_calls(turns, answers, tokenizer, tools)
    *before, last = answers
    marks = _marks(len(answers), json.dumps(turns, ensure_ascii=False))
    context = [dict(turn) for turn in turns[:last]]
    for i, mark in zip(before, marks, strict=False):
        context[i]["content"] = mark
    opened = render(context, tokenizer, tools, add_generation_prompt=True)
    if opened == render(context, tokenizer, tools):  # no generation prompt: what stands before an answer is the header of one
        opened = render([*context, {"role": "assistant", "content": marks[-1]}], tokenizer, tools).partition(marks[-1])[0]
    if opened.rstrip().endswith("<think>") and turns[last]["content"].lstrip().startswith("<think>"):
        opened = opened.rstrip().removesuffix("<think>")  # the answer brings its own
    text, spans = "", []
    for i, mark in zip(before, marks, strict=False):
        piece, found, opened = opened.partition(mark)
        if not found:
            raise BadRow("template_error", "the template leaves out an earlier answer altogether")
        text += piece
        spans.append((len(text), len(text) + len(turns[i]["content"])))
        text += turns[i]["content"]
    text += opened
    spans.append((len(text), len(text) + len(turns[last]["content"])))
    return text + turns[last]["content"], spans, answers


def _find_verbatim_calls(turns: list[Turn], answers: list[int], tokenizer: Any, tools: list | None) -> Found:
    """As `find_verbatim`, structured calls being what the template makes of them behind a mark."""
    last = answers[-1]
    opens = not turns[last].get("tool_calls")  # the last answer is text alone, behind the generation prompt
    shown = [dict(turn) for turn in (turns[:last] if opens else turns[: last + 1])]
    marks = dict(zip(answers, _marks(len(answers), json.dumps(turns, ensure_ascii=False)), strict=True))
    for i in answers:
        if i < len(shown) and turns[i]["content"].strip():
            shown[i]["content"] = marks[i]
    closed = render(shown, tokenizer, tools)
    calls = _find_calls(shown, closed, tokenizer, tools)
    text = render(shown, tokenizer, tools, add_generation_prompt=True) if opens else closed
    if not text.startswith(closed):
        raise BadRow("template_error", "the template renders a conversation differently when an answer is to follow")
    out, at = "", 0
    owned: list[tuple[tuple[int, int], int]] = []

    def say(said: str, i: int) -> None:
        nonlocal out
        owned.append(((len(out), len(out) + len(said)), i))
        out += said

    for i in answers:
        content = turns[i]["content"]
        if content.strip():
            before = text.find(marks[i], at) if i < len(shown) else len(text)
            if before < 0:
                raise BadRow("template_drops_response", "the template leaves out an earlier answer altogether")
            header = text[at:before]
            if content.lstrip().startswith("<think>"):  # the answer brings its own
                header = re.sub(r"<think>\s*(</think>\s*)?$", "", header)
            out += header
            say(content, i)
            at = before + len(marks[i])
        if i in calls:
            start, stop = calls[i]
            between, call = text[at:start], text[start:stop]
            if content.strip() and content[-1].isspace():
                between, call = "", call.lstrip()
            out += between
            say(call, i)
            at = stop
    return out, [span for span, _ in owned], [i for _, i in owned]


@dataclass(frozen=True)
class Slot:
    """A text of the n-th assistant turn: a field of turn `index`."""

    index: int
    field: str
    n: int


def _field_of(template: str) -> str | None:
    """The field in which a template wants reasoning."""
    return next((name for name in REASONING if re.search(rf"[.'\"]{name}\b", template)), None)


def _split_reasoning(turns: list[Turn], template: str) -> list[Turn]:
    """Leading <think> text moved into the field in which the template wants reasoning, where it does not know <think> itself."""
    field = _field_of(template)
    if field is None or "<think>" in template or "</think>" in template:
        return turns
    return _in_fields(turns, field, alone=False)


def _in_fields(turns: list[Turn], field: str, *, alone: bool = True) -> list[Turn]:
    """Leading <think> text moved into `field`; where `alone`, also of turns that hold nothing else."""
    split = []
    for turn in turns:
        found = re.fullmatch(r"\s*<think>(.*?)</think>(.*)", turn["content"], re.DOTALL) if turn["role"] == "assistant" else None
        if found and found[1].strip() and (alone or found[2].strip() or turn.get("tool_calls")):
            turn = {**turn, field: found[1].strip(), "content": found[2].strip()}
        split.append(turn)
    return split


def _widened(found: Found, turns: list[Turn], split: list[Turn], field: str) -> Found:
    """Spans of reasoning and answer as one span where the rendering has the turn's text as it stood.

    So the tags count as they do where a template takes them with the text.
    """
    text, spans, whose = found
    out: list[tuple[tuple[int, int], int]] = []
    for (start, stop), i in zip(spans, whose, strict=True):
        if out and out[-1][1] == i and start < out[-1][0][1]:  # inside the whole text, or beginning in it
            before, end = out[-1][0]
            out[-1] = (before, max(end, stop)), i
            continue
        whole, thought = turns[i]["content"].strip(), split[i].get(field)
        at = start - whole.find(thought) if thought and text[start:stop] == thought else -1
        if at >= 0 and text[at : at + len(whole)] == whole:
            start, stop = at, at + len(whole)
        out.append(((start, stop), i))
    return text, [span for span, _ in out], [i for _, i in out]


def _find_texts(turns: list[Turn], slots: list[Slot], text: str, tokenizer: Any, tools: list | None) -> list[tuple[int, int]]:
    marks = _marks(len(slots), text)
    if not slots:
        return []

    def marked(*, lead: bool, trail: bool) -> list[str]:
        """The pieces between the marks when each text is itself, a mark, and the white space around on request."""
        changed = [dict(turn) for turn in turns]
        for slot, mark in zip(slots, marks, strict=True):
            content = turns[slot.index][slot.field]
            body = content.strip()
            at = content.index(body)
            before, behind = content[:at], content[at + len(body) :]
            changed[slot.index][slot.field] = (before if lead else "") + body + mark + (behind if trail else "")
        return _split(render(changed, tokenizer, tools), marks, turns, slots, text)

    pieces = marked(lead=True, trail=True)
    if "".join(pieces) != text:
        raise BadRow("template_error", "the template renders a conversation differently when a turn's text is extended by a mark")
    kept_before, kept_behind = [0] * len(slots), [0] * len(slots)
    if any(turns[slot.index][slot.field] != turns[slot.index][slot.field].strip() for slot in slots):
        without_trail = marked(lead=True, trail=False)
        bare = marked(lead=False, trail=False)
        kept_behind = [len(a) - len(b) for a, b in zip(pieces[1:], without_trail[1:], strict=True)]
        kept_before = [len(a) - len(b) for a, b in zip(without_trail[:-1], bare[:-1], strict=True)]

    spans, end = [], 0
    for k, slot in enumerate(slots):
        end += len(pieces[k])
        content = turns[slot.index][slot.field]
        body = content.strip()
        at = content.index(body)
        span = (end - len(body) - kept_before[k], end + kept_behind[k])
        expected = content[at - kept_before[k] : at + len(body) + kept_behind[k]]
        if text[slice(*span)] != expected:
            empty = [dict(turn) for turn in turns]
            for other, mark in zip(slots, marks, strict=True):
                empty[other.index][other.field] = mark
            header = _split(render(empty, tokenizer, tools), marks, turns, slots, text)[k]
            raise _altered(body, pieces[k][len(header) :], slot.n)
        spans.append(span)
    return spans


def _find_calls(turns: list[Turn], text: str, tokenizer: Any, tools: list | None) -> dict[int, tuple[int, int]]:
    """For each turn with tool calls what they are rendered as: what is there with them and is not without them.

    The marks behind the turns of others cut the rendering into segments. Where these come together to the rendering, and
    those without a call are the same when all calls are left out, a segment with one calling turn is compared with itself
    without the calls: two renderings for all of them. Any other turn is left out by itself, a rendering for each.
    """
    calling = [i for i, turn in enumerate(turns) if turn.get("tool_calls")]
    numbers = {i: n for n, i in enumerate((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), 1)}
    found: dict[int, tuple[int, int] | None] = {}
    for (owners, start, piece), without in _segments(turns, text, tokenizer, tools) if len(calling) > 2 else ():
        if len(owners) == 1:
            (i,) = owners
            first, stop = _inserted(piece, without, turns[i], numbers[i], tokenizer)
            found[i] = start + first, start + stop
    for i in calling:
        if i not in found:
            try:
                without = render(_silent(turns, {i}), tokenizer, tools)
            except BadRow as e:
                found[i] = _behind_prompt(text, turns, i, tokenizer, tools)
                if found[i] is None:
                    what = f"cannot find where the tool calls of assistant turn {numbers[i]} lie: without them, {e.detail}"
                    raise BadRow("template_error", what) from e
                continue
            found[i] = _inserted(text, without, turns[i], numbers[i], tokenizer)
    return {i: span for i, span in found.items() if span}


def _behind_prompt(text: str, turns: list[Turn], i: int, tokenizer: Any, tools: list | None) -> tuple[int, int] | None:
    """[start, stop) in `text` of what turn i adds behind the generation prompt; None where that cannot be told.

    For templates that refuse a conversation without its calls. The place is told by a mark behind the turn before, or where
    the template spells that out by all that comes before.
    """
    (mark,) = _marks(1, text)
    marked = [dict(turn) for turn in turns]
    marked[i - 1]["content"] += mark
    for some, cut in [(marked, mark), (turns, "")][i == 0 :]:
        try:
            whole, asked, answered = (
                render(some, tokenizer, tools),
                render(some[:i], tokenizer, tools, add_generation_prompt=True),
                render(some[: i + 1], tokenizer, tools),
            )
        except BadRow:
            continue
        before, *rest = whole.split(cut) if cut else ("", whole)
        ends = [part.split(cut)[-1] if cut else part for part in (asked, answered)]
        if len(rest) != 1 or before + rest[0] != text or not (rest[0].startswith(ends[1]) and ends[1].startswith(ends[0])):
            continue
        start, stop = len(before) + len(ends[0]), len(before) + len(ends[1])
        eos = str(getattr(tokenizer, "eos_token", None) or "")
        if eos and text[start:stop].endswith(eos):
            stop -= len(eos)
        if not _lacks_call(text[start:stop], turns[i]):
            return start, stop
    return None


Segment = tuple[list[int], int, str]  # turns with calls in it; where it starts in the rendering; its text


def _segments(turns: list[Turn], text: str, tokenizer: Any, tools: list | None) -> list[tuple[Segment, str]]:
    """The rendering cut behind the turns that are not an assistant's, each segment with what it is without any calls.

    Nothing where the template takes the marks or the missing calls for more than that.
    """
    others = [i for i, turn in enumerate(turns) if turn["role"] != "assistant"]
    if not others:
        return []
    marks = _marks(len(others), text)
    marked = [dict(turn) for turn in turns]
    for i, mark in zip(others, marks, strict=True):
        content = marked[i]["content"]
        behind = len(content.rstrip())
        marked[i]["content"] = content[:behind] + mark + content[behind:]
    try:
        pieces = _cut(render(marked, tokenizer, tools), marks)
        silent = _cut(render(_silent(marked, {*range(len(turns))}), tokenizer, tools), marks)
    except BadRow:
        return []
    if "".join(pieces) != text or len(pieces) != len(silent) or len(pieces) != len(marks) + 1:
        return []
    segments, start = [], 0
    borders = [-1, *others, len(turns)]
    for piece, without, (before, behind) in zip(pieces, silent, itertools.pairwise(borders), strict=True):
        owners = [i for i in range(before + 1, behind) if turns[i].get("tool_calls")]
        if not owners and piece != without:
            return []
        segments.append(((owners, start, piece), without))
        start += len(piece)
    return segments


def _cut(text: str, marks: list[str]) -> list[str]:
    """A text cut at marks, which are gone; a single piece where they do not stand in it once each and in their order."""
    mark = re.compile(f"{marks[0][0]}[0-9]+{marks[0][-1]}")
    return mark.split(text) if mark.findall(text) == marks else [text]


def _silent(turns: list[Turn], which: set[int]) -> list[Turn]:
    return [{k: v for k, v in turn.items() if i not in which or k != "tool_calls"} for i, turn in enumerate(turns)]


def _inserted(text: str, without: str, turn: Turn, n: int, tokenizer: Any) -> tuple[int, int]:
    """[start, stop) in `text` of the calls of the n-th assistant turn, which `without` lacks. Raises BadRow."""
    behind = _n_equal(reversed(text), reversed(without))
    before = _n_equal(text, without[: len(without) - behind])
    start, stop = before, len(text) - behind
    # Where what follows begins as the calls end ("|>", say), they could lie some characters further on: not inside a marker.
    shift = next((k for k in range(_n_equal(text[start:], text[stop:]) + 1) if text[start + k : start + k + 1] in "<[{\n "), 0)
    span = start + shift, stop + shift
    eos = str(getattr(tokenizer, "eos_token", None) or "")
    if eos and text[slice(*span)].endswith(eos):  # a template that ends a turn only where there is something in it
        span = span[0], span[1] - len(eos)
    if _lacks_call(text[slice(*span)], turn):
        raise BadRow("template_drops_response", f"assistant turn {n}: the template leaves out its tool calls")
    return span


def _lacks_call(text: str, turn: Turn) -> bool:
    """Whether the rendering of a turn's calls lacks one of them: some templates write the first alone.

    Names count as often as they are called; of arguments, whose quotes and letters may be escaped in several ways, the words.
    """
    names = Counter(call["function"]["name"] for call in turn["tool_calls"])
    words = {word for call in turn["tool_calls"] for part in _strings(call["function"]["arguments"]) for word in WORD.findall(part)}
    return any(text.count(name) < n for name, n in names.items()) or any(word not in text for word in words)


def _strings(value: Any) -> Iterator[str]:
    """The keys and texts of a JSON value."""
    if isinstance(value, dict):
        for key, some in value.items():
            yield key
            yield from _strings(some)
    elif isinstance(value, list):
        for some in value:
            yield from _strings(some)
    elif isinstance(value, str):
        yield value


def _n_equal(a: Iterable[str], b: Iterable[str]) -> int:
    """Of how many characters two texts begin alike."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def render(turns: list[Turn], tokenizer: Any, tools: list | None = None, *, add_generation_prompt: bool = False) -> str:
    """The conversation through the student's chat template. Raises BadRow."""
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = FIXED_DATE + template
    given: tuple[list | None, ...] = (tools,) if tools else (None, []) if "tools" in template else (None,)  # some loop over them unasked
    called = [turns, _spelt_out(turns)] if any(turn.get("tool_calls") for turn in turns) else [turns]
    for functions, conversation in itertools.product(given, called):
        try:
            more = {"chat_template": template, "tokenize": False, "add_generation_prompt": add_generation_prompt}
            return tokenizer.apply_chat_template(conversation, tools=functions, **more)
        except Exception as e:  # the template is a program of its own, and anything can go wrong in it
            problem = e
    raise BadRow("template_error", one_line(problem)) from problem


def _spelt_out(turns: list[Turn]) -> list[Turn]:
    """The arguments of tool calls as JSON text, which some templates want in place of a mapping."""
    out = []
    for turn in turns:
        if calls := turn.get("tool_calls"):
            turn = {**turn, "tool_calls": [{**c, "function": {**c["function"], "arguments": json.dumps(c["function"]["arguments"])}} for c in calls]}
        out.append(turn)
    return out


def _marks(n: int, text: str) -> list[str]:
    """n strings that do not occur in the text: private-use characters, which are not white space to any template."""
    free = [chr(c) for c in range(0xE000, 0xF8FF) if chr(c) not in text][:2]
    if len(free) < 2:
        raise BadRow("template_error", "the conversation uses every private-use character")
    return [free[0] + str(i) + free[1] for i in range(n)]


def _split(text: str, marks: list[str], turns: list[Turn], slots: list[Slot], plain: str) -> list[str]:
    pieces = []
    for mark, slot in zip(marks, slots, strict=True):
        piece, found, text = text.partition(mark)
        if not found:
            if turns[slot.index][slot.field].strip() not in plain:
                raise BadRow("template_drops_response", f"assistant turn {slot.n} is not in the rendering")
            raise BadRow("template_error", f"cannot find where assistant turn {slot.n} ends in the rendering")
        pieces.append(piece)
    return [*pieces, text]


def _altered(body: str, rendered: str, n: int) -> BadRow:
    """The reject for a turn of which the template made something else."""
    if len("".join(rendered.split())) < len("".join(body.split())):
        kept = f"{len(rendered)} of {len(body)} characters"
        return BadRow("template_drops_response", f"assistant turn {n}: the template leaves out text: {kept} are rendered")
    at = next((i for i, (a, b) in enumerate(zip(body, rendered, strict=False)) if a != b), len(rendered))
    return BadRow("template_changes_response", f"assistant turn {n}: the template rewrites {body[at : at + 40]!r} as {rendered[at : at + 40]!r}")
