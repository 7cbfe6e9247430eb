"""Sums over tokens and over trajectories. The scorer emits sums; ratios are taken at the end."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rsr_ray.metrics import FIRST_TOKENS, HARDEST, HIGH_ENTROPY, IMPROBABLE, LEAST_SURPRISAL

FIXED_POINT_BITS = 32  # resolution 2.3e-10
PartSums = dict[str, float | str]  # `turn` or `segment`, and the sums over its tokens by name


class Tokens(NamedTuple):
    """What the student says of scored tokens, each [N]."""

    rank: np.ndarray  # int64, from 1
    surprisal: np.ndarray  # float32, nats
    entropy: np.ndarray  # float32, nats
    square: np.ndarray  # float32, the sum of the squared probabilities of the whole vocabulary

    @classmethod
    def join(cls, parts: Iterable["Tokens"]) -> "Tokens":
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def split(self, lengths: Sequence[int] | np.ndarray) -> list["Tokens"]:
        """Those of each row, of rows one after the other with so many tokens each."""
        borders = np.cumsum(lengths)[:-1]
        columns = [np.split(values, borders) for values in self]
        return [Tokens(*row) for row in zip(*columns, strict=True)]

    @property
    def surprisal_total(self) -> float:
        """The sum of the surprisals; no finite number where an entropy is none."""
        entropy_total = self.entropy.sum(dtype=np.float64)
        return float(self.surprisal.sum(dtype=np.float64) + 0 * entropy_total)


def sum_by_row(tokens: Tokens, lengths: np.ndarray, r_max: int) -> dict[str, np.ndarray]:
    """The four sums of each row that rsr and its neighbours are made of.

    `tokens` holds the scored tokens of all rows one after the other, `lengths` int64 [R] how many
    each row has (all > 0, N in total). Returns int64 `n_tokens` and `rank_sum` (ranks clipped at
    r_max) and float64 `surprisal_sum` and `entropy_sum`, each [R]. A row's sums depend on its own
    tokens alone, added in their order.
    """
    add = _adder(lengths)
    return {
        "n_tokens": lengths.astype(np.int64),
        "rank_sum": add(np.minimum(tokens.rank, r_max)),
        "surprisal_sum": add(tokens.surprisal.astype(np.float64)),
        "entropy_sum": add(tokens.entropy.astype(np.float64)),
    }


def metric_sums_by_row(tokens: Tokens, lengths: np.ndarray, r_max: int) -> dict[str, np.ndarray]:
    """`sum_by_row`, and the sums and counts that the registry's other metrics need, each [R].

    The hardest tokens of a row are its ceil(share x length) most surprising ones, at least one; of
    equally surprising ones those that come first.
    """
    add = _adder(lengths)
    surprisal = tokens.surprisal.astype(np.float64)
    ratio = np.minimum(tokens.rank, r_max) / np.maximum(surprisal, LEAST_SURPRISAL)
    sums = sum_by_row(tokens, lengths, r_max)
    sums |= {f"rank_sum_{clip}": add(np.minimum(tokens.rank, clip)) for clip in (50, 200, 500)}
    sums["rank_sum_unclipped"] = add(tokens.rank)
    sums["token_ratio_sum"] = add(ratio)
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.empty(len(row), np.int64)  # 0 = the row's most surprising token
    place[np.lexsort((-surprisal, row))] = np.arange(len(row)) - np.repeat(
        np.cumsum(lengths) - lengths, lengths
    )
    for name, (share, whole) in HARDEST.items():
        sums[f"n_{name}"] = -(-lengths.astype(np.int64) * share // whole)
        hard = place < np.repeat(sums[f"n_{name}"], lengths)
        if name == "top30":
            sums["token_ratio_top30_sum"] = add(np.where(hard, ratio, 0.0))
        else:
            sums[f"surprisal_{name}_sum"] = add(np.where(hard, surprisal, 0.0))
    probability = np.exp(-surprisal)
    sums["brier_sum"] = add(1 - 2 * probability + tokens.square)
    sums["n_improbable"] = add((probability < IMPROBABLE).astype(np.int64))
    sums["high_entropy_sum"] = _high_entropy_sums(tokens.entropy.astype(np.float64), lengths)
    return sums


def _high_entropy_sums(entropy: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Over each row's ceil(HIGH_ENTROPY x length) highest entropies, float64 [R]."""
    share, whole = HIGH_ENTROPY
    sums = np.empty(len(lengths))
    for n, row in enumerate(np.split(entropy, np.cumsum(lengths)[:-1])):
        least = len(row) - -(-len(row) * share // whole)
        sums[n] = np.sort(np.partition(row, least)[least:]).sum()
    return sums


def sum_within_sentences(
    tokens: Tokens, lengths: np.ndarray, sentences: np.ndarray
) -> dict[str, np.ndarray]:
    """Count and surprisals of each row's tokens without the first FIRST_TOKENS of each sentence.

    Rows as in `sum_by_row`; `sentences` int [K] says how many tokens each sentence has, those of
    all rows one after the other.
    """
    place = np.arange(sentences.sum()) - np.repeat(np.cumsum(sentences) - sentences, sentences)
    within = place >= FIRST_TOKENS
    add = _adder(lengths)
    return {
        "n_within_sentences": add(within.astype(np.int64)),
        "surprisal_within_sentences_sum": add(
            np.where(within, tokens.surprisal.astype(np.float64), 0.0)
        ),
    }


def sum_by_turn(
    tokens: Tokens, turns: np.ndarray, lengths: np.ndarray, r_max: int
) -> list[PartSums]:
    """The sums of each of a row's turns, int [U], in order; `lengths` int64 [U] says how many of
    its tokens each has.
    """
    return _labelled("turn", turns.tolist(), sum_by_row(tokens, lengths, r_max))


def sum_by_segment(
    tokens: Tokens, lengths: np.ndarray, segments: np.ndarray, names: Sequence[str], r_max: int
) -> list[list[PartSums]]:
    """`metric_sums_by_row` of each segment that a row has, in the order of `names`, row by row.

    `segments` int [N] has the place among `names` of the segment that each token is in.
    """
    rows = np.repeat(np.arange(len(lengths)), lengths)
    part = rows * len(names) + segments
    together = np.argsort(part, kind="stable")
    parts, sizes = np.unique(part, return_counts=True)
    sums = metric_sums_by_row(Tokens(*(values[together] for values in tokens)), sizes, r_max)
    found: list[list[PartSums]] = [[] for _ in lengths]
    labelled = _labelled("segment", [names[n] for n in parts % len(names)], sums)
    for row, one in zip((parts // len(names)).tolist(), labelled, strict=True):
        found[row].append(one)
    return found


def _labelled(label: str, values: Sequence[Any], sums: dict[str, np.ndarray]) -> list[PartSums]:
    """Sums of parts as a struct each, with what the part is."""
    columns = {label: values} | {name: column.tolist() for name, column in sums.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def turn_lengths(spans: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The turns that a row's spans belong to, `owners` int [S], and how many of its scored
    tokens each has.
    """
    turns, place = np.unique(owners, return_inverse=True)
    return turns, np.bincount(place, np.diff(spans.reshape(-1, 2))[:, 0]).astype(np.int64)


def _adder(lengths: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    starts = np.cumsum(lengths) - lengths
    return lambda values: np.add.reduceat(values, starts)


def to_fixed(values: np.ndarray, n_parts: int = 2) -> tuple[np.ndarray, ...]:
    """float64 [N] in fixed point, as int64 [N] parts: two for |value| < 2**31, four for < 2**95.

    Each part counts 2**32 times the next, the last 2**-32. Integer sums of the parts are the same
    in whatever order they are taken, and fit int64 for 2**31 values.
    """
    parts, rest = [], values
    for power in range(FIXED_POINT_BITS * (n_parts - 2), -1, -FIXED_POINT_BITS):
        part = np.floor(np.ldexp(rest, -power))
        parts.append(part.astype(np.int64))
        rest = rest - np.ldexp(part, power)  # exact: these are its last bits
    return (*parts, np.rint(np.ldexp(rest, FIXED_POINT_BITS)).astype(np.int64))


def fixed_total(*parts: int) -> int:
    """The total of such sums, in units of 2**-32."""
    total = 0
    for part in parts:
        total = (total << FIXED_POINT_BITS) + part
    return total


def from_fixed(*parts: int) -> float:
    """The float64 nearest to the total of such sums."""
    return fixed_total(*parts) / (1 << FIXED_POINT_BITS)
