"""Row formats that people have, each in a row of its own making: what is scored of it, or why it is
refused.

The names say where a format comes from. What files they lie in is in test_read.py and
test_listing.py, the same under real templates in test_agent_turns.py, at random in
test_fuzz_text.py.
"""

import json
from typing import Any

import pytest

from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.reading import Reading, trajectories
from rsr_ray.encode.how import How
from rsr_ray.encode.locate import find
from rsr_ray.encode.tokens import tokenize
from rsr_ray.errors import BadRow
from rsr_ray.files.objects import InputObject

from .test_encode import CHATML, DROPS_THINK
from .test_forms import FIELD, NO_SYSTEM, THOUGHT

OBJ = InputObject(uri="/corpus/teacher=T/a.jsonl", version="v", size=1)
Q = {"role": "user", "content": "2+2?"}
TOOL = {"role": "tool", "content": "4"}
CALL = {"id": "c", "type": "function", "function": {"name": "sum", "arguments": '{"a": 2, "b": 2}'}}
CALLING = CHATML.replace(
    "{{ m['content'] }}",
    (
        "{{ m['content'] or '' }}{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson "
        "}}</call>{% endfor %}"
    ),
)
THINKS_FIRST = CHATML + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
EMPTY_THINK = CHATML.replace(
    "{{ m['content'] }}",
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}",
)
TAGGED = CHATML.replace(
    "{{ m['content'] }}", "{% generation %}{{ m['content'] }}{% endgeneration %}"
)
SUM = '<call>{"name": "sum", "arguments": {"a": 2, "b": 2}}</call>'


def says(content: Any, **more: Any) -> dict:
    return {"role": "assistant", "content": content, **more}


def case(
    row: dict,
    expected: Any,
    *,
    columns: dict | None = None,
    template: str = CHATML,
    roles: dict | None = None,
    **how: Any,
) -> tuple:
    return row, expected, Reading(columns=columns or {}, roles=roles or {}), template, how


def reject(reason: str, detail: str = "") -> tuple[str, str]:
    return reason, detail


