"""Long rows and half precision: memory follows the work, and batches change no more than the
stated budget.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rsr_ray.engine.lm_head import token_stats
from rsr_ray.engine.scoring import Work, score_rows
from rsr_ray.student.model import Student

from .conftest import DEMO_STUDENT, few

MOST = 131_072


def peak_of_tensors(work: Callable[[], object]) -> int:
    """Most bytes that torch held at once above what it held before.

    Exact, where a process's memory also has what matrix libraries and the C library keep: 0.15 GiB
    more on one processor than on another.
    """
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    return int(np.cumsum([e.nbytes() for e in events]).max())


@pytest.mark.parametrize("length", [MOST * 9 // 64, pytest.param(MOST, marks=pytest.mark.slow)])
def test_a_long_row_on_a_cpu(tmp_path, length):
    """Its memory is a fixed sum and what grows with the length alone, not with its square or
    with length times vocabulary.
    """
    config = Qwen3Config(
        vocab_size=5000, hidden_size=256, intermediate_size=1024, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, head_dim=8, max_position_embeddings=MOST,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).eval()
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.3)
    model.save_pretrained(tmp_path)
    student = Student(str(tmp_path), "float32", "cpu")
    row = np.random.default_rng(0).integers(0, 5000, length).astype(np.int32)
    got = {}
    peak = peak_of_tensors(
        lambda: got.update(
            score_rows(student, [row], [np.array([length // 3, length])], Work(4096), 100)
        )
    )
    # 8,600 to 10,300 bytes a position; 15,400 with feed-forward layers in one piece
    assert peak < 12_000 * length

    # The full logits, through the model's own forward, a piece of the sequence at a time.
    ids = torch.from_numpy(row).long()
    first = length // 3
    rank_sum, surprisal_sum, entropy_sum = 0, 0.0, 0.0
    with torch.inference_mode():
        hidden = model.model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        for start in range(first, length, 8192):
            at = slice(start - 1, min(start + 8192, length) - 1)
            stats = token_stats(model.lm_head(hidden[at]), ids[at.start + 1 : at.stop + 1])
            rank_sum += int(stats.rank.clamp_max(100).sum())
            surprisal_sum += float(stats.surprisal.double().sum())
            entropy_sum += float(stats.entropy.double().sum())
    print(
        f"peak above weights {peak / (1 << 30):.2f} GiB; rank sums {got['rank_sum'][0]} and "
        f"{rank_sum}"
    )
    assert got["n_tokens"][0] == length - first
    assert got["rank_sum"][0] == pytest.approx(rank_sum, rel=1e-6)  # near ties
    assert got["surprisal_sum"][0] == pytest.approx(surprisal_sum, rel=1e-6)
    assert got["entropy_sum"][0] == pytest.approx(entropy_sum, rel=1e-6)


def test_what_batch_composition_changes_in_bfloat16():
    """bfloat16 keeps 8 bits: two ways of adding the same hidden state differ by up to 2^-8 of a
    logit's size, so a rank may move where other logits lie that near.

    The budget: sums of ranks within 2%, of surprisals within 0.5%, a row; no drift over rows.
    """
    student = Student(str(DEMO_STUDENT), "bfloat16", "cpu")
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 600, n).astype(np.int32) for n in rng.integers(40, 200, few(60, 25))]
    spans = [np.array([1, len(row)], np.int32) for row in ids]
    alone, together = (score_rows(student, ids, spans, Work(tokens), 100) for tokens in (1, 8192))
    moved = np.abs(together["rank_sum"] - alone["rank_sum"])
    print(f"bfloat16: rank sums that differ between batches of one and of many: "
        f"{np.mean(moved > 0):.0%} of rows, "
          f"{moved.sum() / alone['rank_sum'].sum():.2e} of all ranks")  # fmt: skip
    assert (moved <= 0.02 * alone["rank_sum"]).all()
    np.testing.assert_allclose(together["surprisal_sum"], alone["surprisal_sum"], rtol=5e-3)
    assert together["rank_sum"].sum() == pytest.approx(alone["rank_sum"].sum(), rel=2e-3)
