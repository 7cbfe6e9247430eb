"""Segments of the assistant's text, and the metrics that are taken on them and on sentences."""

import itertools
import json
import math
import re
from collections import defaultdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import rsr_ray
from rsr_ray.choose.candidates import Candidates
from rsr_ray.choose.manifest import make_manifest
from rsr_ray.choose.prompts import choose_prompts
from rsr_ray.choose.summary import Summary
from rsr_ray.cli import main
from rsr_ray.config.choose import ChooseConfig
from rsr_ray.encode.encode import encode
from rsr_ray.encode.how import How
from rsr_ray.encode.locate import find
from rsr_ray.encode.segments import PARTS, segment_names
from rsr_ray.engine.sums import Tokens, metric_sums_by_row, sum_by_segment
from rsr_ray.errors import BadRow, UserError
from rsr_ray.files.objects import put
from rsr_ray.metrics import REGISTRY, find_metric
from rsr_ray.run.rescore import scores_of_tokens
from rsr_ray.run.score import Scorer, Wanted
from rsr_ray.schema import SCORES
from rsr_ray.store import seal
from rsr_ray.store.store import Store
from rsr_ray.unit_rows import ENCODED_ROWS

from .browser.stores import FINGERPRINT, write_store
from .conftest import DEMO_STUDENT, SHARED, few, needs_shared
from .test_encode import AGENT, CHATML, TEMPLATES, TOOLS, TWO_ANSWERS, real
from .test_rank import FOUR, rows_of, scored_of

Q = {"role": "user", "content": "What is 2+2?"}
SINCE_VERSION_4 = (
    *("segments", "high_entropy_sum", "n_within_sentences", "surprisal_within_sentences_sum"),
)
EXACT = (
    *("n_tokens", "rank_sum", "rank_sum_50", "rank_sum_200", "rank_sum_500"),
    *("rank_sum_unclipped", "n_improbable"),
)
CLOSE = ("surprisal_sum", "entropy_sum", "token_ratio_sum", "brier_sum")


def says(content: str, **more) -> dict:
    return {"role": "assistant", "content": content, **more}


def parts_of(turns, tokenizer, named=(), tools=None, **how) -> dict[str, str]:
    """Each segment's text: what is scored of it, with a bar where it is interrupted."""
    found = find(turns, tokenizer, How(max_length=9_999, segments=named, **how), tools)
    names, texts, before = segment_names(named), defaultdict(str), (None, None)
    for n, (start, stop) in enumerate(found.spans):
        for at in range(start, stop):
            name = names[found.segments[at]]
            texts[name] += "|" * (bool(texts[name]) and before != (name, n)) + found.text[at]
            before = (name, n)
    return dict(texts)


@pytest.mark.parametrize(
    ("content", "want"),
    [
        ("4", {"answer": "4"}),
        ("<think>add</think>4", {"reasoning": "<think>add</think>", "answer": "4"}),
        ("add</think>4", {"reasoning": "add</think>", "answer": "4"}),
        ("<think>add, and", {"reasoning": "<think>add, and"}),
        (
            "So <think>a</think>4<think>b</think>!",
            {"answer": "So |4|!", "reasoning": "<think>a</think>|<think>b</think>"},
        ),
        ("<think>a<think>b</think>4", {"reasoning": "<think>a<think>b</think>", "answer": "4"}),
    ],
)
def test_reasoning_is_what_the_tags_enclose(templated, content, want):
    assert parts_of([Q, says(content)], templated(CHATML)) == want
    assert parts_of([Q, says(content)], templated(CHATML), verbatim=True) == want


def test_every_turn_has_its_own_tags(templated):
    turns = [Q, says("<think>a"), Q, says("4")]
    assert parts_of(turns, templated(CHATML)) == {"reasoning": "<think>a", "answer": "4"}


FIELD = (
    "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}[{{ m.reasoning_content }}]"
    "{% endif %}{{ m.content }}</s>{% endfor %}"
)


def test_reasoning_in_a_field_of_the_template(templated):
    want = {"reasoning": "add", "answer": "4"}
    tokenizer = templated(FIELD)
    assert parts_of([Q, says("4", reasoning_content="add")], tokenizer) == want
    assert parts_of([Q, says("<think>add</think>4")], tokenizer) == want


