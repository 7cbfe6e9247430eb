"""Attention in blocks against each architecture's own, which builds masks or scores of all queries
and keys.
"""

import copy

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from rsr_ray.engine.scoring import Work, score_rows
from rsr_ray.student import attention
from rsr_ray.student.attention import NAME, use_blocks, with_sink
from rsr_ray.student.model import Student

from .test_long import peak_of_tensors

WINDOW = 12
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 32,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": WINDOW,
    "pad_token_id": 0,
}
LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
KINDS = {
    "mistral": {},
    "mixtral": {},
    "ministral": LAYERS,
    "starcoder2": {},
    "phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "qwen2": LAYERS | {"use_sliding_window": True},
    "qwen3": LAYERS | {"use_sliding_window": True},
    "qwen3_moe": LAYERS | {"use_sliding_window": True},
    "smollm3": LAYERS | {"use_sliding_window": True},
    "cohere2": LAYERS,
    "olmo3": LAYERS,
    "exaone4": LAYERS,
    "gemma2": LAYERS | {"attn_logit_softcapping": 2.0},
    "gemma3_text": LAYERS,
    "gpt_oss": LAYERS,
    "granite_swa": LAYERS,
    "llama": {},
}


def model_of(kind: str, dtype: torch.dtype = torch.float32, **changes):
    """A model of random weights, with attention that tells keys well apart."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**(SIZES | KINDS.get(kind, {}) | changes))
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def rows_of(*lengths: int):
    rng = np.random.default_rng(0)
    return [rng.integers(1, 300, n).astype(np.int64) for n in lengths]


def own_states(model, row) -> torch.Tensor:
    """[T, D], by the architecture's own attention."""
    with torch.inference_mode():
        return model.base_model(input_ids=torch.from_numpy(row)[None], use_cache=False)[0][0]


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_those_of_the_architectures_own_attention(kind, monkeypatch):
    """Of rows shorter than a window, as long, and of several blocks, padded and packed."""
    monkeypatch.setattr(attention, "QUERIES", 16)
    model = model_of(kind)
    rows = rows_of(70, 33, WINDOW + 1, WINDOW, 5, 1)
    want = [own_states(model, row) for row in rows]
    student = Student.around(copy.deepcopy(model))
    assert student.model.config._attn_implementation == NAME
    longest = max(map(len, rows))
    padded = np.stack([np.pad(row, (0, longest - len(row))) for row in rows])
    at = np.concatenate([np.arange(len(row)) for row in rows])
    with torch.inference_mode():
        in_rectangle = student.hidden(padded)
        packed = student.hidden(np.concatenate(rows)[None], at[None])[0]
    first = 0
    for b, states in enumerate(want):
        scale = states.abs().max()
        last = first + len(states)
        assert (in_rectangle[b, : len(states)] - states).abs().max() < 1e-4 * scale
        assert (packed[first:last] - states).abs().max() < 1e-4 * scale
        first = last
    assert student.can_pack()


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gpt_oss"])
def test_memory_grows_with_the_length_alone(kind, monkeypatch):
    monkeypatch.setattr(attention, "QUERIES", 128)
    monkeypatch.setattr(attention, "SCORE_BYTES", 1 << 20)
    model = model_of(kind)
    student = Student.around(copy.deepcopy(model))
    short, long = rows_of(2048, 4096)

    def peak(states, row) -> int:
        with torch.inference_mode():
            return peak_of_tensors(lambda: states(row))

    def in_blocks(row):
        return student.hidden(row[None])

    twice = peak(in_blocks, long) / peak(in_blocks, short)
    own = peak(lambda row: own_states(model, row), long)
    share = own / peak(in_blocks, long)
    print(f"{kind}: {twice:.2f} x for twice the row, {share:.1f} x by its own attention")
    assert twice < 2.3
    assert share > 4


@pytest.mark.parametrize("kind", ["mamba", "bloom", "gpt_neo"])
def test_an_architecture_with_an_attention_of_its_own_keeps_it(kind):
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 2, "n_head": 2, "n_layer": 2}
    gpt_neo = {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW}
    config = CONFIG_MAPPING[kind](**(SIZES | small | (gpt_neo if kind == "gpt_neo" else {})))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert not use_blocks(model)
    row = rows_of(40)[0]
    want = own_states(model, row)
    with torch.inference_mode():
        assert torch.equal(Student.around(model).hidden(row[None])[0], want)


@pytest.mark.parametrize("kind", ["mamba", "recurrent_gemma", "qwen3_next", "lfm2"])
def test_rows_are_not_packed_where_one_would_go_on_in_the_state_of_another(kind):
    layers = {"lfm2": ["conv", "full_attention"]}.get(kind, ["linear_attention", "full_attention"])
    more = {} if kind in ("mamba", "recurrent_gemma") else {"layer_types": layers}
    model = model_of(kind, **more)
    assert not Student.around(model).can_pack()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [64, 80])
def test_the_score_of_a_sink_keeps_its_digits(dtype, size):
    query, key = torch.randn(1, 4, 7, size, dtype=dtype), torch.randn(1, 2, 7, size, dtype=dtype)
    sink = torch.tensor([0.1, -3.7, 1 / 3, 12.345])
    q, k, v = with_sink(query, key, key, sink * size**0.5)
    scores = q.double() @ k.double().repeat_interleave(2, 1).transpose(2, 3) * size**-0.5
    want = sink.double()[None, :, None].expand(1, 4, 7)
    torch.testing.assert_close(scores[..., 0], want, rtol=2e-6, atol=0)
    own = query.double() @ key.double().repeat_interleave(2, 1).transpose(2, 3) * size**-0.5
    torch.testing.assert_close(scores[..., 1:], own)
    assert not v[:, :, 0].any()


def test_scores_of_packed_rows_with_windows_are_those_of_single_rows(monkeypatch):
    monkeypatch.setattr(attention, "QUERIES", 16)
    student = Student.around(model_of("gpt_oss"))
    ids = [row.astype(np.int32) for row in rows_of(*range(3, 60, 4))]
    spans = [np.array([1, len(row)], np.int32) for row in ids]
    alone = score_rows(student, ids, spans, Work(1), 100)
    monkeypatch.setattr(student, "packed", True)
    work = Work(200)
    packed = score_rows(student, ids, spans, work, 100)
    assert work.padded == work.positions
    assert packed["rank_sum"].tolist() == alone["rank_sum"].tolist()
    np.testing.assert_allclose(packed["surprisal_sum"], alone["surprisal_sum"], rtol=1e-5)
