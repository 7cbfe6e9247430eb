"""The spans of scored tokens, whatever the template writes around the assistant's text."""

import copy
import json
import re

import pytest

from rsr_ray.corpus.reading import Reading
from rsr_ray.encode.encode import encode
from rsr_ray.encode.how import How
from rsr_ray.encode.locate import find, find_turns
from rsr_ray.encode.rendering import render
from rsr_ray.encode.verbatim import find_verbatim
from rsr_ray.errors import BadRow
from rsr_ray.schema import REJECT_REASONS

from .conftest import DEMO_STUDENT, SHARED, needs_shared

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
)
DROPS_THINK = (
    "{% for m in messages %}{% set c = m['content'] %}{% if m['role'] == 'assistant' and "
    "'</think>' in c %}"
    "{% set c = c.split('</think>')[-1] %}{% endif %}[{{ m['role'] }}]{{ c }}{% endfor %}"
)
REWRITES = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | replace('\n\n', '\n') }}</s>{% "
    "endfor %}"
)
SHOUTS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | upper }}</s>{% endfor %}"
QUOTES_LAST = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}Last: {{ "
    "messages[-1]['content'][:99] }}"
)
ONLY_LAST = (
    "<{{ messages[0]['role'] }}>{{ messages[0]['content'] }}<a>{{ messages[-1]['content'] }}</a>"
)

TWO_ANSWERS = [
    {"role": "user", "content": "assistant\nWhat is 2+2?"},
    {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is 4."},
    {"role": "user", "content": "It is 4. <|im_start|>assistant\nReally? 🤔"},
    {"role": "assistant", "content": "It is 4. Ja, vier — 四."},
]


def spans_text(messages, tokenizer) -> list[str]:
    text, turns, *_ = find_turns(messages, tokenizer)
    return [text[a:b] for a, b in turns]


@pytest.mark.parametrize("template", [CHATML, LLAMA3], ids=["chatml", "llama3"])
def test_spans_hold_the_text_of_every_answer(templated, template):
    assert spans_text(TWO_ANSWERS, templated(template)) == [
        m["content"] for m in TWO_ANSWERS if m["role"] == "assistant"
    ]


def test_a_marker_in_the_text_of_a_turn_is_text(templated):
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "a<|im_end|>\n<|im_start|>assistant\nb"},
    ]
    assert spans_text(messages, templated(CHATML)) == [messages[1]["content"]]


@pytest.mark.parametrize("around", [("", "\n"), ("\n", ""), (" \n", "\n\n "), ("\n\n", "\n")])
def test_white_space_at_a_turns_ends(templated, around):
    messages = copy.deepcopy(TWO_ANSWERS)
    for m in messages:
        m["content"] = around[0] + m["content"] + around[1]
    assert spans_text(messages, templated(CHATML)) == [
        m["content"] for m in messages if m["role"] == "assistant"
    ]
    assert spans_text(messages, templated(LLAMA3)) == [
        m["content"] for m in TWO_ANSWERS if m["role"] == "assistant"
    ]


@pytest.mark.parametrize(
    ("template", "reason", "says"),
    [
        (DROPS_THINK, "template_drops_response", "leaves out"),
        (REWRITES, "template_changes_response", "rewrites"),
        (SHOUTS, "template_changes_response", "turn 1"),
        (ONLY_LAST, "template_drops_response", "turn 1"),
        ("{{ raise_exception('roles must alternate') }}", "template_error", "roles must alternate"),
        (QUOTES_LAST, "template_error", "differently|cannot find"),
        ("{{ messages[0].nothing.more }}", "template_error", "nothing"),
    ],
)
def test_a_template_that_does_not_keep_the_text_is_a_reject(templated, template, reason, says):
    with pytest.raises(BadRow, match=says) as caught:
        find_turns(
            TWO_ANSWERS[:1] + TWO_ANSWERS[3:] if template is QUOTES_LAST else TWO_ANSWERS,
            templated(template),
        )
    assert caught.value.reason == reason
    assert reason in REJECT_REASONS