@needs_shared
@pytest.mark.parametrize("verbatim", [False, True])
def test_calls_of_an_agent_are_their_own_segment(templated, verbatim):
    template = (SHARED / "chat_templates" / "Qwen-Qwen3-0.6B.jinja").read_text()
    parts = parts_of(AGENT, templated(template), tools=TOOLS, verbatim=verbatim)
    assert json.loads(re.search(r"\{.*\}", parts["tool_calls"], re.DOTALL)[0])["name"] == "weather"
    assert "I should look." in parts["reasoning"]
    assert {"Let me look.", "12 degrees."} <= {p.strip() for p in parts["answer"].split("|")}


@pytest.mark.parametrize(
    ("named", "want"),
    [
        ([("digits", r"\d+")], {"reasoning": "<think>|</think>", "digits": "12|4", "answer": "="}),
        (
            [("in", r"<think>(.*)</think>"), ("digits", r"\d")],
            {"reasoning": "<think>|</think>", "in": "12", "answer": "=", "digits": "4"},
        ),
        (
            [("digits", r"\d"), ("in", r"<think>(.*)</think>")],
            {"reasoning": "<think>|</think>", "digits": "12|4", "answer": "="},
        ),
        ([("either", "(x)|(=)")], {"reasoning": "<think>12</think>", "either": "=", "answer": "4"}),
        ([("answer", ".*")], {"answer": "<think>12</think>=4"}),
        ([("nothing", "q*")], {"reasoning": "<think>12</think>", "answer": "=4"}),
    ],
)
def test_named_segments(templated, named, want):
    turns = [Q, says("<think>12</think>=4")]
    assert parts_of(turns, templated(CHATML), tuple(named)) == want


TEXTS = st.lists(
    st.sampled_from(["<think>", "</think>", "add 12. ", "x = 4!\n", "\U0001f9ee", "中文。", "`a`"]),
    min_size=1,
    max_size=12,
).map("".join)


@settings(max_examples=few(40, 20), deadline=None)
@given(texts=st.lists(TEXTS.filter(str.strip), min_size=1, max_size=3), most=st.integers(12, 200))
def test_a_token_belongs_to_the_segment_and_sentence_of_its_first_character(tokenizer, texts, most):
    named = (("code", "`[^`]+`"), ("number", r"\d+\S"))
    turns = [turn for text in texts for turn in (Q, says(text))]
    how = How(
        max_length=most, over_length="truncate", segments=named, token_text=True, steps="sentence"
    )
    try:
        found, encoded = find(turns, tokenizer, how), encode(turns, tokenizer, how)
    except BadRow:
        return
    scored = [p for a, b in encoded.spans.reshape(-1, 2) for p in range(a, b)]
    offsets = tokenizer.backend_tokenizer.encode(found.text, add_special_tokens=False).offsets
    want = [found.segments[offsets[p][0]] for p in scored]
    assert encoded.token_segments.tolist() == want
    assert encoded.sentences.tolist() == np.diff(encoded.steps.reshape(-1, 2))[:, 0].tolist()
    assert encoded.sentences.sum() == len(scored)


CONVERSATIONS = [
    [Q, says(f"<think>\nTwo and two. Is it {n}? Yes!\n</think>\n\nIt is {n}. Done, 1/{n}.")]
    for n in range(3, 12)
] + [[Q, says("4")]]


@pytest.fixture(scope="module")
def scored():
    return rsr_ray.score_conversations(
        CONVERSATIONS, str(DEMO_STUDENT), segments=True, segment=["number=[0-9]+(?:/[0-9]+)?"]
    ).to_pylist()


def check_adds_up(parts: list[dict], row: dict) -> None:
    """That sums of segments add up to those of the row."""
    for name in EXACT:
        assert sum(part[name] for part in parts) == row[name], name
    for name in CLOSE:
        assert sum(part[name] for part in parts) == pytest.approx(row[name], rel=1e-9), name


@st.composite
def tokens_in_segments(draw):
    """Tokens of some rows, their lengths, and the segment that each token is in."""
    lengths = draw(st.lists(st.integers(1, 60), min_size=1, max_size=5))
    n = sum(lengths)
    segments = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tokens = Tokens(
        rank=np.exp(rng.uniform(0, 12, n)).astype(np.int64),
        surprisal=rng.exponential(2, n).astype("f4"),
        entropy=rng.exponential(1, n).astype("f4"),
        square=rng.random(n).astype("f4"),
    )
    return tokens, np.array(lengths), np.array(segments, np.uint8)


