"""row_scores: what is known of the matched rows, from the store and from the race itself."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.files.objects import InputObject
from rsr_ray.guard import JUDGED_BY, as_numbers, degenerate
from rsr_ray.metrics import Metric
from rsr_ray.race.matched import Matched
from rsr_ray.store.store import Store
from rsr_ray.store.units import settle_units


class RowScores:
    """The scores and rejects of matched rows. Arrays are [N], over the rows of `matched`."""

    def __init__(
        self,
        matched: Matched,
        objects: list[InputObject],
        metric: Metric,
        *,
        keep_degenerate: bool = False,
    ):
        self.metric = metric
        self.keep_degenerate = keep_degenerate
        uris = pa.array([obj.uri for obj in objects])
        self.rows = matched.rows.append_column("source", uris.take(matched.rows["object"]))
        self.shape = (len(matched.prompts), len(matched.teachers))
        n = self.rows.num_rows
        self.known = np.zeros(n, bool)  # scored or rejected
        self.x = np.full(n, np.nan)  # the metric's terms; NaN if not known, or left out
        self.y = np.full(n, np.nan)
        self.rejected = np.full(n, None, object)  # reasons
        self.degenerate = np.zeros(n, bool)  # left out, as if they had no score
        self.n_tokens = np.zeros(n, np.int64)
        self.n_prompt_tokens = np.zeros(n, np.int64)

    def take_in(
        self, store: Store, fingerprint: str, names: list[str], key: tuple[str, ...]
    ) -> np.ndarray:
        """Take in what units hold of rows that were not known.

        Rows are the same if the columns `key` are. Returns which rows are new, bool [N].
        """
        new = np.zeros(len(self.known), bool)
        names = sorted({*names} - {*settle_units(names)[1]})
        if not names:
            return new
        of_metric = self.metric.columns
        counted = ("reject_reason", "n_tokens", "n_prompt_tokens")
        wanted = dict.fromkeys([*key, *counted, *of_metric, *JUDGED_BY])
        found = store.read_units(pa.table({"name": names}), fingerprint, list(wanted))
        at = pc.index_in(_joined(found, key), _joined(self.rows, key))
        at = pc.fill_null(at, -1).to_numpy()  # of each row found: index into the matched rows
        is_new = (at >= 0) & ~self.known[at]
        found = found.filter(pa.array(is_new))
        at = at[is_new]
        new[at] = True
        self.known[at] = True
        terms = self.metric.terms({name: found[name].to_numpy() for name in of_metric})
        self.x[at], self.y[at] = terms
        if not self.keep_degenerate:
            judged = {name: as_numbers(found[name]) for name in JUDGED_BY}
            self.degenerate[at] = degenerate(judged) == 1
            self.x[self.degenerate] = np.nan
        self.rejected[at] = found["reject_reason"].to_pylist()
        self.n_tokens[at] = pc.fill_null(found["n_tokens"], 0).to_numpy()
        self.n_prompt_tokens[at] = pc.fill_null(found["n_prompt_tokens"], 0).to_numpy()
        return new

    def terms(self) -> tuple[np.ndarray, np.ndarray]:
        """The metric's terms by prompt and teacher, float64 [P, T] each.

        Means over a teacher's answers to the prompt that have a score; NaN if none has.
        """
        scored = np.isfinite(self.x)
        indices = (self.rows["p"].to_numpy(), self.rows["t"].to_numpy())
        cell = np.ravel_multi_index(indices, self.shape)[scored]
        size = self.shape[0] * self.shape[1]
        n = np.bincount(cell, minlength=size)

        def mean(term: np.ndarray) -> np.ndarray:
            sums = np.bincount(cell, term[scored], size)
            return np.where(n > 0, sums / np.maximum(n, 1), np.nan).reshape(self.shape)

        return mean(self.x), mean(self.y)


def _joined(rows: pa.Table, names: tuple[str, ...]) -> pa.Array:
    """The columns of each row as one text."""
    columns = [rows[name].cast(pa.string()) for name in names]
    return pc.binary_join_element_wise(*columns, "\0").combine_chunks()
