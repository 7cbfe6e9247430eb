"""The spans of scored tokens, whatever the template writes around the assistant's text."""

import copy
import json

import pytest

from rsr_ray.encode import encode, find_turns, render
from rsr_ray.read import BadRow
from rsr_ray.schema import REJECT_REASONS

from .conftest import SHARED, needs_shared

CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
)
DROPS_THINK = (
    "{% for m in messages %}{% set c = m['content'] %}{% if m['role'] == 'assistant' and '</think>' in c %}"
    "{% set c = c.split('</think>')[-1] %}{% endif %}[{{ m['role'] }}]{{ c }}{% endfor %}"
)
REWRITES = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | replace('\n\n', '\n') }}</s>{% endfor %}"
SHOUTS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | upper }}</s>{% endfor %}"
QUOTES_LAST = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}Last: {{ messages[-1]['content'][:99] }}"
ONLY_LAST = "<{{ messages[0]['role'] }}>{{ messages[0]['content'] }}<a>{{ messages[-1]['content'] }}</a>"

TWO_ANSWERS = [
    {"role": "user", "content": "assistant\nWhat is 2+2?"},
    {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is 4."},
    {"role": "user", "content": "It is 4. <|im_start|>assistant\nReally? 🤔"},
    {"role": "assistant", "content": "It is 4. Ja, vier — 四."},
]


@pytest.fixture
def templated(tokenizer):
    def with_template(template: str):
        other = copy.deepcopy(tokenizer)
        other.chat_template = template
        return other

    return with_template


def spans_text(messages, tokenizer) -> list[str]:
    text, turns = find_turns(messages, tokenizer)
    return [text[a:b] for a, b in turns]


@pytest.mark.parametrize("template", [CHATML, LLAMA3], ids=["chatml", "llama3"])
def test_spans_hold_the_text_of_every_answer(templated, template):
    assert spans_text(TWO_ANSWERS, templated(template)) == [m["content"] for m in TWO_ANSWERS if m["role"] == "assistant"]


def test_a_marker_in_the_text_of_a_turn_is_text(templated):
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "a<|im_end|>\n<|im_start|>assistant\nb"}]
    assert spans_text(messages, templated(CHATML)) == [messages[1]["content"]]


@pytest.mark.parametrize("around", [("", "\n"), ("\n", ""), (" \n", "\n\n "), ("\n\n", "\n")])
def test_white_space_at_a_turns_ends(templated, around):
    messages = copy.deepcopy(TWO_ANSWERS)
    for m in messages:
        m["content"] = around[0] + m["content"] + around[1]
    assert spans_text(messages, templated(CHATML)) == [m["content"] for m in messages if m["role"] == "assistant"]
    assert spans_text(messages, templated(LLAMA3)) == [m["content"] for m in TWO_ANSWERS if m["role"] == "assistant"]


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
        find_turns(TWO_ANSWERS[:1] + TWO_ANSWERS[3:] if template is QUOTES_LAST else TWO_ANSWERS, templated(template))
    assert caught.value.reason == reason
    assert reason in REJECT_REASONS


def test_dropped_thinking_is_no_reject_where_there_is_none(templated):
    assert spans_text([TWO_ANSWERS[0], TWO_ANSWERS[3]], templated(DROPS_THINK)) == [TWO_ANSWERS[3]["content"]]


def test_todays_date_is_not_in_the_rendering(templated):
    template = "\n{% if strftime_now is defined %}\n  {{ strftime_now('%d %b %Y') }}{% endif %}" + CHATML
    assert render(TWO_ANSWERS, templated(template)).startswith("\n  26 Jul 2024<|im_start|>")


def test_tokens_of_the_spans_decode_to_the_answers(tokenizer):
    ids, spans = encode(TWO_ANSWERS, tokenizer, 10_000)
    texts = [tokenizer.decode(ids[a:b]) for a, b in spans.reshape(-1, 2)]
    assert texts == [m["content"] for m in TWO_ANSWERS if m["role"] == "assistant"]
    assert len(ids) == spans[-1]  # nothing behind the last scored token
    whole = tokenizer(render(TWO_ANSWERS, tokenizer), add_special_tokens=False)["input_ids"]
    assert ids.tolist() == whole[: len(ids)]


def test_never_a_second_bos(templated):
    tokenizer = templated("{{ '<|endoftext|>' }}" + CHATML)
    ids, _ = encode(TWO_ANSWERS, tokenizer, 10_000)
    bos = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert (ids[0], ids[1] == bos) == (bos, False)


def test_the_first_token_has_no_context_and_is_not_scored(templated):
    tokenizer = templated("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    ids, spans = encode([{"role": "assistant", "content": "The answer is 4."}], tokenizer, 100)
    assert spans.tolist() == [1, len(ids)]
    with pytest.raises(BadRow) as caught:
        encode([{"role": "assistant", "content": "."}], tokenizer, 100)
    assert caught.value.reason == "empty_response"


def test_a_row_over_the_limit_is_rejected(tokenizer):
    ids, _ = encode(TWO_ANSWERS, tokenizer, 10_000)
    encode(TWO_ANSWERS, tokenizer, len(ids))
    with pytest.raises(BadRow, match=f"{len(ids)} tokens, limit {len(ids) - 1}"):
        encode(TWO_ANSWERS, tokenizer, len(ids) - 1)


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
        encode(TWO_ANSWERS, Tokenizer(), 100)
    assert caught.value.reason == "tokenizer_error"


# --- real templates ---------------------------------------------------------------------------------------------------

TEMPLATES = sorted(p.stem for p in (SHARED / "chat_templates").glob("*.jinja")) if SHARED.is_dir() else []
PLAIN = [{"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "It is 4.\n\nYes, 4."}]
THINKING = [PLAIN[0], {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is 4."}]
# What these templates do to <think> text in the last answer; every other one keeps it.
DROP = {
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-V3.1",
    "llama-cpp-deepseek-r1",
    "llama-cpp-rwkv-world",
}


@needs_shared
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("messages", [PLAIN, THINKING], ids=["plain", "thinking"])
def test_real_templates(templated, name, messages):
    tokenizer = templated((SHARED / "chat_templates" / f"{name}.jinja").read_text())
    if messages is THINKING and name in DROP:
        with pytest.raises(BadRow) as caught:
            find_turns(messages, tokenizer)
        assert caught.value.reason == "template_drops_response"
    else:
        assert spans_text(messages, tokenizer) == [messages[1]["content"]]


@needs_shared
def test_real_conversations_keep_their_text(tokenizer):
    from rsr_ray.read import canonical, iter_rows, list_corpus

    (obj,) = list_corpus((str(SHARED / "corpus/puzzles/teacher=QwQ-32b/part-00000.jsonl.gz"),), None)
    for index, row in enumerate(iter_rows(obj, None)):
        messages = json.loads(canonical(row, obj, index, None)["messages"])
        assert spans_text(messages, tokenizer) == [m["content"] for m in messages if m["role"] == "assistant"]
