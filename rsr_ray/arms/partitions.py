"""partitions: what is done for arms where all rows of a prompt are together, before and after the
arms are found.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.choose.columns import CHOSEN
from rsr_ray.choose.offers import Offers, offered
from rsr_ray.choose.prompts import drop, mark_copies
from rsr_ray.choose.ranked import RankedCandidates
from rsr_ray.choose.rule import evaluate, random_draw
from rsr_ray.choose.summary import RowCounts, SetSums, added_texts
from rsr_ray.config.arms import ArmsConfig
from rsr_ray.metrics import REGISTRY

ARM = pa.field("arm", pa.string())
OF_ARMS = pa.schema([*CHOSEN, ARM])
BY_COST = ("low", "middle", "high")  # arms that the place of a row decides, and no draw


@dataclass(frozen=True)
class Found(RowCounts):
    """What partitions counted. Empty if there was no row."""

    candidates: SetSums = field(default_factory=lambda: SetSums(0, {}, {}))

    @classmethod
    def added(cls, texts: Iterable[str]) -> "Found":
        """Those of partitions, each as JSON, added up."""
        found = added_texts(texts)
        if not found:
            return cls()
        return cls(**found | {"candidates": SetSums.from_json(found["candidates"])})


def offer(rows: pa.Table, config: ArmsConfig, cut: pa.Array) -> pa.Table:
    """Ray Data UDF over partitions of CANDIDATES: the candidates as `Offers.of` takes them, and a
    row more that has nothing but `summary`, `Found` as JSON.

    Their numbers are the value, n_tokens, for flops also length (with the prompt), and, for each
    arm that is drawn, its draw. `cut` are prompts whose candidates are dropped.
    """
    rows, ranked = _ranked(rows, config, cut)
    every = np.ones(len(ranked.value), bool)
    found = Found(
        **vars(RowCounts.of_rows(rows)),
        candidates=SetSums.of(ranked.rows, ranked.prompt, every, config.metric),
    )
    numbers = {
        "value": ranked.value,
        "n_tokens": ranked.rows["n_tokens"].to_numpy().astype(np.int32),
        **{arm: draw(ranked.rows, config.seed, arm) for arm in config.arms if arm not in BY_COST},
    }
    if "flops" in config.match:
        numbers["length"] = length_of(ranked.rows).to_numpy().astype(np.int32)
    return offered(ranked, numbers, json.dumps(found, default=vars))


def take(rows: pa.Table, config: ArmsConfig, cut: pa.Array, chosen: pa.Table) -> pa.Table:
    """Ray Data UDF over partitions of CANDIDATES: the rows of the arms as OF_ARMS, and a row more
    that has nothing but `summary`: the `SetSums` of each arm as JSON.

    `chosen` (prompt_id, place, arm) are candidates, by their place within the prompt.
    """
    _, ranked = _ranked(rows, config, cut)
    taken, sums = [OF_ARMS.empty_table()], {}
    for arm in config.arms:
        own = chosen.filter(pc.equal(chosen["arm"], arm)).select(["prompt_id", "place"])
        some = ranked.are_among(own)
        sums[arm] = SetSums.of(ranked.rows, ranked.prompt, some, config.metric)
        of_arm = ranked.chosen_rows(some, config.criterion)
        taken.append(of_arm.append_column(ARM, pa.repeat(arm, of_arm.num_rows)))
    summary = json.dumps(sums, default=vars)
    return pa.concat_tables([*taken, pa.Table.from_pylist([{"summary": summary}], OF_ARMS)])


def named_rows(offers: Offers, chosen: np.ndarray, config: ArmsConfig) -> pa.Table:
    """What is chosen, bool [A, N], as `take` takes it."""
    place = offers.place
    return pa.concat_tables(
        pa.table(
            {
                "prompt_id": offers.prompts.take(pa.array(offers.prompt[rows])),
                "place": pa.array(place[rows], pa.int64()),
                "arm": pa.repeat(arm, int(rows.sum())),
            }
        )
        for arm, rows in zip(config.arms, chosen, strict=True)
    )


def sums_of_arms(texts: Iterable[str | None], config: ArmsConfig) -> dict[str, SetSums]:
    """By arm the sums that partitions gave as `summary`, added up."""
    sums = added_texts(text for text in texts if text)
    return {arm: SetSums.from_json(sums[arm]) for arm in config.arms}


def draw(rows: pa.Table, seed: int, arm: str) -> np.ndarray:
    """A number in [0, 1) of each row for an arm that is drawn, float64 [N]."""
    return random_draw(rows, f"{seed} {arm}")


def length_of(rows: pa.Table) -> pa.ChunkedArray:
    """Tokens of rows with their prompts."""
    return pc.add(rows["n_prompt_tokens"], rows["n_tokens"])


def _ranked(rows: pa.Table, config: ArmsConfig, cut: pa.Array) -> tuple[pa.Table, RankedCandidates]:
    """Rows of CANDIDATES with what no arm may have dropped, and the candidates."""
    rows = mark_copies(rows)
    if config.trainer_length is not None:
        # at least so long: what a row has between its answers is not counted
        long = pc.greater(length_of(rows), config.trainer_length)
        is_candidate = pc.is_null(rows["dropped"])
        rows = _without(rows, pc.unique(rows.filter(pc.and_(long, is_candidate))["prompt_id"]))
    candidate = pc.is_null(rows["dropped"]).to_numpy(zero_copy_only=False)
    rows = drop(rows, candidate & ~np.isfinite(evaluate(rows, config)), "no_value")
    rows = _without(rows, cut)
    better = REGISTRY[config.by].better
    values = evaluate(rows, config)
    return rows, RankedCandidates.of(rows, values, better if better != "-" else "lower")


def _without(rows: pa.Table, prompts: pa.Array) -> pa.Table:
    """The rows, the candidates of these prompts dropped."""
    which = pc.and_(pc.is_in(rows["prompt_id"], prompts), pc.is_null(rows["dropped"]))
    return drop(rows, which.to_numpy(zero_copy_only=False), "trainer_length")