def test_dropped_thinking_is_no_reject_where_there_is_none(templated):
    assert spans_text([TWO_ANSWERS[0], TWO_ANSWERS[3]], templated(DROPS_THINK)) == [
        TWO_ANSWERS[3]["content"]
    ]


def test_todays_date_is_not_in_the_rendering(templated):
    template = (
        "\n{% if strftime_now is defined %}\n  {{ strftime_now('%d %b %Y') }}{% endif %}" + CHATML
    )
    assert render(TWO_ANSWERS, templated(template)).startswith("\n  26 Jul 2024<|im_start|>")


def test_tokens_of_the_spans_decode_to_the_answers(tokenizer):
    ids, spans, *_ = encode(TWO_ANSWERS, tokenizer, How(max_length=10_000))
    texts = [tokenizer.decode(ids[a:b]) for a, b in spans.reshape(-1, 2)]
    assert texts == [m["content"] for m in TWO_ANSWERS if m["role"] == "assistant"]
    assert len(ids) == spans[-1]  # nothing behind the last scored token
    whole = tokenizer(render(TWO_ANSWERS, tokenizer), add_special_tokens=False)["input_ids"]
    assert ids.tolist() == whole[: len(ids)]


def test_never_a_second_bos(templated):
    tokenizer = templated("{{ '<|endoftext|>' }}" + CHATML)
    ids, *_ = encode(TWO_ANSWERS, tokenizer, How(max_length=10_000))
    bos = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert (ids[0], ids[1] == bos) == (bos, False)


def test_the_first_token_has_no_context_and_is_not_scored(templated):
    tokenizer = templated("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    ids, spans, *_ = encode(
        [{"role": "assistant", "content": "The answer is 4."}], tokenizer, How(max_length=100)
    )
    assert spans.tolist() == [1, len(ids)]
    with pytest.raises(BadRow) as caught:
        encode([{"role": "assistant", "content": "."}], tokenizer, How(max_length=100))
    assert caught.value.reason == "empty_response"


def test_a_row_over_the_limit_is_rejected(tokenizer):
    ids, *_ = encode(TWO_ANSWERS, tokenizer, How(max_length=10_000))
    encode(TWO_ANSWERS, tokenizer, How(max_length=len(ids)))
    with pytest.raises(BadRow, match=rf"tokens, limit {len(ids) - 1}; --over-length"):
        encode(TWO_ANSWERS, tokenizer, How(max_length=len(ids) - 1))


def test_a_row_over_the_limit_is_cut_or_left_whole_where_asked(tokenizer):
    ids, spans, cut, *_ = encode(
        TWO_ANSWERS, tokenizer, How(max_length=10_000, over_length="truncate")
    )
    assert not cut
    for limit in (len(ids) - 1, int(spans[2]) + 1, int(spans[2]), int(spans[0]) + 1):
        fewer, kept, cut, *_ = encode(
            TWO_ANSWERS, tokenizer, How(max_length=limit, over_length="truncate")
        )
        assert cut
        assert fewer.tolist() == ids[:limit].tolist()
        wanted = [p for a, b in spans.reshape(-1, 2) for p in range(a, b) if p < limit]
        assert [p for a, b in kept.reshape(-1, 2) for p in range(a, b)] == wanted
    with pytest.raises(BadRow, match="the prompt alone fills it"):
        encode(TWO_ANSWERS, tokenizer, How(max_length=int(spans[0]), over_length="truncate"))
    whole = encode(TWO_ANSWERS, tokenizer, How(max_length=5, over_length="window"))
    assert (whole[0].tolist(), whole[1].tolist(), whole[2]) == (ids.tolist(), spans.tolist(), False)


def test_a_panic_in_the_tokenizer_is_a_reject(tokenizer):
    class Panic(BaseException):
        pass

    class Backend:
        def encode(self, *_, **__):
            raise Panic("index out of range")

    class Tokenizer:
        backend_tokenizer = Backend()
        apply_chat_template = tokenizer.apply_chat_template
        get_chat_template = tokenizer.get_chat_template

    with pytest.raises(BadRow, match="Panic: index out of range") as caught:
        encode(TWO_ANSWERS, Tokenizer(), How(max_length=100))
    assert caught.value.reason == "tokenizer_error"


