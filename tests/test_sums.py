import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_ray.engine.sums import Tokens, from_fixed, sum_by_row, to_fixed


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    r_max=st.integers(1, 200),
    seed=st.integers(0, 1000),
)
def test_sums_and_the_clip_bounds(lengths, r_max, seed):
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    rank, surprisal, entropy = (
        rng.integers(1, 5000, n),
        rng.random(n).astype(np.float32),
        rng.random(n).astype(np.float32),
    )
    sums = sum_by_row(Tokens(rank, surprisal, entropy, entropy), np.array(lengths), r_max)
    start = 0
    for i, length in enumerate(lengths):
        of_row = slice(start, start := start + length)
        assert sums["n_tokens"][i] == length
        assert sums["rank_sum"][i] == sum(min(int(r), r_max) for r in rank[of_row])
        assert length <= sums["rank_sum"][i] <= r_max * length
        assert sums["surprisal_sum"][i] == pytest.approx(
            math.fsum(surprisal[of_row].tolist()), rel=1e-12
        )
        assert sums["entropy_sum"][i] == pytest.approx(
            math.fsum(entropy[of_row].tolist()), rel=1e-12
        )


def test_no_rows():
    assert (
        sum_by_row(Tokens(*(np.empty(0),) * 4), np.empty(0, np.int64), 100)["rank_sum"].tolist()
        == []
    )


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=50), st.randoms())
def test_fixed_point_totals_do_not_depend_on_the_order(values, random):
    def total(values):
        return from_fixed(*(int(part.sum()) for part in to_fixed(np.array(values))))

    shuffled = random.sample(values, len(values))
    assert total(values) == total(shuffled)
    assert total(values) == pytest.approx(math.fsum(values), rel=1e-12, abs=len(values) * 2**-32)