@settings(max_examples=few(200, 40), deadline=None)
@given(tokens_in_segments())
def test_segments_of_random_tokens(made):
    """They add up to the row, and each is what its tokens alone would give, bit for bit."""
    tokens, lengths, segments = made
    names = ["a", "b", "c", "d"]
    rows = metric_sums_by_row(tokens, lengths, 100)
    found = sum_by_segment(tokens, lengths, segments, names, 100)
    of_rows = np.split(segments, np.cumsum(lengths)[:-1])
    for n, (parts, own) in enumerate(zip(found, of_rows, strict=True)):
        assert [part["segment"] for part in parts] == [names[s] for s in np.unique(own)]
        check_adds_up(parts, {name: values[n].item() for name, values in rows.items()})
        for part in parts:
            mine = own == names.index(part["segment"])
            some = Tokens(*(values[mine] for values in tokens.split(lengths)[n]))
            alone = metric_sums_by_row(some, np.array([mine.sum()]), 100)
            assert {"segment": part["segment"]} | {k: v.item() for k, v in alone.items()} == part


@needs_shared
def test_segments_under_real_templates(templated, student):
    """Of every template that renders a conversation: reasoning, answers and calls are the row."""
    rows, seen = [], set()
    every = [AGENT, TWO_ANSWERS, *CONVERSATIONS[:2]]
    each = [(name, turns) for n, name in enumerate(TEMPLATES) for turns in every[n % 2 :: 2]]
    for name, turns in each:
        tools = TOOLS if turns is AGENT else None
        how = How(max_length=9_999, segments=(("number", r"\d+"),))
        try:
            made = encode(turns, real(templated, name), how, tools)
        except BadRow:
            continue
        seen.add(name)
        rows.append(dict.fromkeys(f.name for f in ENCODED_ROWS) | made._asdict())
    assert len(seen) > len(TEMPLATES) * 0.8
    assert all(len(row["token_segments"]) == sum(row["sentences"]) for row in rows)
    wanted = Wanted(r_max=100, segments=("number", *PARTS))
    table = pa.RecordBatch.from_pylist(rows, pa.schema(list(ENCODED_ROWS)))
    scores = Scorer(student, wanted, 4096, "f").score(table)[0].to_pylist()
    for row in scores:
        check_adds_up(row["segments"], row)
    assert {part["segment"] for row in scores for part in row["segments"]} == {"number", *PARTS}


def test_segments_add_up_to_the_row(scored):
    for row in scored:
        check_adds_up(row["segments"], row)
    assert [part["segment"] for part in scored[0]["segments"]] == ["number", "reasoning", "answer"]
    assert [part["segment"] for part in scored[-1]["segments"]] == ["number"]


def test_other_columns_and_rows_do_not_depend_on_segments(scored):
    plain = rsr_ray.score_conversations(CONVERSATIONS, str(DEMO_STUDENT)).to_pylist()
    for row, other in zip(plain, scored, strict=True):
        assert row.pop("segments") is None
        assert row == {name: other[name] for name in row}


def full_logits(turns, tokenizer, encoded) -> np.ndarray:
    """The logits before each scored token, float64 [N, V], without the engine."""
    model = AutoModelForCausalLM.from_pretrained(DEMO_STUDENT, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor(encoded.input_ids[None].astype(np.int64))).logits[0]
    scored = [p for a, b in encoded.spans.reshape(-1, 2) for p in range(a, b)]
    return logits[[p - 1 for p in scored]].double().numpy(), encoded.input_ids[scored]