# --- real templates--------------------------------------------------------------------------------

TEMPLATES = (
    sorted(p.stem for p in (SHARED / "chat_templates").glob("*.jinja")) if SHARED.is_dir() else []
)
PLAIN = [
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "It is 4.\n\nYes, 4."},
]
THINKING = [
    PLAIN[0],
    {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is 4."},
]
# What these templates do to <think> text in the last answer; every other one keeps it.
DROP = {
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-V3.1",
    "llama-cpp-deepseek-r1",
    "llama-cpp-rwkv-world",
}
# These take reasoning in a field of its own and write their own marks around it.
FIELD = {"ByteDance-Seed-OSS", "openai-gpt-oss-120b"}


@needs_shared
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("messages", [PLAIN, THINKING], ids=["plain", "thinking"])
def test_real_templates(templated, name, messages):
    tokenizer = templated((SHARED / "chat_templates" / f"{name}.jinja").read_text())
    if messages is THINKING and name in DROP:
        with pytest.raises(BadRow) as caught:
            find_turns(messages, tokenizer)
        assert caught.value.reason == "template_drops_response"
    elif messages is THINKING and name in FIELD:
        assert spans_text(messages, tokenizer) == ["Two and two.", "It is 4."]
    else:
        assert spans_text(messages, tokenizer) == [messages[1]["content"]]


@needs_shared
def test_real_conversations_keep_their_text(tokenizer):
    from rsr_ray.corpus.canonical import canonical
    from rsr_ray.corpus.rows import iter_rows
    from rsr_ray.corpus.shards import list_corpus

    (obj,) = list_corpus(
        (str(SHARED / "corpus/puzzles/teacher=QwQ-32b/part-00000.jsonl.gz"),), None
    )
    for index, row in enumerate(iter_rows(obj, None, {})):
        messages = json.loads(canonical(row, obj, index, Reading())["messages"])
        assert spans_text(messages, tokenizer) == [
            m["content"] for m in messages if m["role"] == "assistant"
        ]


# --- reasoning, tools, verbatim--------------------------------------------------------------------

CALL = {
    "type": "function",
    "id": "call00001",
    "function": {"name": "weather", "arguments": {"city": "Paris"}},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "d",
            "parameters": {"type": "object", "properties": {}},
        },
    }
]
AGENT = [
    {"role": "user", "content": "Weather in Paris?"},
    {
        "role": "assistant",
        "content": "<think>\nI should look.\n</think>\n\nLet me look.",
        "tool_calls": [CALL],
    },
    {"role": "tool", "content": "12 C", "name": "weather", "tool_call_id": "call00001"},
    {"role": "assistant", "content": "<think>\nIt is 12.\n</think>\n\n12 degrees."},
]
HERMES_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
KIMI_CALL = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
    '{"city": "Paris"}<|tool_call_end|><|tool_calls_section_end|>'
)
SEED_CALL = (
    "<seed:tool_call>\n<function=weather>\n<parameter=city>Paris</parameter>\n"
    "</function>\n</seed:tool_call>"
)
DEEPSEEK_CALL = (
    '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": '
    '"Paris"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
)
THOUGHT = [AGENT[1]["content"], AGENT[3]["content"]]
# What is scored of two answers with reasoning, a call and a tool's answer between them; a reason
# where the template does not keep it.
SCORED = {
    "ByteDance-Seed-OSS": [
        "I should look.",
        "Let me look.",
        "\n\n" + SEED_CALL,
        "It is 12.",
        "12 degrees.",
    ],
    "Mistral-Small-3.2-24B-Instruct-2506": "template_drops_response",
    "NVIDIA-Nemotron-Nano-v2": "template_drops_response",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "template_drops_response",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "template_drops_response",
    "Qwen-QwQ-32B": "template_drops_response",
    "Qwen-Qwen2.5-7B-Instruct": [THOUGHT[0], "\n" + HERMES_CALL, THOUGHT[1]],
    "Qwen-Qwen3-0.6B": [THOUGHT[0], "\n" + HERMES_CALL, THOUGHT[1]],
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "template_drops_response",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "template_drops_response",
    "deepseek-ai-DeepSeek-V3.1": [THOUGHT[0], DEEPSEEK_CALL, THOUGHT[1]],
    "google-gemma-2-2b-it": "template_error",
    "ibm-granite-granite-3.3-2B-Instruct": "template_drops_response",
    "llama-cpp-deepseek-r1": "template_error",
    "llama-cpp-rwkv-world": "template_drops_response",
    "meta-llama-Llama-3.1-8B-Instruct": "template_drops_response",
    "meta-llama-Llama-3.2-3B-Instruct": "template_drops_response",
    "meta-llama-Llama-3.3-70B-Instruct": "template_drops_response",
    "microsoft-Phi-3.5-mini-instruct": "template_drops_response",
    "mistralai-Mistral-Nemo-Instruct-2407": "template_drops_response",
    "moonshotai-Kimi-K2": [THOUGHT[0], KIMI_CALL, THOUGHT[1]],
    "openai-gpt-oss-120b": "template_error",
    "unsloth-mistral-Devstral-Small-2507": [
        THOUGHT[0],
        '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}',
        THOUGHT[1],
    ],
}


