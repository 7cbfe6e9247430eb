"""Every metric against its formula in float64, straight from logits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rsr_ray.engine.lm_head import token_stats
from rsr_ray.engine.sums import Tokens, metric_sums_by_row
from rsr_ray.metrics import REGISTRY, lark
from rsr_ray.schema import SCORES

# of passes of their own, or of sentences: tests/test_steps.py and tests/test_segments.py
LOCAL = {
    "n_within_sentences": np.array([2]),
    "surprisal_within_sentences_sum": np.array([5.0]),
    "n_steps": np.array([4.0]),
    "step_surprisal_sum": np.array([6.0]),
}


def brute(logits: np.ndarray, target: np.ndarray, r_max: int) -> dict[str, float]:
    """Each metric of one trajectory as its formula stands, a token at a time."""
    ranks, losses, entropies, briers = [], [], [], []
    for row, t in zip(logits.astype(np.float64), target, strict=True):
        p = np.exp(row - row.max())
        p /= p.sum()
        ranks.append(1 + sum(other > row[t] for other in row))
        losses.append(-math.log(p[t]))
        entropies.append(-sum(q * math.log(q) for q in p if q > 0))
        briers.append(1 - 2 * p[t] + sum(p * p))
    n = len(ranks)
    clipped = [min(r, r_max) for r in ranks]
    hardest = sorted(range(n), key=lambda i: -losses[i])
    ratio = [r / loss for r, loss in zip(clipped, losses, strict=True)]
    out = {
        "rsr": sum(clipped) / sum(losses),
        "rsr_unclipped": sum(ranks) / sum(losses),
        "rsr_mean": sum(clipped) / sum(losses),
        "rsr_token_mean": sum(ratio) / n,
        "rsr_token_mean_top30": np.mean([ratio[i] for i in hardest[: math.ceil(n * 3 / 10)]]),
        "rank_entropy_ratio": sum(clipped) / sum(entropies),
        "mean_rank": sum(clipped) / n,
        "mean_rank_unclipped": sum(ranks) / n,
        "mean_surprisal": sum(losses) / n,
        "mean_entropy": sum(entropies) / n,
        "min_k": np.mean([losses[i] for i in hardest[: math.ceil(n * 2 / 10)]]),
        "brier": sum(briers) / n,
        "improbable_share": sum(loss > -math.log(0.01) for loss in losses) / n,
        "n_tokens": n,
        "lark": 2 * sum(briers) / sum(losses)
        - sum(briers) / sum(losses),  # alone in its group: (1) (2 rho - rho)
        "local_naturalness": -1.5,
        "hes": sum(sorted(entropies)[-math.ceil(n / 200) :]),
        "aslec_drop": -2.5,
    }
    return out | {
        f"rsr_{clip}": sum(min(r, clip) for r in ranks) / sum(losses) for clip in (50, 200, 500)
    }


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 60),
    v=st.integers(5, 900),
    r_max=st.integers(1, 300),
)
def test_every_metric_equals_its_formula(seed, n, v, r_max):
    generator = torch.Generator().manual_seed(seed)
    logits, target = (
        torch.randn(n, v, generator=generator) * 3,
        torch.randint(0, v, (n,), generator=generator),
    )
    tokens = Tokens(*(values.numpy() for values in token_stats(logits, target)))
    sums = metric_sums_by_row(tokens, np.array([n]), r_max) | LOCAL
    assume(tokens.surprisal.min() > 0.01)  # nearer to 0 float32 itself keeps fewer digits of it
    want = brute(logits.numpy(), target.numpy(), r_max)
    assert want.keys() == REGISTRY.keys()
    for name, metric in REGISTRY.items():
        assert metric.values(sums, np.zeros(1, int))[0] == pytest.approx(
            want[name], rel=3e-5, abs=2e-5
        ), name


def test_rows_of_one_batch_do_not_mix():
    rng = np.random.default_rng(0)
    rows = [
        Tokens(
            rng.integers(1, 900, n),
            rng.exponential(2, n).astype("f4"),
            rng.random(n).astype("f4"),
            rng.random(n).astype("f4"),
        )
        for n in (7, 1, 40)
    ]
    together = metric_sums_by_row(Tokens.join(rows), np.array([7, 1, 40]), 100)
    for i, row in enumerate(rows):
        for name, values in metric_sums_by_row(row, np.array([len(row.rank)]), 100).items():
            assert values[0] == together[name][i], name


def test_equally_surprising_tokens_count_in_their_order():
    same = np.full(4, 2.0, "f4")
    sums = metric_sums_by_row(Tokens(np.array([5, 1, 1, 1]), same, same, same), np.array([4]), 100)
    assert (sums["n_top30"][0], sums["token_ratio_top30_sum"][0]) == (2, (5 + 1) / 2)


def test_a_surprisal_of_zero_gives_a_finite_ratio():
    zero = np.zeros(3, "f4")
    assert (
        metric_sums_by_row(Tokens(np.ones(3, int), zero, zero, zero), np.array([3]), 100)[
            "token_ratio_sum"
        ][0]
        == 3 * 2.0**24
    )


def test_a_teacher_weighs_every_trajectory_the_same():
    columns = {
        "rank_sum": np.array([10, 400]),
        "surprisal_sum": np.array([5.0, 100.0]),
        "n_tokens": np.array([5, 100]),
    }
    x, y = REGISTRY["rsr"].terms(columns)
    assert x.mean() / y.mean() == (2 + 4) / (1 + 1)
    x, y = REGISTRY["rsr_mean"].terms(columns)
    assert x.mean() / y.mean() == (2 + 4) / 2


def test_lark_is_taken_within_a_prompt():
    loss, brier, prompts = np.array([1.0, 3.0, 2.0]), np.array([0.5, 0.9, 0.8]), np.array([7, 7, 2])
    first = 1 / 4 * (2 * 0.5 - (0.5 * 1 + 0.3 * 3) / 4)
    second = 3 / 4 * (2 * 0.3 - (0.5 * 1 + 0.3 * 3) / 4)
    assert lark(loss, brier, prompts) == pytest.approx([first, second, 0.4])


def test_the_registry():
    for name, metric in REGISTRY.items():
        assert metric.name == name
        assert metric.better in ("lower", "higher", "-")
        assert set(metric.columns) <= set(SCORES.names)
        assert all((metric.formula, metric.unit, metric.source))
    assert [m.name for m in REGISTRY.values() if m.better == "higher"] == [
        "local_naturalness",
        "hes",
        "aslec_drop",
        "lark",
    ]
    assert REGISTRY["lark"].order(np.array([1.0, 2.0])).tolist() == [-1.0, -2.0]
