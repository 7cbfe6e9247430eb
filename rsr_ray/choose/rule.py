"""rule: the value of each candidate that a choice goes by: a metric, or a control."""

import hashlib
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.codes import codes_of
from rsr_ray.config.choose import PoolConfig

# rule_quality, after LIMO (arXiv 2502.03387): weight and words of each kind.
KEYWORDS = {
    "checking": (0.20, ("check", "verify")),
    "exploring": (0.25, ("perhaps", "might")),
    "connecting": (0.25, ("therefore", "since")),
}
LENGTH_WEIGHT = 0.30
WORD = re.compile(r"\w+")


def evaluate(rows: pa.Table, config: PoolConfig) -> np.ndarray:
    """`config.by` of each row of CANDIDATES, float64 [N]; NaN for rows that are dropped."""
    values = np.full(rows.num_rows, np.nan)
    candidate = pc.is_null(rows["dropped"]).to_numpy(zero_copy_only=False)
    values[candidate] = _values(rows.filter(pa.array(candidate)), config)
    return values


def _values(rows: pa.Table, config: PoolConfig) -> np.ndarray:
    if config.by == "random":
        return random_draw(rows, config.seed)
    if config.by in ("longest", "shortest"):
        return rows["n_tokens"].to_numpy()
    prompts = codes(rows["prompt_id"])
    if config.by == "rule_quality":
        return rule_quality(rows, prompts)
    metric = config.metric
    assert metric is not None
    columns = {name: rows[name].to_numpy() for name in metric.columns}
    with np.errstate(divide="ignore", invalid="ignore"):
        return metric.values(columns, prompts)


def random_draw(rows: pa.Table, seed: int | str) -> np.ndarray:
    """A number in [0, 1) for each row, float64 [N]; it follows from the seed and the row's ids."""
    columns = [rows[name].to_pylist() for name in ("prompt_id", "teacher", "trajectory_id")]
    digests = [
        hashlib.sha256("\0".join((str(seed), *ids)).encode()).digest()[:8]
        for ids in zip(*columns, strict=True)
    ]
    first_53_bits = np.frombuffer(b"".join(digests), ">u8") >> 11
    return first_53_bits * 2.0**-53


def rule_quality(rows: pa.Table, prompts: np.ndarray) -> np.ndarray:
    """The rule-based quality that LIMO describes (arXiv 2502.03387), float64 [N]; higher is better.

    0.30 length + 0.20 self-verification + 0.25 exploration + 0.25 connectives, the last three as
    words per word of the text. Written from the paper's text; its code was not used. Standardising
    each among the prompt's candidates (minus the mean, over the population standard deviation; 0
    if all are equal) is this project's choice.
    """
    weights = {"n_tokens": LENGTH_WEIGHT} | {name: weight for name, (weight, _) in KEYWORDS.items()}
    quality = np.zeros(rows.num_rows)
    for name, weight in weights.items():
        quality = quality + weight * standardised(rows[name].to_numpy().astype(float), prompts)
    return quality


def standardised(values: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """float64 [N]: (value - mean) / standard deviation, both of the prompt; 0 if all are equal."""
    if not len(values):
        return np.zeros(0)
    _, group, n = np.unique(prompts, return_inverse=True, return_counts=True)
    centred = values - (np.bincount(group, values) / n)[group]
    deviation = np.sqrt(np.bincount(group, centred**2) / n)
    least = np.full(len(n), np.inf)
    most = np.full(len(n), -np.inf)
    np.minimum.at(least, group, values)
    np.maximum.at(most, group, values)
    varies = most > least
    return np.divide(centred, deviation[group], out=np.zeros_like(centred), where=varies[group])


def keyword_shares(text: str) -> dict[str, float]:
    """How often the words of each of KEYWORDS occur in the text, per word; in any letter case."""
    words = Counter(WORD.findall(text.lower()))
    n_words = max(words.total(), 1)
    return {
        name: sum(words[word] for word in kind) / n_words for name, (_, kind) in KEYWORDS.items()
    }


def codes(column: pa.ChunkedArray) -> np.ndarray:
    """int64 [N]: a number for each distinct text, counted in the order of first appearance."""
    return codes_of(pc.fill_null(column, ""))[0]