@pytest.mark.parametrize("n", [0, 4, len(CONVERSATIONS) - 1])
def test_hes_aslec_drop_and_segments_equal_their_formulas(tokenizer, scored, n):
    encoded = encode(CONVERSATIONS[n], tokenizer, How(max_length=9_999, token_text=True))
    logits, targets = full_logits(CONVERSATIONS[n], tokenizer, encoded)
    log_p = logits - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    entropy = -(np.exp(log_p) * log_p).sum(1)
    surprisal = -log_p[np.arange(len(targets)), targets]
    columns = {name: np.array([scored[n][name]]) for name in SCORES.names if "sum" in name}
    columns |= {name: np.array([scored[n][name]]) for name in ("n_tokens", "n_within_sentences")}

    k = math.ceil(0.005 * len(targets))
    hes = sum(sorted(entropy)[-k:])
    assert REGISTRY["hes"].values(columns)[0] == pytest.approx(hes, rel=1e-5)

    # A sentence begins a turn, and behind a stop or line end that white space follows.
    within, since, said = [], 0, ""
    for text in encoded.token_text:
        if re.search(r"[.!?]\Z", said) and text[0].isspace():
            since = 0
        if re.search(r"\S\Z", said) and re.match(r"[^\S\n]*\n", text):
            since = 0
        within.append(since >= 2)
        since, said = since + 1, said + text
    assert scored[n]["n_within_sentences"] == sum(within)
    if any(within):
        want = -surprisal[within].mean()
        assert REGISTRY["aslec_drop"].values(columns)[0] == pytest.approx(want, rel=1e-5)

    at = len("".join(encoded.token_text).partition("</think>")[0]) + len("</think>")
    starts = np.cumsum([0, *map(len, encoded.token_text[:-1])])
    text = "".join(encoded.token_text)
    number = np.array([is_number(text, s) for s in starts])
    reasoning = (starts < at) & ("</think>" in text) & ~number
    for part in scored[n]["segments"]:
        mine = {"number": number, "reasoning": reasoning}.get(part["segment"], ~number & ~reasoning)
        assert part["n_tokens"] == mine.sum()
        assert part["surprisal_sum"] == pytest.approx(surprisal[mine].sum(), rel=1e-5)
        assert part["entropy_sum"] == pytest.approx(entropy[mine].sum(), rel=1e-5)


def is_number(text: str, at: int) -> bool:
    return any(m.start() <= at < m.end() for m in re.finditer("[0-9]+(?:/[0-9]+)?", text))


@pytest.mark.parametrize("lengths", [[1], [199, 200, 201], [400, 1, 401, 1000]])
def test_hes_takes_half_a_percent_rounded_up(lengths):
    rng = np.random.default_rng(0)
    n = sum(lengths)
    entropy = rng.integers(0, 40, n).astype("f4") / 8  # with ties
    tokens = Tokens(np.ones(n, int), np.ones(n, "f4"), entropy, np.ones(n, "f4"))
    got = metric_sums_by_row(tokens, np.array(lengths), 100)["high_entropy_sum"]
    for length, row, value in zip(
        lengths, np.split(entropy, np.cumsum(lengths)), got, strict=False
    ):
        assert value == sum(sorted(row.tolist())[-math.ceil(length / 200) :])
        # and so do the tokens over the 99.5th percentile, as others have it, but for ties
        over = row[row >= np.percentile(row.astype(float), 99.5)]
        assert len(over) >= math.ceil(length / 200)


def test_rescoring_keeps_segments_only_under_the_same_r_max(tokenizer, student):
    how = How(max_length=9_999, segments=(), token_text=True)
    fields = ["trajectory_id", "teacher", "reject_reason", "reject_detail"]
    rows = pa.RecordBatch.from_pylist(
        [
            dict.fromkeys(f.name for f in ENCODED_ROWS)
            | {fields[0]: str(n)}
            | encode(turns, tokenizer, how)._asdict()
            for n, turns in enumerate(CONVERSATIONS)
        ],
        pa.schema(list(ENCODED_ROWS)),
    )
    wanted = Wanted(r_max=100, segments=PARTS, token_scores=True)
    scores, tokens = Scorer(student, wanted, 1000, "f").score(rows)
    scores = pa.Table.from_batches([scores])
    again = scores_of_tokens(scores, tokens, 100, "f")
    assert again.to_pylist() == scores.to_pylist()
    other = scores_of_tokens(scores, tokens, 10, "g")
    assert other["segments"].null_count == len(CONVERSATIONS)
    same = ["n_within_sentences", "surprisal_within_sentences_sum", "high_entropy_sum"]
    assert other.select(same) == scores.select(same)