S1K = {"thinking": "{teacher}_thought", "response": "{teacher}_said", "prompt": "q"}
CASES = {
    "01 list of generations, mapped": case(
        {"problem": "2+2?", "generations": ["4", "four"], "messages": [Q, says("4")]},
        [["4"], ["four"]],
        columns={"prompt": "problem", "response": "generations"},
    ),
    "02 reasoning on or off": case({"messages": [Q, says("4")], "reasoning": "on"}, [["4"]]),
    "04 two teachers in columns": case(
        {"q": "2+2?", "g_said": "4", "g_thought": "Two.", "d_said": "four", "d_thought": "Count."},
        [["<think>\nCount.\n</think>\n\nfour"], ["<think>\nTwo.\n</think>\n\n4"]],
        columns=S1K,
    ),
    "05 batch inference keeps the messages beside the text": case(
        {"messages": [Q], "generated_text": "4", "generated_tokens": [1]},
        [["4"]],
        columns={"prompt": "messages", "response": "generated_text"},
    ),
    "06 history": case(
        {"instruction": "and 3+3?", "input": "", "output": "6", "history": [["2+2?", "4"]]}, [["6"]]
    ),
    "07 messages as JSON text": case({"messages": json.dumps([Q, says("4")])}, [["4"]]),
    "08 ai turns with a text": case(
        {
            "trajectory": [
                {"role": "system", "text": None, "system_prompt": "Be kind.", "mask": False},
                {"role": "user", "text": "2+2?", "cutoff_date": "x"},
                {"role": "ai", "text": "4", "mask": True},
            ]
        },
        [["4"]],
        columns={"messages": "trajectory"},
    ),
    "09 thinking blocks": case(
        {
            "messages": [
                Q,
                says(
                    [
                        {"type": "thinking", "thinking": "Two.", "signature": "s"},
                        {"type": "text", "text": "4"},
                    ]
                ),
            ]
        },
        [["<think>\nTwo.\n</think>\n\n4"]],
    ),
    "10 cut off in its reasoning": case(
        {"messages": [Q, says(None, reasoning_content="Two and", finish_reason="length")]},
        [["<think>\nTwo and"]],
    ),
    "11 think text of another spacing": case(
        {"messages": [Q, says("<think>Two.</think><answer>4</answer>")]},
        [["<think>Two.</think><answer>4</answer>"]],
    ),
    "12 a field for reasoning in the template": case(
        {"messages": [Q, says("4", reasoning_content="Two.")]}, [["Two.", "4"]], template=FIELD
    ),
    "13 reasoning of earlier turns, dropped": case(
        {"messages": [Q, says(f"{THOUGHT}\n\n4"), Q, says("4")]},
        reject("template_drops_response", "--render verbatim keeps it"),
        template=DROPS_THINK,
    ),
    "13 the same verbatim": case(
        {"messages": [Q, says(f"{THOUGHT}\n\n4"), Q, says("4")]},
        [[f"{THOUGHT}\n\n4", "4"]],
        template=CHATML + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        verbatim=True,
    ),
    "13b reasoning, then a call": case(
        {"messages": [Q, says("", reasoning="Add.", tool_calls=[CALL]), TOOL, says("4")]},
        [["<think>\nAdd.\n</think>\n\n", SUM, "4"]],
        template=CALLING,
    ),
    "14 nulls as Arrow pads them": case(
        {
            "messages": [
                Q | {"tool_calls": None, "name": None},
                says("", tool_calls=[{**CALL, "extra": None}], name=None),
                {"role": "tool", "content": "4", "tool_calls": None},
            ]
        },
        [[SUM]],
        template=CALLING,
    ),
    "16 a closing tag without its opening": case(
        {"prompt": "2+2?", "response": "Two.\n</think>\n\n4"},
        [["Two.\n</think>\n\n4"]],
        template=THINKS_FIRST,
        verbatim=True,
    ),
    "17 an empty think block of the template": case(
        {"messages": [Q, says("4")]}, [["4"]], template=EMPTY_THINK
    ),
    "18 environment and function_calls": case(
        {
            "messages": [
                Q,
                says(None, function_calls="sum(2, 2)"),
                {"role": "environment", "content": "4"},
                says("4"),
            ]
        },
        [["sum(2, 2)", "4"]],
    ),
    "19 one failed sample": case(
        {"prompt": "2+2?", "response": ["4", None, "four"]},
        [["4"], reject("empty_response"), ["four"]],
    ),
    "20 prompt and completion of turns": case({"prompt": [Q], "completion": [says("4")]}, [["4"]]),
    "21 a thinking field": case(
        {"messages": [Q, says("4", thinking="Two.")]}, [["<think>\nTwo.\n</think>\n\n4"]]
    ),
    "22 a system turn and no place for it": case(
        {"messages": [{"role": "system", "content": "Be kind."}, Q, says("4")]},
        [["4"]],
        template=NO_SYSTEM,
    ),
    "23 a call and content null": case(
        {"messages": [Q, says(None, tool_calls=[CALL])]}, [[SUM]], template=CALLING
    ),
    "25 an id that is the problem's": case(
        {"id": "p1", "prompt": "2+2?", "response": "4"}, [["4"]]
    ),
    "35 a rendered prompt, raw": case(
        {"prompt": "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n", "response": "4"},
        [["4"]],
        raw=True,
    ),
    "37 names of its own": case(
        {
            "problem": "2+2?",
            "generated_solution": "4",
            "generation_model": "M",
            "inference_mode": "cot",
        },
        [["4"]],
        columns={
            "prompt": "problem",
            "response": "generated_solution",
            "teacher": "generation_model",
        },
    ),
    "39 calls in Parquet": case(
        {"trajectory": [Q, says("I add.", tool_calls=[CALL], tool_call_id=None, name=None)]},
        [["I add.", SUM]],
        columns={"messages": "trajectory"},
        template=CALLING,
    ),
    "40 info beside the text": case(
        {
            "system": None,
            "conversations": [
                {"from": "human", "value": "2+2?", "info": {"s": 1}},
                {"from": "assistant", "value": "4", "info": {"think_content": "x"}},
            ],
        },
        [["4"]],
    ),
    "40 query and response": case({"query": "2+2?", "response": "4", "history": None}, [["4"]]),
    "40 input and output": case({"input": "2+2?", "output": "4", "license": "mit"}, [["4"]]),
    "44 a column that only some rows have": case(
        {"prompt": "2+2?", "response": "4"}, [["4"]], columns={"prompt_id": "group"}
    ),
    "46 arguments that are no JSON": case(
        {
            "messages": [
                Q,
                says("", tool_calls=[{"function": {"name": "sum", "arguments": '{"a": '}}]),
            ]
        },
        reject("tool_calls", "not JSON"),
    ),
    "47 generation tags": case(
        {"messages": [Q, says("4"), Q, says("four")]}, [["4", "four"]], template=TAGGED
    ),
    "roles of their own": case(
        {"messages": [{"role": "asker", "content": "2+2?"}, {"role": "solver", "content": "4"}]},
        [["4"]],
        roles={"asker": "user", "solver": "assistant"},
    ),
    "a key that nothing reads": case(
        {"messages": [Q, says("4", analysis="Two.")]}, reject("unread_content", "analysis")
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_format(templated, name):
    row, expected, reading, template, how = CASES[name]
    found: list[Any] = []
    for n, (one, _) in enumerate(trajectories(row, reading)):
        read = canonical(one, OBJ, n, reading)
        if read["reject_reason"]:
            found.append((read["reject_reason"], read["reject_detail"]))
            continue
        try:
            text, spans, *_ = find(
                json.loads(read["messages"]), templated(template), How(max_length=999, **how)
            )
            found.append([text[start:stop] for start, stop in spans])
        except BadRow as e:
            found.append((e.reason, e.detail))
    wanted = [expected] if isinstance(expected, tuple) else expected
    assert len(found) == len(wanted), found
    for got, want in zip(found, wanted, strict=True):
        if isinstance(want, tuple):
            assert got[0] == want[0]
            assert want[1] in got[1]
        else:
            assert got == want


def test_of_a_truncated_answer_the_part_that_fits_is_scored(templated):
    how = How(max_length=40, over_length="truncate", token_text=True)
    tokenizer = templated(CHATML)
    found = find([Q, says("word " * 40)], tokenizer, how)
    encoded = tokenize(found, tokenizer, how)
    assert encoded.truncated
    assert "".join(encoded.token_text).startswith("word")
    assert len(encoded.input_ids) == 40
