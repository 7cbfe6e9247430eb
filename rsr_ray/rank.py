"""rank: score rows -> a ranking of teachers by any metric, and how sure it is.

All of it is paired by prompt: teachers are compared on the same prompts, and what is resampled is prompts. Legend: N
trajectories, P prompts, T teachers, B bootstrap draws.
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

from rsr_ray.elimination import influence
from rsr_ray.errors import UserError
from rsr_ray.metrics import REGISTRY, RSR, Metric
from rsr_ray.store import Store, settle_units

LOCAL = REGISTRY["local_naturalness"]
COLLAPSED = 0.95  # rank correlation of local with global naturalness above which the two are one
DRAWS = 2000  # of the bootstrap; a probability it gives has a standard error of at most 0.011
BLOCKS = 10_000  # above so many prompts, random groups of them are resampled instead: as good, and the cost stays the same
SIZES = (10, 25, 50, 100, 200)  # prompts, of the sample-size curve
CURVE_DRAWS = 400
SETTLED = 0.95  # share of draws
LENGTH_BINS = 4
PAIRED = 100  # teachers of which the probability of each pairwise order is told
ROW = ["trajectory_id", "sample", "source", "source_row"]
GROUPS_TRIED = 12  # teachers from which a group that shares prompts is sought
FEWEST = 5  # prompts from which anything is said of how sure a value is
TOO_MANY = 100  # times the prompts: more than that nobody will score to tell two teachers apart


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
        if missing := set(columns) - set(table.column_names):
            raise UserError(f"store {store.uri}: its scores lack {', '.join(sorted(missing))}: an earlier version wrote them; score again")
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
    order = np.lexsort((rows["source_row"].to_numpy(), _codes(rows["source"])[0], trajectory, teacher))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(teacher[order]) != 0) | (np.diff(trajectory[order]) != 0)
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


def rank_teachers(scored: Scored, metric: Metric, *, confidence: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """The ranking of teachers by a metric on the prompts that all of them answered, with what is known of its certainty.

    Where there are none, on all prompts (`matched` is False): such a ranking has values and their intervals, but says
    nothing of how sure an order is, nor does one on fewer than FEWEST prompts. JSON-able: NaN is None. Keys:

    metric, better, confidence, draws, seed, matched, n_prompts, n_prompts_all, n_trajectories, sentence, notes
    teachers: best first, each teacher, place, value, low, high (bootstrap over prompts), p_best, won (share of
        prompts, a tie shared), all (value, low, high and n_prompts on all its prompts), and over its trajectories
        n_trajectories, mean_tokens, mean, median, std, q25, q75
    pairwise: probability that the row's teacher is better than the column's, both in the order of `teachers`, of the first PAIRED;
        empty where nothing is known
    gaps: of neighbours in the ranking: difference, probability of the order, whether they are told apart, more_prompts that would
    length: Spearman of metric and n_tokens over trajectories (of all, and the mean of those within teachers), and the
        teachers' values in bins of length
    curve: of nested random draws of n matched prompts the share with the same first (a tie shared), the same order, and the mean
        Kendall tau to all
    settled: the n from which on the first, and the whole order, is the same in 95% of draws; None where all the prompts leave it
        unsure themselves: nearly all of them agree with all of them by construction

    Raises UserError for a metric without a direction.
    """
    metric.check_direction()
    rng = np.random.default_rng(seed)
    every = scored.matrices(metric)
    compared, is_matched = every.compared()
    values = compared.values()
    order = np.argsort(metric.order(values), kind="stable")
    names = [scored.teachers[t] for t in order]
    compared = compared.teachers(order)
    draws = bootstrap(compared, rng)
    better = metric.order(draws)
    low, high = interval(draws, (compared.n > 0).sum(0), confidence)
    all_draws = draws if not is_matched else bootstrap(every.teachers(order), rng)
    all_low, all_high = interval(all_draws, (every.n > 0).sum(0)[order], confidence)
    all_values, of_trajectories = every.values()[order], metric.values(scored.columns, scored.prompt)
    paired = is_matched and len(names) > 1
    is_known = paired and len(compared.x) >= FEWEST
    best, won = _share_first(better), _share_first(metric.order(_ratio(compared.x, compared.y)))
    teachers = []
    for place, t in enumerate(order):
        mine = scored.teacher == t
        own = of_trajectories[mine]
        quarters = np.percentile(own, [25, 50, 75])
        teachers.append(
            {
                "teacher": names[place],
                "place": place + 1,
                "value": values[t],
                "low": low[place],
                "high": high[place],
                "p_best": best[place] if is_known else None,
                "won": won[place] if paired else None,
                "all": {"value": all_values[place], "low": all_low[place], "high": all_high[place], "n_prompts": int((every.n[:, t] > 0).sum())},
                "n_trajectories": int(mine.sum()),
                "mean_tokens": scored.columns["n_tokens"][mine].mean(),
                "mean": own.mean(),
                "median": quarters[1],
                "std": own.std(ddof=1) if len(own) > 1 else None,
                "q25": quarters[0],
                "q75": quarters[2],
            }
        )
    few = range(min(len(names), PAIRED) if is_known else 0)
    pairwise = [[np.mean(_before(better[:, i], better[:, j])) for j in few] for i in few]
    neighbours = gaps(compared, metric, confidence) if is_known else []
    for i, gap in enumerate(neighbours):
        gap["probability"] = np.mean(_before(better[:, i], better[:, i + 1]))
    curve = sample_sizes(compared, metric, rng) if is_known else []
    is_sure = {"same_first": is_known and best[0] >= SETTLED, "same_order": is_known and all(gap["told_apart"] for gap in neighbours)}
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
        "pairwise": pairwise,
        "gaps": neighbours,
        "length": length_control(scored, metric, of_trajectories, names),
        "curve": curve,
        "settled": {what: settled_at(curve, what) if sure else None for what, sure in is_sure.items()},
        "notes": notes(scored, metric, every, is_matched),
    }
    ranking["sentence"] = sentence(ranking)
    return jsonable(ranking)


def bootstrap(matrices: Matrices, rng: np.random.Generator) -> np.ndarray:
    """The teachers' values on prompts drawn with replacement, the same prompts for all of them, [B, T]."""
    x, y = matrices.x, matrices.y
    if len(x) > BLOCKS:
        block = rng.permutation(len(x)) % BLOCKS
        x, y = (np.stack([np.bincount(block, column, BLOCKS) for column in m.T], 1) for m in (x, y))
    size, out = len(x), []
    for start in range(0, DRAWS, 100):
        n = min(100, DRAWS - start)
        drawn = rng.integers(size, size=(n, size)) + size * np.arange(n)[:, None]
        weights = np.bincount(drawn.reshape(-1), minlength=n * size).reshape(n, size).astype(np.float64)
        out.append(_ratio(weights @ x, weights @ y))
    return np.concatenate(out)


