"""Objects go to the workers in blocks: not too many, none too large, small ones at the end."""

import numpy as np
import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from rsr_ray.run.datasets import MOST, ROUNDS, shared_out

sizes = st.one_of(
    st.lists(st.integers(0, 10**12), max_size=300),
    st.tuples(st.integers(1, 30_000), st.sampled_from([0, 1, 70_000]), st.integers(0, 999)).map(
        lambda of: np.random.default_rng(of[2]).integers(0, of[1] + 1, of[0]).tolist()
    ),
)


def shared(sizes: list[int], workers: int) -> list[list[int]]:
    """The places of objects of these sizes, block by block."""
    table = pa.table({"at": pa.array(range(len(sizes))), "size": pa.array(sizes, pa.int64())})
    return [block["at"].to_pylist() for block in shared_out(table, workers)]


@given(sizes, st.integers(1, 300))
@example([1] * 100_000, 1)
@example([1] * 99_999 + [10**12], 8)
@example([0] * 100_000, 64)
def test_objects_stay_in_order_in_few_blocks_of_little_work(sizes, workers):
    blocks = shared(sizes, workers)
    assert [at for block in blocks for at in block] == list(range(len(sizes)))
    assert all(blocks)
    n, total = len(sizes), max(1, sum(sizes))
    work = [sum(sizes[at] / total + 1 / n for at in block) / 2 for block in blocks]
    left = 1.0
    for block, share in zip(blocks, work, strict=True):
        if len(block) > 1:
            assert share <= min(1 / MOST, left / (ROUNDS * workers)) + 1e-9
        left -= share
    # where all are small: as many as MOST are, and those that get smaller towards the end
    ending = ROUNDS * workers * (1 + max(0, np.log(n / MOST))) if n else 0
    assert len(blocks) <= min(n, 2 * (MOST + 2 * ending) + 2)


@given(st.lists(st.integers(1, 10**9), max_size=MOST), st.integers(1, 300))
def test_of_few_objects_each_has_its_own(sizes, workers):
    assert len(shared(sizes, workers)) == len(sizes)


def test_the_last_objects_go_one_by_one():
    blocks = shared([70_000] * 100_000, workers=4)
    assert len(blocks) < 1300
    assert {len(block) for block in blocks[:900]} <= {99, 100}
    assert [len(block) for block in blocks[-32:]] == [1] * 32
