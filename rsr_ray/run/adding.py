"""adding: what units of the store lack beside their scores is added to them.

The scores stay, to the bit: token scores are files of their own, and a unit that gets sums is
written again with the columns it had. Each is a file that is there whole or not at all, and what a
unit lacks is looked up again before it is added to, so a run that is killed, or does a unit twice,
leaves nothing half done. Where other batches or another machine round differently, the tokens add
up to other sums than are stored: that is measured and said.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.engine.sums import Tokens, metric_sums_by_row
from rsr_ray.errors import BadRow
from rsr_ray.run.counts import Added
from rsr_ray.run.score_table import spread_parts, token_table, tokens_of_table
from rsr_ray.schema import SCORES
from rsr_ray.store.beside import Beside, Generation
from rsr_ray.store.store import Store

if TYPE_CHECKING:
    from rsr_ray.run.score import Scorer

WHO = ("trajectory_id", "teacher", "source", "source_row", "content")  # says that a row is the same
Passed = dict[str, int]  # tokens that went through the student


class Adder:
    """Adds to the units of a generation what is asked for beside their scores."""

    def __init__(self, scorer: "Scorer", store: Store, generation: Generation, asked: Beside):
        self.scorer = scorer
        self.store = store
        self.generation = generation
        self.asked = asked

    def add_to(self, name: str, rows: pa.RecordBatch) -> tuple[Added, Passed]:
        """Add to the unit `name`, whose rows `rows` are, ENCODED_ROWS."""
        none = {"n_tokens": 0, "n_prompt_tokens": 0}
        try:
            stored, has, kept = self._read(name)
        except FileNotFoundError:
            return _failed(name, "another run has removed it"), none
        if not (missing := self.asked.missing(has)):  # another run, or another try, was first
            return Added(), none
        at = np.flatnonzero(stored["reject_reason"].is_null().to_numpy())
        scored = rows.take(pa.array(at)) if len(rows) == len(stored) else rows
        if not _are_same(rows, stored) or (kept is not None and len(kept) != len(at)):
            return _failed(name, "its rows are not read as they were when they were scored"), none
        if rejects := scored["reject_reason"].drop_null():
            return _failed(name, f"a row that was scored is now rejected: {rejects[0]}"), none
        if kept is not None:
            tokens, passed = tokens_of_table(kept), none
        else:
            found = self.scorer.tokens_of(scored)
            passed = {n: pc.sum(stored[n]).as_py() or 0 for n in none}
            if bad := [row for row in found if isinstance(row, BadRow)]:
                return _failed(name, f"a row that was scored is now {bad[0].reason}"), passed
            tokens = [row for row in found if isinstance(row, Tokens)]
        added = Added(trajectories=len(at))
        if kept is None and len(at):
            added = _compared(tokens, stored.take(at), self.scorer.wanted.r_max)
        return self._write(name, missing, at, scored, tokens, added), passed

    def _read(self, name: str) -> tuple[pa.Table, Beside, pa.Table | None]:
        """A unit's SCORES rows, what it has, and its TOKENS rows if there are any.

        Raises FileNotFoundError without the unit.
        """
        fingerprint = self.generation.fingerprint
        stored = self.store.read_unit(fingerprint, name)
        mark = self.store.read_mark(fingerprint, name) or self.generation.kept.mark
        try:
            kept = self.store.read_tokens(fingerprint, name)[0]
        except FileNotFoundError:
            kept = None
        return stored, Beside.of_mark(mark, token_scores=kept is not None), kept

    def _write(
        self,
        name: str,
        missing: Beside,
        at: np.ndarray,
        scored: pa.RecordBatch,
        tokens: list[Tokens],
        added: Added,
    ) -> Added:
        """Write what is missing; `at` are the places of the scored rows in the unit."""
        fingerprint = self.generation.fingerprint
        r_max = self.scorer.wanted.r_max
        if missing.token_scores:
            table = token_table(scored, tokens)
            self.store.write_tokens(fingerprint, name, table, r_max, added.off)
        if not missing.has_sums:
            return added
        parts: dict[str, Any] = {"turns": [], "segments": []}
        if tokens:
            lengths = np.array([len(row.rank) for row in tokens])
            parts = self.scorer.parts(scored, tokens, Tokens.join(tokens), lengths)
        stored, has, _ = self._read(name)  # what another run has added meanwhile stays
        for column in ["turns"] * missing.per_turn + ["segments"] * (missing.segments is not None):
            values = spread_parts(parts[column], at, column, len(stored))
            place = stored.schema.get_field_index(column)
            stored = stored.set_column(place, SCORES.field(column).remove_metadata(), values)
        mark = (has | missing).mark
        self.store.write_scores(fingerprint, name, stored, mark)
        return replace(added, mark=mark)


def _failed(name: str, why: str) -> Added:
    return Added(problems=(f"{name}: {why}",))


def _are_same(rows: pa.RecordBatch, stored: pa.Table) -> bool:
    """Whether ENCODED_ROWS rows are those that a unit's scores are of."""
    return all(rows[name].equals(stored[name].combine_chunks()) for name in WHO)


def _compared(tokens: list[Tokens], stored: pa.Table, r_max: int) -> Added:
    """How far the sums of tokens are from those stored of the same rows."""
    lengths = np.array([len(row.rank) for row in tokens])
    sums = metric_sums_by_row(Tokens.join(tokens), lengths, r_max)
    off = 0.0
    others, ranks = (np.zeros(len(tokens), bool) for _ in range(2))
    for name, now in sums.items():
        was = stored[name].to_numpy()
        differs = was != now
        others |= differs
        if name.startswith("rank_sum"):
            ranks |= differs
        off = max(off, float((np.abs(was - now) / np.maximum(np.abs(was), 1e-300)).max()))
    return Added(
        trajectories=len(tokens),
        other_sums=int(others.sum()),
        other_ranks=int(ranks.sum()),
        off=off,
    )