def real(templated, name):
    return templated((SHARED / "chat_templates" / f"{name}.jinja").read_text())


@needs_shared
@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_scored_of_an_agents_trace(templated, name):
    tokenizer, want = real(templated, name), SCORED[name]
    if isinstance(want, str):
        with pytest.raises(BadRow) as caught:
            find_turns(AGENT, tokenizer, TOOLS)
        assert caught.value.reason == want
    else:
        text, spans, whose, *_ = find_turns(AGENT, tokenizer, TOOLS)
        assert [text[a:b] for a, b in spans] == want
        assert whose == sorted(whose)
        assert {*whose} == {1, 3}


@needs_shared
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("Qwen-Qwen2.5-7B-Instruct", HERMES_CALL),
        ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", HERMES_CALL),
        ("moonshotai-Kimi-K2", KIMI_CALL),
        ("deepseek-ai-DeepSeek-V3.1", DEEPSEEK_CALL),
        (
            "meta-llama-Llama-3.1-8B-Instruct",
            '{"name": "weather", "parameters": {"city": "Paris"}}',
        ),
        (
            "NVIDIA-Nemotron-Nano-v2",
            '<TOOLCALL>[{"name": "weather", "arguments": {"city": "Paris"}}]</TOOLCALL>',
        ),
        ("unsloth-mistral-Devstral-Small-2507", '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}'),
    ],
)
def test_a_turn_that_is_a_call_and_nothing_else(templated, name, call):
    turns = [
        AGENT[0],
        {**AGENT[1], "content": ""},
        AGENT[2],
        {"role": "assistant", "content": "12 degrees."},
    ]
    text, spans, *_ = find_turns(turns, real(templated, name), TOOLS)
    assert [text[a:b] for a, b in spans] == [call, "12 degrees."]


@needs_shared
@pytest.mark.parametrize("name", TEMPLATES)
def test_verbatim_keeps_every_answer_under_every_template(templated, name):
    text, spans, *_ = find_verbatim(TWO_ANSWERS, real(templated, name))
    answers = [turn["content"] for turn in TWO_ANSWERS if turn["role"] == "assistant"]
    assert [text[a:b] for a, b in spans] == answers
    assert text.endswith(answers[-1])
    assert TWO_ANSWERS[2]["content"] in text[spans[0][1] : spans[1][0]]
    assert "<think>" not in text[: spans[0][0]].removesuffix("<think>")


@pytest.mark.parametrize("white", [" ", "\n", "\n\n  ", "\t", " \u3000"])
def test_a_turn_that_begins_with_white_space_is_scored_whole(templated, white):
    """Whatever token the header's line break and the white space are one of: a search for the
    header's ids would miss them.
    """
    turns = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": f"{white}It is 4."},
    ]
    for verbatim in (False, True):
        text, ((start, stop),), *_ = find(
            turns, templated(CHATML), How(max_length=999, verbatim=verbatim)
        )
        assert text[start:stop] == f"{white}It is 4."
        encoded = encode(
            turns, templated(CHATML), How(max_length=999, verbatim=verbatim, token_text=True)
        )
        assert "".join(encoded.token_text).strip() == "It is 4."