def store_of(folder, *, segments: bool = True, later: bool = True) -> Store:
    """A store of two teachers: A has the lower rsr, B the lower rsr in its answers.

    A's first trajectory has no reasoning, and no token within a sentence. Without `later` the
    scores are of an earlier version.
    """
    rows, parts = [], {}
    for (t, teacher), p in itertools.product(enumerate("AB"), range(8)):
        of_row = {"reasoning": (40, (200, 400)[t] + p), "answer": (10, (90, 30)[t] + p)}
        if first := (t, p) == (0, 0):
            del of_row["reasoning"]
        n, rank = (sum(column) for column in zip(*of_row.values(), strict=True))
        row = {"trajectory_id": f"{teacher}{p}", "prompt_id": f"p{p}", "teacher": teacher}
        row |= {"n_tokens": n, "rank_sum": rank, "surprisal_sum": 2.0 * n, "entropy_sum": 1.0 * n}
        if later:
            row |= {"high_entropy_sum": 5.0 + t}
            row |= {"n_within_sentences": 0 if first else 4}
            row |= {"surprisal_within_sentences_sum": 0.0 if first else 9.0 - t}
        rows.append(row)
        parts[row["trajectory_id"]] = [
            {"segment": name, "n_tokens": n, "rank_sum": rank}
            | {"surprisal_sum": 2.0 * n, "entropy_sum": 1.0 * n}
            for name, (n, rank) in of_row.items()
        ]
    store = write_store(folder, pd.DataFrame(rows), student="m")
    names = store.units()[FINGERPRINT]
    for name in names if segments else ():
        unit = store.read_unit(FINGERPRINT, name)
        kept = [parts[one] for one in unit["trajectory_id"].to_pylist()]
        at = unit.schema.get_field_index("segments")
        field = SCORES.field("segments").remove_metadata()
        unit = unit.set_column(at, field, pa.array(kept, field.type))
        store.write_scores(FINGERPRINT, name, unit)
    store.write_teachers(store.read_teachers(), names)
    return store


def test_a_column_of_a_segment_is_read_like_any_other(tmp_path):
    store = store_of(tmp_path)
    name = sorted(store.units()[FINGERPRINT])[0]
    read = store.read_unit(FINGERPRINT, name, ["teacher", "reasoning/rank_sum", "x/n_tokens"])
    assert read["reasoning/rank_sum"].to_pylist() == [0, *range(201, 208)]
    assert read["x/n_tokens"].to_pylist() == [0] * 8
    assert read.schema.names == ["teacher", "reasoning/rank_sum", "x/n_tokens"]
    bare = store_of(tmp_path / "bare", segments=False)
    assert bare.read_unit(FINGERPRINT, name, ["answer/n_tokens"])["answer/n_tokens"].null_count == 8


