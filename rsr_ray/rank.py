"""rank: score rows -> a ranking of teachers by any metric, and how sure it is.

All of it is paired by prompt: teachers are compared on the same prompts. How sure a ranking is, inference.py says. Legend: N
trajectories, P prompts, T teachers.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from rsr_ray.errors import UserError
from rsr_ray.inference import (
    DRAWS,
    FEWEST,
    MOST,
    Chances,
    Interval,
    Places,
    chances,
    influence,
    interval,
    more_prompts,
    place_bounds,
    share_first,
)
from rsr_ray.metrics import REGISTRY, RSR, Metric
from rsr_ray.store import Store, settle_units

LOCAL = REGISTRY["local_naturalness"]
COLLAPSED = 0.95  # rank correlation of local with global naturalness above which the two are one
NAMED = 5  # teachers that the answer names before it only counts
PAIRED = 100  # teachers of which the probability of each pairwise order is told
ROW = ["trajectory_id", "content", "sample", "source", "source_row"]
GROUPS_TRIED = 12  # teachers from which a group that shares prompts is sought


@dataclass(frozen=True)
class Scored:
    """The scored trajectories of a student, each once, sorted by teacher and id."""

    teachers: list[str]  # [T], sorted
    prompts: pa.Array  # string [P], sorted
    teacher: np.ndarray  # int [N]: index into teachers
    prompt: np.ndarray  # int [N]: index into prompts
    columns: dict[str, np.ndarray]  # each [N]; NaN where the store has null
    rows: pa.Table  # [N]: trajectory_id, sample, source, source_row, and the unit that holds it
    notes: tuple[str, ...] = ()  # what the store lacks of what was scored, a sentence each

    def has(self, metric: Metric) -> bool:
        """Whether all rows have what the metric is made of."""
        return not any(np.isnan(self.columns[name]).any() for name in metric.columns)

    def matrices(self, metric: Metric) -> "Matrices":
        """The metric's terms by prompt and teacher. Raises UserError where not all rows have what it is made of."""
        if not self.has(metric):
            raise UserError(f"{metric.name}: not all rows of the store have {', '.join(metric.columns)}; score them with --metrics {metric.name}")
        cell = self.prompt * len(self.teachers) + self.teacher
        shape, size = (len(self.prompts), len(self.teachers)), len(self.prompts) * len(self.teachers)
        x, y = metric.terms(self.columns, self.prompt)
        return Matrices(*(np.bincount(cell, weights, size).reshape(shape) for weights in (x, y, None)))

    def only(self, teachers: Iterable[str]) -> "Scored":
        """The trajectories of some teachers. Raises UserError for one that is not there."""
        wanted = sorted({*teachers})
        if unknown := [name for name in wanted if name not in self.teachers]:
            raise UserError(f"--teachers {' '.join(unknown)}: not in the store; it has {', '.join(self.teachers)}")
        keep = np.isin(self.teacher, [self.teachers.index(name) for name in wanted])
        prompts, prompt = np.unique(self.prompt[keep], return_inverse=True)
        _, teacher = np.unique(self.teacher[keep], return_inverse=True)
        return Scored(
            wanted,
            self.prompts.take(pa.array(prompts)),
            teacher,
            prompt,
            {name: values[keep] for name, values in self.columns.items()},
            self.rows.filter(pa.array(keep)),
            self.notes,
        )


@dataclass(frozen=True)
class Matrices:
    """Sums of a metric's terms over the answers of a teacher to a prompt, float64 [P, T], and how many there are, [P, T]."""

    x: np.ndarray
    y: np.ndarray
    n: np.ndarray

    def matched(self) -> "Matrices":
        """Only prompts that every teacher answered, and of several answers of a teacher their mean: every prompt weighs the same."""
        whole = (self.n > 0).all(1)
        n = self.n[whole]
        return Matrices(self.x[whole] / n, self.y[whole] / n, np.ones_like(n))

    def compared(self) -> tuple["Matrices", bool]:
        """What teachers are compared on: the prompts that all of them answered (True), or all, where there are none (False)."""
        matched = self.matched()
        return (matched, True) if len(matched.x) else (self, False)

    def teachers(self, order: np.ndarray) -> "Matrices":
        """The columns of teachers, int [K], in this order."""
        return Matrices(self.x[:, order], self.y[:, order], self.n[:, order])

    def values(self) -> np.ndarray:
        """The metric of each teacher, [T]; NaN for one without an answer."""
        return _ratio(self.x.sum(0), self.y.sum(0))


