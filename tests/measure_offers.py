"""Time and memory of what arms, or a cap, make of all candidates on the driver:
python -m tests.measure_offers arms|cap [10000000]

Of made-up numbers of 40 teachers' candidates, in as many partitions as a choice has: arms (low,
middle, random) of 100 rows of each teacher and the same tokens, or a cap of 3% on one row a prompt.
"""

import resource
import sys
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from rsr_ray.arms.manifest import describe_arms
from rsr_ray.arms.pool import Request
from rsr_ray.arms.solve import solve_request
from rsr_ray.choose.cap import cap_shares
from rsr_ray.choose.choose import MOST_PARTITIONS
from rsr_ray.choose.offers import Offers, offered
from rsr_ray.choose.ranked import RankedCandidates
from rsr_ray.choose.summary import SetSums
from rsr_ray.config.arms import ArmsConfig

TEACHERS = 40
ARMS = ("low", "middle", "random")


def blocks(n_rows: int, names: tuple[str, ...]) -> Iterator[pa.Table]:
    """Partitions of candidates with these numbers, as `Offers.of` takes them."""
    n_prompts = n_rows // TEACHERS
    for part in range(MOST_PARTITIONS):
        rng = np.random.default_rng(part)
        prompts = np.arange(part, n_prompts, MOST_PARTITIONS)
        values = rng.lognormal(0, 0.3, (len(prompts), TEACHERS)) + np.arange(TEACHERS) / 300
        teacher, value = np.argsort(values, axis=1).ravel(), np.sort(values, axis=1).ravel()
        prompt = np.repeat(prompts, TEACHERS)
        n = len(prompt)
        ids = pa.array([f"problem-{p}" for p in prompts.tolist()])
        rows = pa.table(
            {
                "prompt_id": ids.take(pa.array(np.repeat(np.arange(len(prompts)), TEACHERS))),
                "teacher": pa.array([f"t{t:02d}" for t in range(TEACHERS)]).take(pa.array(teacher)),
            }
        )
        numbers = {name: rng.random(n) for name in names}
        if "value" in names:
            numbers |= {"value": value, "n_tokens": rng.integers(100, 20_000, n).astype(np.int32)}
        else:
            numbers |= {"order": value}
        yield offered(RankedCandidates(rows, prompt, value, value, prompt), numbers)


def arms(n_rows: int) -> str:
    config = ArmsConfig(store="s", student="s", out="o", arms=ARMS, per_teacher=100)
    request = _request(n_rows, config)
    begun = time.monotonic()
    chosen = solve_request(request, config)
    none = dict.fromkeys(ARMS, SetSums(0, {1: 1}, {}))
    told = describe_arms(request, chosen, none, config)
    places = ", ".join(f"{arm.name} {arm.place:.4f} and {arm.free_place}" for arm in told)
    return f"arms in {time.monotonic() - begun:.1f} s: places {places}"


def _request(n_rows: int, config: ArmsConfig) -> Request:
    offers = _gathered(n_rows, ("value", "random"))
    return Request.of(offers, {"tokens": offers.numbers["n_tokens"].astype(float)}, config)


def cap(n_rows: int) -> str:
    offers = _gathered(n_rows, ())
    begun = time.monotonic()
    capped = cap_shares(offers, 1, 0.03)
    return f"{capped.exchanged.num_rows:,} rows exchanged in {time.monotonic() - begun:.1f} s"


def _gathered(n_rows: int, names: tuple[str, ...]) -> Offers:
    begun = time.monotonic()
    offers = Offers.of(blocks(n_rows, names))
    print(
        f"{len(offers.prompt):,} made and gathered in {time.monotonic() - begun:.1f} s", flush=True
    )
    return offers


if __name__ == "__main__":
    print({"arms": arms, "cap": cap}[sys.argv[1]](int((sys.argv[2:] or ["10000000"])[0])))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = used.ru_utime + used.ru_stime
    print(f"{seconds:.0f} s of processors, peak {used.ru_maxrss / 1024:.0f} MiB")
