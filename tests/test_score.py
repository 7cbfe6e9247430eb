"""Batches through the student against one row at a time through its full logits."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from rsr_ray.engine import scoring
from rsr_ray.engine.lm_head_reference import token_stats_reference
from rsr_ray.engine.scoring import Work, score_rows, score_tokens
from rsr_ray.engine.sums import Tokens, sum_by_row, sum_by_turn, turn_lengths
from rsr_ray.engine.windows import cut_windows, score_windows
from rsr_ray.errors import UserError
from rsr_ray.run.score import Scorer, Wanted
from rsr_ray.schema import REJECT_REASONS, SCORES
from rsr_ray.student.model import Student
from rsr_ray.unit_rows import ENCODED_ROWS

from .conftest import DEMO_STUDENT


def random_rows(n: int, vocabulary: int, longest: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    ids, spans = [], []
    for _ in range(n):
        length = int(rng.integers(4, longest))
        a, b, c = sorted(rng.integers(1, length, 3))
        spans.append(np.array([a, b, c, length] if a < b < c else [1, length], np.int32))
        ids.append(rng.integers(0, vocabulary, length).astype(np.int32))
    return ids, spans


def slow_sums(model, ids, spans, r_max):
    out = []
    for row, span in zip(ids, spans, strict=True):
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(row.astype(np.int64))[None]).logits[0, :-1]
        rank, surprisal, entropy, _ = token_stats_reference(
            logits, torch.from_numpy(row[1:].astype(np.int64))
        )
        at = np.concatenate([np.arange(a, b) for a, b in span.reshape(-1, 2)]) - 1
        out.append(
            (
                len(at),
                int(rank[at].clamp_max(r_max).sum()),
                float(surprisal[at].sum()),
                float(entropy[at].sum()),
            )
        )
    return [np.array(column) for column in zip(*out, strict=True)]


@pytest.mark.parametrize("batch_tokens", [1, 64 * 200])
def test_equals_the_full_logits_one_row_at_a_time(student, batch_tokens):
    model = AutoModelForCausalLM.from_pretrained(DEMO_STUDENT, dtype=torch.float32)
    ids, spans = random_rows(40, 600, 200)
    n_tokens, rank_sum, surprisal_sum, entropy_sum = slow_sums(model, ids, spans, 100)
    got = score_rows(student, ids, spans, Work(batch_tokens), 100)
    assert got["n_tokens"].tolist() == n_tokens.tolist()
    assert got["rank_sum"].tolist() == rank_sum.tolist()
    np.testing.assert_allclose(got["surprisal_sum"], surprisal_sum, rtol=1e-5)
    np.testing.assert_allclose(got["entropy_sum"], entropy_sum, rtol=1e-5)


@pytest.mark.parametrize("positions", [[1, 2], [9, 10], [1, 10]], ids=["first", "last", "all"])
def test_spans_at_the_ends_of_a_row(student, positions):
    model = AutoModelForCausalLM.from_pretrained(DEMO_STUDENT, dtype=torch.float32)
    ids, spans = [np.arange(3, 13, dtype=np.int32)], [np.array(positions, np.int32)]
    want = slow_sums(model, ids, spans, 100)
    got = score_rows(student, ids, spans, Work(100), 100)
    for (name, values), expected in zip(got.items(), want, strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (
            Gemma2Config(
                vocab_size=300,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=16,
                final_logit_softcapping=3.0,
                sliding_window=16,
            ),
            Gemma2ForCausalLM,
        ),
        (
            GraniteConfig(
                vocab_size=300,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                logits_scaling=6.0,
            ),
            GraniteForCausalLM,
        ),
    ],
    ids=["soft cap and sliding window", "scaled logits"],
)
def test_what_an_architecture_does_to_its_logits_counts(tmp_path, config, kind):
    torch.manual_seed(0)
    model = kind(config).eval()
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.5)
    model.save_pretrained(tmp_path)
    ids, spans = random_rows(8, 300, 60)
    _, rank_sum, surprisal_sum, _ = slow_sums(model, ids, spans, 100)
    got = score_rows(Student(str(tmp_path), "float32", "cpu"), ids, spans, Work(500), 100)
    assert got["rank_sum"].tolist() == rank_sum.tolist()
    np.testing.assert_allclose(got["surprisal_sum"], surprisal_sum, rtol=1e-5)


EXPERTS = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 32,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 16,
}


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral", "gpt_oss", "olmoe", "gpt2"])
def test_heads_that_look_for_more_than_hidden_states(tmp_path, kind):
    """Mixtures of experts look for their routing, older models for attention to another text."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**EXPERTS), dtype=torch.float32)
    for weight in model.parameters():  # some are left as the memory was
        torch.nn.init.normal_(weight, std=0.1)
    model.eval().save_pretrained(tmp_path)
    ids, spans = random_rows(8, 300, 60)
    _, rank_sum, surprisal_sum, _ = slow_sums(model, ids, spans, 100)
    got = score_rows(Student(str(tmp_path), "float32", "cpu"), ids, spans, Work(500), 100)
    assert got["rank_sum"].tolist() == rank_sum.tolist()
    np.testing.assert_allclose(got["surprisal_sum"], surprisal_sum, rtol=1e-5)