def load_scored(store: Store, metrics: Iterable[Metric] = REGISTRY.values(), more: Iterable[str] = ()) -> Scored:
    """The score rows that the store's teachers table was made of. Raises UserError where there are none.

    `more` names further number columns of SCORES. A trajectory_id that a teacher has twice counts once, the first by source
    and row. Where the store's rows are no longer those of the table, `notes` say so. Raises StoreError for a broken file.
    """
    fingerprint = store.generation()
    scored = load_units(store, fingerprint, store.units().get(fingerprint, []), [*metrics, RSR], more)
    said = store.notes(fingerprint)
    if store.made_of().units and not gives(scored, store.read_teachers().to_pylist()):
        said.append(f"{store.teachers_uri} says other numbers than the scores beside it: the next run of rsr-ray score makes it again")
    return dataclasses.replace(scored, notes=tuple(said))


def gives(scored: Scored, table: list[dict[str, Any]]) -> bool:
    """Whether rows give these TEACHERS rows: the same teachers, trajectories and rsr."""
    made_of = {t["teacher"]: t for t in table if t["n_trajectories"]}
    if scored.teachers != sorted(made_of):
        return False
    every = scored.matrices(RSR)
    counts, values = [made_of[name]["n_trajectories"] for name in scored.teachers], [made_of[name]["rsr"] for name in scored.teachers]
    return every.n.sum(0).tolist() == counts and np.allclose(every.values(), values, rtol=1e-9, atol=0)


