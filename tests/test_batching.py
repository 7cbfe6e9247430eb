import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rsr_ray.engine.batching import batches


@given(st.lists(st.integers(1, 5000), max_size=200), st.integers(1, 10_000), st.booleans())
def test_every_row_once_and_no_batch_over_the_budget(lengths, budget, packed):
    lengths = np.array(lengths, np.int64)
    out = batches(lengths, budget, packed=packed)
    assert sorted(i for batch in out for i in batch) == list(range(len(lengths)))
    for batch in out:
        positions = lengths[batch].sum() if packed else len(batch) * lengths[batch].max()
        assert len(batch) == 1 or positions <= budget


def test_similar_lengths_go_together():
    lengths = np.array([10, 1000] * 50)
    padded = sum(len(b) * lengths[b].max() for b in batches(lengths, 4000))
    assert padded < 1.1 * lengths.sum()


def test_little_padding_on_a_real_shaped_mix_of_lengths():
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(np.log(2000), np.log(6) / 1.645, 256)), 64, 32_768).astype(
        np.int64
    )
    padded = sum(len(b) * lengths[b].max() for b in batches(lengths, 32_768))
    assert padded < 1.06 * lengths.sum()