def test_a_model_whose_head_cannot_be_had_alone_is_refused(tmp_path):
    config = CONFIG_MAPPING["opt"](
        vocab_size=300,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"OPTForCausalLM has no separate backbone and head"):
        Student(str(tmp_path), "float32", "cpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near(student, dtype):
    ids, spans = random_rows(10, 600, 100)
    exact = score_rows(student, ids, spans, Work(1000), 100)
    half = score_rows(Student(str(DEMO_STUDENT), dtype, "cpu"), ids, spans, Work(1000), 100)
    np.testing.assert_allclose(half["surprisal_sum"], exact["surprisal_sum"], rtol=2e-2)
    np.testing.assert_allclose(half["rank_sum"], exact["rank_sum"], rtol=2e-2)


@pytest.fixture
def score(student):
    return scorer(student)


def scorer(student, **wanted):
    made = Scorer.__new__(Scorer)
    made.student, made.work, made.fingerprint, made.wanted = (
        student,
        Work(1000),
        "f",
        Wanted(r_max=100, **wanted),
    )
    return made


def encoded(**changes) -> dict:
    spans = changes.get("spans") or ()
    return (
        dict.fromkeys(f.name for f in ENCODED_ROWS)
        | {"trajectory_id": "t", "teacher": "T"}
        | {"sentences": [b - a for a, b in zip(spans[::2], spans[1::2], strict=True)]}
        | changes
    )


def run(scorer, rows) -> list[dict]:
    scores, _ = scorer.score(pa.RecordBatch.from_struct_array(pa.array(rows, ENCODED_ROWS)))
    return scores.to_pylist()


def test_one_row_in_one_row_out(score):
    rejected = encoded(trajectory_id="bad", reject_reason="not_text", reject_detail="why")
    good = encoded(trajectory_id="good", input_ids=[3, 4, 5], spans=[1, 3])
    before, scored, after = run(score, [rejected, good, rejected])
    assert before == after
    assert before["reject_reason"] == "not_text"
    assert all(
        before[name] is None
        for name in ("n_tokens", "rank_sum", "surprisal_sum", "rsr", "mean_rank")
    )
    assert scored["reject_reason"] is None
    assert (
        scored["rsr"]
        == scored["rank_sum"] / scored["surprisal_sum"]
        == pytest.approx(scored["mean_rank"] / scored["mean_surprisal"])
    )
    assert (scored["n_prompt_tokens"], scored["n_tokens"]) == (1, 2)
    assert list(scored) == SCORES.names


def test_no_rows_and_all_rejected(score):
    assert run(score, []) == []
    assert len(run(score, [encoded(reject_reason="not_text")] * 3)) == 3


def test_a_student_that_gives_no_number_is_a_reject(score):
    class Broken:
        vocab_size, packed, n_devices = 5, False, 1
        beside_head = staticmethod(torch.from_numpy)

        def hidden(self, ids, *_):
            return torch.zeros(*ids.shape, 2)

        def logits(self, hidden):
            return torch.full((len(hidden), 5), float("nan"))

    score.student = Broken()
    (row,) = run(score, [encoded(input_ids=[3, 4, 2], spans=[1, 3])])
    assert row["reject_reason"] == "non_finite_score"
    assert row["reject_reason"] in REJECT_REASONS
    assert row["rsr"] is None


@pytest.mark.parametrize(
    ("how", "rel"),
    [
        ({"spread": True}, 1e-6),
        ({"quantize": "8bit"}, 0.02),
        ({"quantize": "fp8"}, 0.02),
        ({"quantize": "4bit"}, 0.05),
    ],
    ids=str,
)
def test_students_that_are_spread_or_quantized(student, how, rel):
    if how.get("quantize") == "fp8":
        pytest.importorskip("torchao")
    ids, spans = random_rows(10, 600, 100)
    want = score_rows(student, ids, spans, Work(1000), 100)
    got = score_rows(
        Student(str(DEMO_STUDENT), "float32", "cpu", **how), ids, spans, Work(1000), 100
    )
    np.testing.assert_allclose(got["surprisal_sum"], want["surprisal_sum"], rtol=rel)
    if "quantize" in how:
        assert (got["surprisal_sum"] != want["surprisal_sum"]).all()


def test_packed_rows_do_not_see_each_other(student, monkeypatch):
    """As on a GPU."""
    ids, spans = random_rows(20, 600, 80)
    want = score_rows(student, ids, spans, Work(500), 100)
    monkeypatch.setattr(student, "packed", True)
    work = Work(500)
    got = score_rows(student, ids, spans, work, 100)
    assert work.padded == work.positions
    assert got["rank_sum"].tolist() == want["rank_sum"].tolist()
    np.testing.assert_allclose(got["surprisal_sum"], want["surprisal_sum"], rtol=1e-5)


# --- memory----------------------------------------------------------------------------------------


class Small:
    """A student whose device holds a batch of so many positions and no more."""

    def __init__(self, student, positions):
        self.student, self.positions, self.tried = student, positions, []

    def __getattr__(self, name):
        return getattr(self.student, name)

    def hidden(self, ids_BT, *more):
        self.tried.append(ids_BT.size)
        if ids_BT.size > self.positions:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.student.hidden(ids_BT, *more)


def test_a_batch_that_does_not_fit_is_split_and_later_ones_are_smaller(student):
    ids, spans = random_rows(30, 600, 100)
    want = score_rows(student, ids, spans, Work(1000), 100)
    small, work = Small(student, 400), Work(2000)
    got = score_rows(small, ids, spans, work, 100)
    assert got["rank_sum"].tolist() == want["rank_sum"].tolist()
    np.testing.assert_allclose(got["surprisal_sum"], want["surprisal_sum"], rtol=1e-5)
    assert work.splits == sum(n > 400 for n in small.tried) >= 1
    assert work.batch_tokens <= 1000
    again = Small(student, 400)
    score_rows(again, ids, spans, work, 100)
    assert max(again.tried) <= 400


@pytest.mark.parametrize("n_devices", [1, 3])
@pytest.mark.parametrize("fits", [10_000, 300])
def test_results_are_fetched_while_later_batches_are_under_way(
    student, monkeypatch, n_devices, fits
):
    """No batch is waited for before as many more were begun as there are devices, in whatever
    order memory runs out; and what comes out has the bits of one batch at a time.
    """
    ids, spans = random_rows(40, 600, 100)
    monkeypatch.setattr(student, "n_devices", 0)
    want = score_tokens(Small(student, fits), ids, spans, Work(500))
    monkeypatch.setattr(student, "n_devices", n_devices)
    happened = []
    begin, tokens = scoring._Begun.__init__, scoring._Begun.tokens

    def begun(self, batch, *more):
        happened.append(("begun", tuple(batch)))
        begin(self, batch, *more)

    def fetched(self):
        happened.append(("fetched", tuple(self.batch)))
        return tokens(self)

    monkeypatch.setattr(scoring._Begun, "__init__", begun)
    monkeypatch.setattr(scoring._Begun, "tokens", fetched)
    small = Small(student, fits)
    got = score_tokens(small, ids, spans, Work(500))
    for one, other in zip(got, want, strict=True):
        assert all((a == b).all() for a, b in zip(one, other, strict=True))
    order = {kind: [batch for k, batch in happened if k == kind] for kind in ("begun", "fetched")}
    assert order["begun"] == order["fetched"]
    waiting = list(itertools.accumulate({"begun": 1, "fetched": -1}[kind] for kind, _ in happened))
    assert max(waiting) == min(n_devices + 1, len(order["begun"]))
    if fits == 10_000:  # nothing had to be split: none is fetched early
        kinds = [kind for kind, _ in happened]
        all_begun = len(kinds) - kinds[::-1].index("begun")
        fetched_early = [n for n in range(all_begun) if kinds[n] == "fetched"]
        assert {waiting[n] for n in fetched_early} == {n_devices}


def test_a_row_that_does_not_fit_alone_is_a_reject_and_the_rest_is_scored(score, student):
    score.student = Small(student, 10)
    long = encoded(trajectory_id="long", input_ids=list(range(3, 33)), spans=[1, 30])
    rejected, scored = run(score, [long, encoded(input_ids=[3, 4, 5], spans=[1, 3])])
    assert (rejected["reject_reason"], rejected["rsr"], rejected["n_tokens"]) == (
        "too_large_for_memory",
        None,
        None,
    )
    assert "30 tokens" in rejected["reject_detail"]
    assert scored["reject_reason"] is None


def test_feed_forward_layers_in_slices_change_nothing(student, monkeypatch):
    ids, spans = random_rows(6, 600, 300)
    want = score_rows(student, ids, spans, Work(2000), 100)
    monkeypatch.setattr("rsr_ray.student.model.SLICE_POSITIONS", 64)
    got = score_rows(student, ids, spans, Work(2000), 100)
    assert got["rank_sum"].tolist() == want["rank_sum"].tolist()
    np.testing.assert_allclose(got["surprisal_sum"], want["surprisal_sum"], rtol=1e-6)


@given(length=st.integers(2, 60), window=st.integers(2, 30), data=st.data())
def test_windows_score_every_token_once_with_at_least_half_a_window_of_context(
    length, window, data
):
    cuts = sorted(data.draw(st.sets(st.integers(1, length), min_size=2, max_size=6)))
    spans = np.array(cuts[: len(cuts) // 2 * 2], np.int32)
    ids = np.arange(length, dtype=np.int32)
    scored = []
    for row, inside, _ in cut_windows(ids, spans, window):
        assert len(row) <= max(window, 2)
        for p in (p for a, b in inside.reshape(-1, 2) for p in range(a, b)):
            scored.append(int(row[p]))
            # ids are positions here: all the context there is, or half a window
            assert p >= min(int(row[p]), window // 2)
    assert scored == [p for a, b in spans.reshape(-1, 2) for p in range(a, b)]


def test_long_rows_in_windows_equal_the_definition(student):
    """Every token of a later window scored alone, at the end of its window's part before it."""
    ids, spans = random_rows(6, 600, 150)
    tokens = score_windows(student, ids, spans, Work(1000), 32)
    got = sum_by_row(Tokens.join(tokens), np.array([len(row.rank) for row in tokens]), 100)
    model = AutoModelForCausalLM.from_pretrained(DEMO_STUDENT, dtype=torch.float32)
    for n, (row, span) in enumerate(zip(ids, spans, strict=True)):
        alone_ids, alone_spans = [], []
        for p in (p for a, b in span.reshape(-1, 2) for p in range(a, b)):
            start = 0 if p < 32 or len(row) <= 32 else (p - 16) // 16 * 16
            alone_ids.append(row[start : p + 1])
            alone_spans.append(np.array([p - start, p - start + 1], np.int32))
        want = slow_sums(model, alone_ids, alone_spans, 100)
        for (name, values), expected in zip(got.items(), want, strict=True):
            np.testing.assert_allclose(values[n], expected.sum(), rtol=1e-5, err_msg=name)


def test_sums_of_turns_are_those_of_their_tokens_and_add_up(student):
    """Spans of turns 1, 1 and 3, whole and in windows."""
    ids = np.random.default_rng(5).integers(0, 600, 90).astype(np.int32)
    spans, owners = np.array([4, 20, 25, 40, 50, 90], np.int32), np.array([1, 1, 3], np.int32)
    (tokens,) = score_tokens(student, [ids], [spans], Work(1000))
    first, second = sum_by_turn(tokens, *turn_lengths(spans, owners), 100)
    assert (first["turn"], second["turn"]) == (1, 3)
    assert (first["n_tokens"], second["n_tokens"]) == (31, 40)
    for name, (expected,) in sum_by_row(tokens, np.array([71]), 100).items():
        assert first[name] + second[name] == pytest.approx(expected), name
    alone = score_rows(student, [ids[:40]], [spans[:4]], Work(1000), 100)
    assert first["rank_sum"] == alone["rank_sum"][0]
    assert first["surprisal_sum"] == pytest.approx(alone["surprisal_sum"][0], rel=1e-5)
    (cut,) = score_windows(student, [ids], [spans], Work(1000), 32)
    turns = sum_by_turn(cut, *turn_lengths(spans, owners), 100)
    assert [turn["n_tokens"] for turn in turns] == [31, 40]
    assert sum(turn["rank_sum"] for turn in turns) == np.minimum(cut.rank, 100).sum()