def ranked(capsys, *options: str) -> dict:
    assert main(["teachers", *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_teachers_on_a_segment(tmp_path, capsys):
    store_of(tmp_path)
    given = ("--store", str(tmp_path), "--student", "m")
    assert [t["teacher"] for t in ranked(capsys, *given)["teachers"]] == ["A", "B"]
    answers = ranked(capsys, *given, "--segment", "answer")
    assert (answers["metric"], answers["segment"]) == ("rsr on answer", "answer")
    values = {t["teacher"]: t["value"] for t in answers["teachers"]}
    assert values == pytest.approx({"B": (30 + 3.5) / 20, "A": (90 + 3.5) / 20})
    assert [t["mean_tokens"] for t in answers["teachers"]] == [10, 10]
    thought = ranked(capsys, *given, "--segment", "reasoning")
    assert (thought["n_prompts"], thought["n_trajectories"]) == (7, 15)
    assert thought["teachers"][0]["value"] == pytest.approx((200 + 4) / 80)
    assert "1 trajectories have no rsr on reasoning and are left out" in thought["notes"]
    assert main(["teachers", *given, "--segment", "answer"]) == 0
    assert "by rsr on answer (lower is better)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("made", "options", "says"),
    [
        (
            {"segments": False},
            ("--segment", "answer"),
            "score them with --segments, or",
        ),
        ({}, ("--segment", "code"), "no trajectory has a value; segments are reasoning, answer"),
        ({}, ("--segment", "answer", "--by", "aslec_drop"), "--by aslec_drop cannot be had on a"),
        ({}, ("--segment", "a/b"), "no trajectory has a value; segments are"),
        ({"later": False}, ("--by", "hes"), "have high_entropy_sum, n_tokens; score them again"),
    ],
)
def test_what_a_store_does_not_have_is_refused_in_one_line(tmp_path, capsys, made, options, says):
    store_of(tmp_path / "s", **made)
    given = ["--store", str(tmp_path / "s"), "--student", "m", *options]
    assert main(["teachers", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_a_trajectory_without_a_value_is_left_out_and_counted(tmp_path, capsys):
    store_of(tmp_path)
    given = ("--store", str(tmp_path), "--student", "m", "--by", "aslec_drop")
    found = ranked(capsys, *given)
    assert [(t["teacher"], t["value"]) for t in found["teachers"]] == [("B", -2.0), ("A", -2.25)]
    assert (found["n_prompts"], found["better"]) == (7, "higher")
    assert "1 trajectories have no aslec_drop and are left out" in found["notes"]


def choice(store: Store, **settings) -> tuple[dict[str, str], Summary, ChooseConfig]:
    config = ChooseConfig(store=store.uri, student="m", out="o", **settings)
    files = store.score_files(FINGERPRINT)
    found = Candidates(config, store, FINGERPRINT, files)
    rows = found.read(pa.table({"place": range(len(files))}))
    out = choose_prompts(rows, config).to_pylist()
    summary = Summary.added([out[-1]["summary"]])
    assert summary.sets["chosen"].metrics[config.criterion].n == len(out) - 1
    return {row["prompt_id"]: row["teacher"] for row in out[:-1]}, summary, config


def chosen(store: Store, **settings) -> dict[str, str]:
    return choice(store, **settings)[0]


def test_choose_on_a_segment(tmp_path, monkeypatch):
    monkeypatch.setattr("rsr_ray.choose.candidates.version_of", lambda *_: "a" * 12)
    store = store_of(tmp_path / "s")
    of_a = {"p0": "B"} | {f"p{p}": "A" for p in range(1, 8)}
    assert chosen(store) == of_a
    assert chosen(store, segment="answer") == dict.fromkeys(of_a, "B")
    assert chosen(store, segment="reasoning") == of_a
    with pytest.raises(UserError, match="--by random has no segments"):
        chosen(store, segment="answer", by="random")


@pytest.mark.parametrize(
    ("made", "settings", "says"),
    [
        ({"segments": False}, {"segment": "answer"}, "rsr on answer: score with --segments, or"),
        ({}, {"segment": "code"}, "rsr on code: score with --segments, or --segment NAME=REGEX"),
        ({"later": False}, {"by": "hes"}, "no candidate has a value for hes: score again"),
    ],
)
def test_a_choice_by_what_a_store_does_not_have(tmp_path, monkeypatch, made, settings, says):
    monkeypatch.setattr("rsr_ray.choose.candidates.version_of", lambda *_: "a" * 12)
    _, summary, config = choice(store_of(tmp_path, **made), **settings)
    assert summary.dropped == {"no_value": 16}
    with pytest.raises(UserError, match=says):
        make_manifest(config, FINGERPRINT, summary, [])


def test_a_metric_on_a_segment_is_the_metric_of_its_sums():
    rows = rows_of(0, 12, FOUR)
    whole = scored_of(rows)
    columns = {f"answer/{name}": values for name, values in whole.columns.items()}
    for name in ("rsr", "rsr_mean", "mean_rank", "mean_surprisal"):
        metric = find_metric(name, "answer")
        assert metric.values(columns).tolist() == REGISTRY[name].values(whole.columns).tolist()
        for term, same in zip(
            metric.terms(columns), REGISTRY[name].terms(whole.columns), strict=True
        ):
            assert term.tolist() == same.tolist()


def test_rows_of_earlier_runs_read_as_null(tmp_path):
    """A store of version 3 as it was before the columns: none of them in its files."""
    store = store_of(tmp_path)
    for name in store.units()[FINGERPRINT]:
        place = store._unit_place("scores", FINGERPRINT, name)
        old = store.read_unit(FINGERPRINT, name).drop_columns([*SINCE_VERSION_4])
        put(f"{store.uri}/{place}", seal.write_parquet(old, place), None)
        read = store.read_unit(FINGERPRINT, name)
        assert all(read[column].null_count == read.num_rows for column in SINCE_VERSION_4)
    loaded = rsr_ray.load_scored(store)
    assert rsr_ray.rank_teachers(loaded, REGISTRY["rsr"]).teachers[0].teacher == "A"
    for metric in (REGISTRY["hes"], REGISTRY["aslec_drop"]):
        with pytest.raises(UserError, match="score them again"):
            rsr_ray.rank_teachers(loaded, metric)