def interval(draws: np.ndarray, n_prompts: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Interval of each teacher, [T] each, from its draws [B, T] and number of prompts [T]; NaN below FEWEST, and where the draws do not differ.

    The percentile interval, expanded as much as Student's t with n - 1 degrees is wider than the normal distribution
    (T. Hesterberg, What Teachers Should Know About the Bootstrap, 2015, section 4): without it, it is too narrow for few prompts.
    """
    n = np.maximum(n_prompts, 2)
    tails = 100 * stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf((1 - confidence) / 2, n - 1))
    ends = np.array([np.nanpercentile(column, [tail, 100 - tail]) for column, tail in zip(draws.T, tails, strict=True)])
    low, high = np.where((ends[:, :1] == ends[:, 1:]) | (n_prompts < FEWEST)[:, None], np.nan, ends).T
    return low, high


def _share_first(values: np.ndarray) -> np.ndarray:
    """Share of rows in which each column is the lowest, a tie shared evenly, [T]; NaN is never lowest."""
    first = values == np.nanmin(values, axis=1, keepdims=True)
    return (first / first.sum(1, keepdims=True)).mean(0)


def _before(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 where a is lower than b, 0 where it is higher, 1/2 where they tie."""
    return np.where(a == b, 0.5, a < b)


def gaps(matrices: Matrices, metric: Metric, confidence: float) -> list[dict[str, Any]]:
    """How far each teacher is from the next, and how many more prompts would make the interval of the difference leave out 0.

    Of the paired difference of linearised ratios, with standard deviation s a prompt: n = (t s / difference)^2, with
    Student's t of n - 1 degrees.
    """
    values, each = influence(matrices.x, matrices.y)
    values = metric.order(values)
    n, found = len(matrices.x), []
    for i in range(len(values) - 1):
        difference = values[i + 1] - values[i]
        spread = np.std(each[:, i + 1] - each[:, i], ddof=1)

        def needed(n: float) -> float:
            return (stats.t.ppf(0.5 + confidence / 2, n - 1) * spread / difference) ** 2 if difference else math.inf  # noqa: B023

        told_apart = bool(needed(n) <= n)
        in_all = needed(math.inf)
        more = None if told_apart or in_all > TOO_MANY * n else max(1, math.ceil(needed(max(n, in_all)) - n))
        found.append({"difference": difference, "told_apart": told_apart, "more_prompts": more})
    return found


def sample_sizes(matrices: Matrices, metric: Metric, rng: np.random.Generator) -> list[dict[str, Any]]:
    """How much smaller samples of prompts agree with all: `curve` of `rank_teachers`."""
    n_prompts, n_teachers = matrices.x.shape
    sizes = [n for n in SIZES if n < n_prompts]
    places = np.arange(n_teachers)
    found: dict[int, list[tuple[float, float, float]]] = {n: [] for n in sizes}
    for _ in range(CURVE_DRAWS if sizes else 0):
        drawn = rng.permutation(n_prompts)[: sizes[-1]] if n_prompts <= BLOCKS else rng.choice(n_prompts, sizes[-1], replace=False)
        x, y = np.cumsum(matrices.x[drawn], 0), np.cumsum(matrices.y[drawn], 0)
        for n in sizes:
            values = metric.order(_ratio(x[n - 1], y[n - 1]))
            tau = stats.kendalltau(places, values).statistic if n_teachers > 1 else 1.0
            first = values == np.nanmin(values)
            found[n].append((first[0] / first.sum(), bool((np.diff(values) > 0).all()), tau))
    curve: list[dict[str, Any]] = []
    for n in sizes:
        first, same, taus = (np.array(column) for column in zip(*found[n], strict=True))
        known = taus[~np.isnan(taus)]
        curve.append({"n": n, "same_first": first.mean(), "same_order": same.mean(), "kendall": known.mean() if len(known) else math.nan})
    curve.append({"n": n_prompts, "same_first": 1.0, "same_order": 1.0, "kendall": 1.0})
    return curve


def settled_at(curve: list[dict[str, Any]], what: str) -> int | None:
    """The smallest sample from which on the curve stays at SETTLED; None where that is only all prompts."""
    unsettled = [point["n"] for point in curve[:-1] if point[what] < SETTLED]
    return next((point["n"] for point in curve[:-1] if not unsettled or point["n"] > unsettled[-1]), None)


def length_control(scored: Scored, metric: Metric, values: np.ndarray, names: list[str]) -> dict[str, Any]:
    """How the metric goes with the length of a trajectory, and the teachers' values among trajectories of like length."""
    n_tokens = scored.columns["n_tokens"]
    within = [_spearman(values[scored.teacher == t], n_tokens[scored.teacher == t]) for t in range(len(scored.teachers))]
    edges = np.unique(np.quantile(n_tokens, np.linspace(0, 1, LENGTH_BINS + 1)))
    place = np.clip(np.searchsorted(edges, n_tokens, side="right") - 1, 0, max(0, len(edges) - 2))
    shape = (max(1, len(edges) - 1), len(names))
    cell = place * shape[1] + scored.teacher
    order = [scored.teachers.index(name) for name in names]
    terms = (*metric.terms(scored.columns, scored.prompt), None)
    x, y, n = (np.bincount(cell, weights, shape[0] * shape[1]).reshape(shape)[:, order] for weights in terms)
    values_of = _ratio(x, y)
    bins = [
        {"from": int(inside.min()), "to": int(inside.max()), "values": values_of[b].tolist(), "n": n[b].astype(int).tolist()}
        for b in range(shape[0])
        if len(inside := n_tokens[place == b])
    ]
    known = [r for r in within if not math.isnan(r)]
    return {"spearman": _spearman(values, n_tokens), "within_teachers": float(np.mean(known)) if known else None, "bins": bins}


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
    """The answer in words: which teacher is first, how sure that is, and which neighbours cannot be told apart."""
    teachers, gaps = ranking["teachers"], ranking["gaps"]
    first = teachers[0]
    if len(teachers) == 1:
        return f"{first['teacher']} is the only teacher."
    if not ranking["matched"]:
        return f"{first['teacher']} is first, but the teachers answered different prompts: nothing can be said of how sure that is."
    if not gaps:
        n = ranking["n_prompts"]
        return f"{first['teacher']} is first, on {n} prompt{'s' if n > 1 else ''}: too few to say how sure that is."
    said = f"{first['teacher']} is first with probability {probability(first['p_best'])}"
    unsure = [i for i, g in enumerate(gaps) if not g["told_apart"]]
    if not unsure:
        return said + "; every place is sure."
    i = unsure[0]
    more = gaps[i]["more_prompts"]
    what = f"places {i + 1} and {i + 2} ({teachers[i]['teacher']}, {teachers[i + 1]['teacher']}) cannot be told apart"
    how = f"about {more:,} more prompt{'s' if more > 1 else ''} would" if more is not None else f"not even {TOO_MANY} times the prompts would"
    others = f"; nor can {len(unsure) - 1} other pair{'s' if len(unsure) > 2 else ''} of neighbours" if len(unsure) > 1 else ""
    return f"{said}; {what}: {how}{others}."


def probability(p: float | None) -> str:
    """Two digits, as sure as the bootstrap is, which never shows that anything is certain."""
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
        notes.append(f"{lack:,} trajectories have no local naturalness: a step and what it is scored behind did not fit into memory")
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
        said.append("it has collapsed into global naturalness: with so few steps the window holds nearly all; a smaller --step-window may help")
    return said