def load_units(store: Store, fingerprint: str, names: list[str], metrics: Iterable[Metric], more: Iterable[str] = ()) -> Scored:
    """The score rows of these units, as `load_scored` has them. Raises UserError where there are none."""
    if not names:
        raise UserError(f"store {store.uri}: no scores of student {store.student_name}: run rsr-ray score")
    _, repeated = settle_units(names)
    numbers = list(dict.fromkeys(["n_tokens", "surprisal_sum", *(column for metric in metrics for column in metric.columns), *more]))
    columns = ["teacher", "prompt_id", "reject_reason", *ROW, *numbers]

    def read(name: str) -> pa.Table:
        table = store.read_unit(fingerprint, name, columns)
        table = table.filter(table["reject_reason"].is_null()).drop_columns(["reject_reason"])
        for column in ("teacher", "source"):
            table = table.set_column(table.schema.get_field_index(column), column, table[column].dictionary_encode())
        return table.append_column("unit", pa.repeat(name, table.num_rows).dictionary_encode())

    with ThreadPoolExecutor(8) as pool:
        tables = list(pool.map(read, sorted(set(names) - set(repeated))))
    if not sum(table.num_rows for table in tables):
        raise UserError(f"store {store.uri}: nothing of student {store.student_name} was scored: every row was rejected")
    rows = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    teacher, teachers = _codes(rows["teacher"])
    trajectory, _ = _codes(rows["trajectory_id"])
    content, _ = _codes(pc.fill_null(rows["content"], ""))
    order = np.lexsort((rows["source_row"].to_numpy(), _codes(rows["source"])[0], content, trajectory, teacher))
    first = np.ones(len(order), bool)
    first[1:] = np.logical_or.reduce([np.diff(code[order]) != 0 for code in (teacher, trajectory, content)])
    order = order[first]
    prompt, prompts = _codes(rows["prompt_id"].take(pa.array(order)))
    values = {name: rows[name].to_numpy()[order] for name in numbers}
    return Scored(teachers.to_pylist(), prompts, teacher[order], prompt, values, rows.select([*ROW, "unit"]).take(pa.array(order)))


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """A column as int64 [N] indices into its sorted distinct values, and these."""
    encoded = (column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    order = pc.sort_indices(encoded.dictionary)
    place = np.empty(len(order), np.int64)
    place[order.to_numpy()] = np.arange(len(order))
    return place[encoded.indices.to_numpy()], encoded.dictionary.take(order)


def _ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.divide(x, y, out=np.full(np.shape(x), np.nan), where=y != 0)


@dataclass(frozen=True)
class Certainty:
    """What is known of an order of teachers on prompts like those it was seen on."""

    places: Places
    chances: Chances
    rival: int | None  # the next one that may be best as well; None where the first surely is
    more_prompts: int | None  # that would tell the first from it

    @classmethod
    def of(cls, compared: Matrices, metric: Metric, confidence: float, seed: int) -> "Certainty":
        """Of teachers that are in the order of their values."""
        values, each = influence(compared.x, compared.y)
        values, each = metric.order(values), metric.order(each)
        places = place_bounds(values, each, confidence, seed)
        rival = next((int(t) for t in places.best if t), None)
        more = more_prompts(values, each, (0, rival), places.critical) if rival else None
        return cls(places, chances(values, each, seed), rival, more)


def rank_teachers(scored: Scored, metric: Metric, *, confidence: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """The ranking of teachers by a metric on the prompts that all of them answered, with what is known of its certainty.

    Where there are none, on all prompts (`matched` is False): such a ranking has values and their intervals, but says
    nothing of how sure an order is, nor does one on fewer than FEWEST prompts or of more than MOST teachers. All that is said
    of certainty is of prompts like these. JSON-able: NaN is None. Keys:

    metric, better, confidence, draws, seed, matched, n_prompts, n_prompts_all, n_trajectories, sentence, notes
    teachers: best first, each teacher, place, value, low, high (inference.interval), first_place, last_place (bounds on the
        place that hold for all teachers at once), p_best, won (share of prompts, a tie shared), all (value, low, high, error
        and n_prompts on all its prompts), and over its trajectories n_trajectories, mean_tokens, mean, median, std, q25, q75
    best: teachers one of which is the best, at the confidence; empty where nothing is known
    more_prompts: about how many would tell the first from the next of `best`; None where that is not known, or too many
    pairwise: probability that the row's teacher is better than the column's, both in the order of `teachers`, of the first PAIRED;
        empty where nothing is known
    length: Spearman of metric and n_tokens over trajectories: of all, and the mean of those within teachers

    Raises UserError for a metric without a direction.
    """
    metric.check_direction()
    every = unordered = scored.matrices(metric)
    compared, is_matched = every.compared()
    values = compared.values()
    order = np.argsort(metric.order(values), kind="stable")
    names = [scored.teachers[t] for t in order]
    compared, every = compared.teachers(order), every.teachers(order)
    on_all = own_intervals(every, confidence, seed)
    same = on_all if not is_matched else own_intervals(compared, confidence, seed)
    paired = is_matched and len(names) > 1
    is_known = paired and len(compared.x) >= FEWEST and len(names) <= MOST
    found = Certainty.of(compared, metric, confidence, seed) if is_known else None
    won = share_first(metric.order(_ratio(compared.x, compared.y)))
    all_values, of_trajectories = every.values(), metric.values(scored.columns, scored.prompt)
    teachers = []
    for place, t in enumerate(order):
        mine = scored.teacher == t
        own = of_trajectories[mine]
        quarters = np.percentile(own, [25, 50, 75])
        on_own = {"low": on_all.low[place], "high": on_all.high[place], "error": on_all.error[place]}
        teachers.append(
            {
                "teacher": names[place],
                "place": place + 1,
                "value": values[t],
                "low": same.low[place],
                "high": same.high[place],
                "first_place": found.places.first[place] if found else None,
                "last_place": found.places.last[place] if found else None,
                "p_best": found.chances.best[place] if found else None,
                "won": won[place] if paired else None,
                "all": {"value": all_values[place], **on_own, "n_prompts": int((every.n[:, place] > 0).sum())},
                "n_trajectories": int(mine.sum()),
                "mean_tokens": scored.columns["n_tokens"][mine].mean(),
                "mean": own.mean(),
                "median": quarters[1],
                "std": own.std(ddof=1) if len(own) > 1 else None,
                "q25": quarters[0],
                "q75": quarters[2],
            }
        )
    ranking: dict[str, Any] = {
        "metric": metric.name,
        "better": metric.better,
        "confidence": confidence,
        "draws": DRAWS,
        "seed": seed,
        "matched": is_matched,
        "n_prompts": len(compared.x),
        "n_prompts_all": len(scored.prompts),
        "n_trajectories": len(scored.teacher),
        "teachers": teachers,
        "best": [names[t] for t in found.places.best] if found else [],
        "more_prompts": found.more_prompts if found else None,
        "pairwise": found.chances.before[:PAIRED, :PAIRED].tolist() if found else [],
        "length": length_control(scored, of_trajectories),
        "notes": notes(scored, metric, unordered, is_matched),
    }
    ranking["sentence"] = sentence(ranking)
    return jsonable(ranking)


def own_intervals(matrices: Matrices, confidence: float, seed: int) -> Interval:
    """Of each teacher on the prompts that it answered."""
    found = []
    for x, y, n in zip(matrices.x.T, matrices.y.T, matrices.n.T, strict=True):
        values, each = influence(x[n > 0, None], y[n > 0, None])
        found.append(interval(values, each, confidence, seed))
    return Interval(*(np.concatenate([getattr(one, end) for one in found]) for end in ("low", "high", "error")))


def length_control(scored: Scored, values: np.ndarray) -> dict[str, Any]:
    """How the metric, of trajectories [N], goes with their length: over all of them, and on the average within teachers."""
    n_tokens = scored.columns["n_tokens"]
    within = [_spearman(values[scored.teacher == t], n_tokens[scored.teacher == t]) for t in range(len(scored.teachers))]
    known = [r for r in within if not math.isnan(r)]
    return {"spearman": _spearman(values, n_tokens), "within_teachers": float(np.mean(known)) if known else None}


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """NaN where one of them does not vary."""
    return float(stats.spearmanr(a, b).statistic) if len(a) > 2 and np.ptp(a) and np.ptp(b) else math.nan


def notes(scored: Scored, metric: Metric, every: Matrices, matched: bool) -> list[str]:
    """What a reader of the ranking has to know."""
    said = [*scored.notes]
    if not matched:
        said.append(
            f"no prompt was answered by all {len(scored.teachers)} teachers: they are compared on different prompts. {_shared(scored, every)}"
        )
    elif len(scored.teachers) > 2 and (share := (every.n > 0).all(1).mean()) < 0.5:
        answered = every.n > 0
        fewest = int(answered.sum(0).argmin())
        without = int(np.delete(answered, fewest, 1).all(1).sum())
        said.append(
            f"all teachers answered {share:.0%} of the prompts; {scored.teachers[fewest]} answered the fewest: "
            f"the others share {without:,}, so rank them without it (--teachers)"
        )
    return said + (naturalness_notes(scored.columns) if metric is LOCAL else [])


def _shared(scored: Scored, every: Matrices) -> str:
    """The largest set of teachers found by adding, one at a time, the one that keeps the most shared prompts."""
    answered = every.n > 0
    best: tuple[int, int, list[int]] = (0, 0, [])
    for first in np.argsort(-answered.sum(0), kind="stable")[:GROUPS_TRIED].tolist():
        members, prompts = [first], answered[:, first]
        while len(members) < answered.shape[1]:
            counts = answered[prompts].sum(0)
            counts[members] = -1
            if counts.max() <= 0 or (len(members) > 1 and counts.max() * 2 < prompts.sum()):
                break
            members.append(int(np.argmax(counts)))
            prompts = prompts & answered[:, members[-1]]
        best = max(best, (len(members), int(prompts.sum()), sorted(members)))
    if best[0] < 2:
        return "No two of them share a prompt."
    return f"{best[1]:,} prompts are shared by {', '.join(scored.teachers[t] for t in best[2])}: compare these with --teachers."


def sentence(ranking: dict[str, Any]) -> str:
    """The answer in words: which teachers may be the best, and what would tell more."""
    teachers, best, n = ranking["teachers"], ranking["best"], ranking["n_prompts"]
    first = teachers[0]["teacher"]
    if len(teachers) == 1:
        return f"{first} is the only teacher."
    if not ranking["matched"]:
        return f"{first} is first, but the teachers answered different prompts: nothing can be said of how sure that is."
    if not best:
        few = f"on {n:,} prompt{'s' if n > 1 else ''}: too few" if n < FEWEST else f"of {len(teachers):,} teachers: too many"
        return f"{first} is first, {few} to say how sure that is."
    sure = f"on prompts like these ({100 * ranking['confidence']:g}%)"
    if len(best) == 1:
        return f"{first} is best {sure}."
    more = ranking["more_prompts"]
    told = f"; about {more:,} more prompts would probably tell {best[0]} from {best[1]}" if more else ""
    if len(best) < len(teachers):
        return f"{listed(best)} is best {sure}{told}."
    which = f"{'Either' if len(best) == 2 else 'Any'} of the {len(best)} teachers may be best {sure}"
    return f"{which}; {first} is first on these {n:,}{told}."


def listed(names: list[str]) -> str:
    """One of some names, in words."""
    if len(names) > NAMED:
        return f"One of {len(names)} teachers ({', '.join(names[:NAMED])} and {len(names) - NAMED} more)"
    return f"{', '.join(names[:-1])} or {names[-1]}"


def probability(p: float | None) -> str:
    """Two digits, as sure as draws are, which never show that anything is certain."""
    if p is None:
        return "-"
    return "> 0.99" if p > 0.99 else "< 0.01" if p < 0.01 else f"{p:.2f}"


def jsonable(value: Any) -> Any:
    """NumPy's scalars as Python's, NaN as None."""
    if isinstance(value, dict):
        return {name: jsonable(v) for name, v in value.items()}
    if isinstance(value, list):
        return [jsonable(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def naturalness(scored: Scored) -> dict[str, Any]:
    """Local naturalness of each teacher, the highest first, and global naturalness (minus mean_surprisal) beside it.

    On the prompts that all teachers answered, else on all. JSON-able: matched, n_prompts, teachers (teacher, local, global; none
    where not all rows have a local one), notes.
    """
    notes = naturalness_notes(scored.columns)
    if not scored.has(LOCAL):
        lack = int(np.isnan(LOCAL.values(scored.columns)).sum())
        notes.append(f"{lack:,} trajectories have no local naturalness: the prompt and a step did not fit into memory or the window")
        return {"matched": False, "n_prompts": 0, "teachers": [], "notes": notes}
    compared, is_matched = scored.matrices(LOCAL).compared()
    near, surprisal = compared.values(), scored.matrices(REGISTRY["mean_surprisal"]).compared()[0].values()
    return jsonable(
        {
            "matched": is_matched,
            "n_prompts": len(compared.x),
            "teachers": [{"teacher": scored.teachers[t], "local": near[t], "global": -surprisal[t]} for t in np.argsort(-near, kind="stable")],
            "notes": notes,
        }
    )


def naturalness_notes(columns: Mapping[str, np.ndarray]) -> list[str]:
    """Whether local naturalness says another thing than global naturalness. `columns` of trajectories, each [N], as LOCAL needs and surprisal_sum."""
    near = LOCAL.values(columns)
    known = np.isfinite(near)
    if not known.any():
        return []
    correlation = _spearman(near[known], (-columns["surprisal_sum"] / columns["n_tokens"])[known])
    steps = f"median number of steps {np.median(columns['n_steps'][known]):g}"
    if math.isnan(correlation):  # fewer than three trajectories, or all alike
        return [f"local naturalness: {steps}"]
    said = [f"local naturalness: rank correlation with global naturalness over {known.sum():,} trajectories {correlation:.3f}; {steps}"]
    if correlation > COLLAPSED:
        said.append("it has collapsed into global naturalness: the window may hold nearly all steps; a smaller --step-window may help")
    return said