@needs_shared
@pytest.mark.parametrize("name", ["Qwen-QwQ-32B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"])
def test_the_reject_names_the_way_out(templated, name):
    with pytest.raises(BadRow, match="--render verbatim keeps it"):
        find(TWO_ANSWERS, real(templated, name), How(max_length=10**6))


def test_a_generation_prompt_that_opens_the_thinking_does_not_open_it_twice(templated):
    tokenizer = templated(
        CHATML + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    text, ((start, _),), *_ = find_verbatim(TWO_ANSWERS[:2], tokenizer)
    assert text.count("<think>") == 1
    assert text[:start].endswith("<|im_start|>assistant\n")


def test_the_system_prompt_is_added_where_there_is_none(tokenizer):
    def decoded(turns, **how):
        return tokenizer.decode(encode(turns, tokenizer, How(max_length=1000, **how))[0])

    own = [{"role": "system", "content": "Mine."}, *TWO_ANSWERS]
    assert "Be brief." in decoded(TWO_ANSWERS, system_prompt="Be brief.")
    assert decoded(own, system_prompt="Be brief.") == decoded(own)


def test_a_template_for_a_base_model():
    from rsr_ray.student.tokenizer import CHAT_TEMPLATES, load_tokenizer

    for name, template in CHAT_TEMPLATES.items():
        tokenizer = load_tokenizer(str(DEMO_STUDENT), template)
        assert spans_text(TWO_ANSWERS, tokenizer) == [
            turn["content"] for turn in TWO_ANSWERS if turn["role"] == "assistant"
        ], name
        text, spans, *_ = find_verbatim(TWO_ANSWERS, tokenizer)
        assert [text[a:b] for a, b in spans] == spans_text(TWO_ANSWERS, tokenizer)
        assert render(TWO_ANSWERS, tokenizer).startswith(text)


# --- what a scan for markers would get wrong-------------------------------------------------------

SCANS = {  # the header and the end of an assistant turn, as a table of markers has them
    "Qwen-Qwen2.5-7B-Instruct": ("<|im_start|>assistant\n", "<|im_end|>"),
    "meta-llama-Llama-3.1-8B-Instruct": (
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "microsoft-Phi-3.5-mini-instruct": ("<|assistant|>\n", "<|end|>"),
    "google-gemma-2-2b-it": ("<start_of_turn>model\n", "<end_of_turn>"),
    "mistralai-Mistral-Nemo-Instruct-2407": ("[/INST]", "</s>"),
}


@needs_shared
@pytest.mark.parametrize("name", SCANS)
def test_a_scan_for_markers_takes_text_for_markers(templated, name):
    """A user asks about the format and the answer quotes it: the scan scores the question and
    cuts the answer.
    """
    header, end = SCANS[name]
    turns = [
        {"role": "user", "content": f"What does {header}hello{end} mean?"},
        {
            "role": "assistant",
            "content": f"A turn that says hello: {header}hello{end} is how it is written.",
        },
    ]
    tokenizer = real(templated, name)
    text, spans, *_ = find_turns(turns, tokenizer)
    scanned = [
        m.span(1) for m in re.finditer(f"{re.escape(header)}(.*?){re.escape(end)}", text, re.DOTALL)
    ]
    assert [text[a:b] for a, b in spans] == [turns[1]["content"]]
    assert scanned != spans
    assert any(text[a:b] == "hello" for a, b in scanned)


def test_a_template_with_generation_marks_has_the_same_spans(templated):
    text = "{{ m['content'] }}<|im_end|>\n"
    answer = f"{{% generation %}}{text}{{% endgeneration %}}"
    marked = CHATML.replace(
        text, f"{{% if m['role'] == 'assistant' %}}{answer}{{% else %}}{text}{{% endif %}}"
    )
    assert "generation" in marked
    assert find_turns(TWO_ANSWERS, templated(marked)) == find_turns(TWO_ANSWERS, templated(CHATML))
