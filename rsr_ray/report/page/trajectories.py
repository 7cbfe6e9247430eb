"""trajectories: the best and the worst trajectories of each teacher, and the tokens that the
page's viewer shows of them.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsr_ray.corpus.row_faults import Row
from rsr_ray.decide.ends import SHOWN
from rsr_ray.errors import StoreError
from rsr_ray.metrics import Metric
from rsr_ray.report.page.summaries import RankedScores
from rsr_ray.store.store import Store

SHOWN_TEACHERS = 40
WINDOW = 40  # tokens shown together of the most surprising parts
BINS = 100  # of the strip that shows a whole trajectory


@dataclass(frozen=True)
class ShownTrajectory:
    """A row of the table of trajectories. JSON-able: its fields are keys of teachers.json."""

    trajectory_id: str
    content: str | None
    sample: int | None
    source: str
    source_row: int
    unit: str  # of the store, that holds its scores
    teacher: str
    prompt_id: str
    side: str  # best or worst
    value: float  # of the metric
    n_tokens: int
    mean_rank: float
    mean_surprisal: float  # nats per token

    @property
    def link(self) -> str:
        """The end of its permalink: the same on every page that shows it."""
        return short_hash([self.teacher, self.trajectory_id, self.content])


@dataclass(frozen=True)
class Strip:
    """A whole trajectory in at most BINS parts; part i begins at token i * n // len(strip)."""

    surprisal: list[float]  # mean of each part, in nats
    rank: list[float]  # mean of each part, clipped


@dataclass(frozen=True)
class ShownTokens:
    """What the viewer shows of a trajectory, with digits enough to be read.

    The lists `text` to `entropy` have the shown tokens, one part after the other.
    """

    n: int  # tokens of the trajectory
    parts: list[tuple[int, int]]  # [start, stop) of those that are shown
    text: list[str]
    rank: list[int]
    surprisal: list[float]  # nats
    entropy: list[float]  # nats
    strip: Strip

    def to_json(self) -> dict[str, Any]:
        """As page.js reads it."""
        return {**vars(self), "strip": vars(self.strip)}


def short_hash(value: list[str | None] | str) -> str:
    """What names a value in a link, whatever its characters."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def shown_trajectories(ranked: RankedScores, metric: Metric) -> list[ShownTrajectory]:
    """At most SHOWN best and as many worst trajectories of each of the first teachers, best
    teacher first.
    """
    scored = ranked.scored
    turned = metric.order(ranked.values)  # lower is better
    chosen: list[tuple[int, str]] = []  # indices into scored.rows, with their side
    for code in ranked.order[:SHOWN_TEACHERS]:
        mine = np.flatnonzero(scored.teacher == code)
        best_first = mine[np.argsort(turned[mine], kind="stable")].tolist()
        n_best = min(SHOWN, (len(best_first) + 1) // 2)
        worst = best_first[max(n_best, len(best_first) - SHOWN) :]
        chosen += [(i, "best") for i in best_first[:n_best]]
        chosen += [(i, "worst") for i in worst]
    rows = scored.rows.take([i for i, _ in chosen]).to_pylist()
    return [
        _shown_trajectory(ranked, i, side, row) for (i, side), row in zip(chosen, rows, strict=True)
    ]


def _shown_trajectory(ranked: RankedScores, i: int, side: str, row: Row) -> ShownTrajectory:
    """Trajectory i, of which `row` is the row of `scored.rows`."""
    scored = ranked.scored
    n_tokens = scored.columns["n_tokens"][i]
    return ShownTrajectory(
        **row,
        teacher=scored.teachers[scored.teacher[i]],
        prompt_id=scored.prompts[int(scored.prompt[i])].as_py(),
        side=side,
        value=float(ranked.values[i]),
        n_tokens=int(n_tokens),
        mean_rank=float(scored.columns["rank_sum"][i] / n_tokens),
        mean_surprisal=float(scored.columns["surprisal_sum"][i] / n_tokens),
    )


# --- tokens ---------------------------------------------------------------------------------------


def stored_tokens(store: Store, shown: list[ShownTrajectory], most: int) -> dict[int, ShownTokens]:
    """The tokens of shown[i] by i, at most `most` of each.

    Units of which the store has no token scores are left out. Raises StoreError if a unit has
    them, but not those of a shown trajectory.
    """
    fingerprint = store.generation()
    with_tokens = store.token_units(fingerprint)
    by_unit: dict[str, list[int]] = {}
    for i, row in enumerate(shown):
        if row.unit in with_tokens:
            by_unit.setdefault(row.unit, []).append(i)
    found: dict[int, ShownTokens] = {}
    for unit, mine in by_unit.items():
        tokens, facts = store.read_tokens(fingerprint, unit)
        sources = zip(tokens["source"].to_pylist(), tokens["source_row"].to_pylist(), strict=True)
        row_of = {key: n for n, key in enumerate(sources)}
        for i in mine:
            source, source_row = shown[i].source, shown[i].source_row
            if (source, source_row) not in row_of:
                raise StoreError(
                    f"store file {store.tokens_uri(fingerprint, unit)}: it has no token scores "
                    f"of {source} row {source_row}"
                )
            (row,) = tokens.slice(row_of[source, source_row], 1).to_pylist()
            found[i] = tokens_of(row, most, facts.r_max)
    return found


def tokens_of(row: Row, most: int, r_max: int) -> ShownTokens:
    """What the viewer shows of a TOKENS row, at most `most` tokens."""
    surprisal = np.array(row["surprisal"])
    parts = parts_of(surprisal, most)
    text, rank, surprisals, entropies = (
        [value for start, stop in parts for value in row[name][start:stop]]
        for name in ("text", "rank", "surprisal", "entropy")
    )
    return ShownTokens(
        n=len(surprisal),
        parts=parts,
        text=text,
        rank=rank,
        surprisal=[round(value, 2) for value in surprisals],
        entropy=[round(value, 2) for value in entropies],
        strip=_strip(surprisal, np.minimum(row["rank"], r_max)),
    )


def _strip(surprisal: np.ndarray, rank: np.ndarray) -> Strip:
    """The strip of a trajectory's surprisals and clipped ranks, each [tokens]."""
    n = len(surprisal)
    bins = min(BINS, n)
    edges = np.arange(bins + 1) * n // bins

    def means(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, edges[:-1]) / np.diff(edges)

    return Strip(means(surprisal).round(2).tolist(), means(rank).round(1).tolist())


def parts_of(surprisal: np.ndarray, most: int) -> list[tuple[int, int]]:
    """[start, stop) of the tokens to show: all of them, or the opening and those windows apart
    from each other that surprise most.
    """
    if len(surprisal) <= most:
        return [(0, len(surprisal))]
    n_windows = 3 * most // 4 // WINDOW
    opening = most - n_windows * WINDOW
    before = np.cumsum([0.0, *surprisal[opening:]])
    sums = before[WINDOW:] - before[:-WINDOW]
    starts: list[int] = []
    while len(starts) < n_windows and sums.max() >= 0:
        start = int(sums.argmax())
        starts.append(opening + start)
        sums[max(0, start - WINDOW + 1) : start + WINDOW] = -1
    parts = [(0, opening)]
    for start in sorted(starts):
        touches = start == parts[-1][1]
        parts.append((parts.pop()[0] if touches else start, start + WINDOW))
    return parts
