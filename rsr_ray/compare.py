"""compare: two stores, two students or two nights -> what moved, and whether it is more than noise.

The noise is that of the prompts: the same prompts are drawn for both sides, so what both share cancels. Legend: N
trajectories, P prompts, T teachers, B bootstrap draws; a leading 2 is side A, side B.
"""

import datetime
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from rsr_ray.config import NIGHT
from rsr_ray.errors import UserError
from rsr_ray.inference import DRAWS, FEWEST, influence, interval, value_draws
from rsr_ray.metrics import REGISTRY, Metric
from rsr_ray.objects import absolute, list_files
from rsr_ray.rank import Matrices, Scored, gives, jsonable, load_units
from rsr_ray.records import NIGHT_FILE, NIGHT_KEYS, get_record, night_place
from rsr_ray.store import STUDENT_NAME, Store

AFTER_MARK = re.compile(rf"(?P<student>{STUDENT_NAME.pattern})?(@(?P<night>{NIGHT.pattern}))?")
CLIPPED = {"rank_sum", "token_ratio_sum", "token_ratio_top30_sum"}  # columns that depend on r_max
NAMED = 3  # names that a sentence lists before it only counts
NOTHING = 1e-12  # of a value: what the order of additions can change


@dataclass(frozen=True)
class Side:
    """One of the two that are compared."""

    store: Store
    fingerprint: str
    night: str | None  # None: as the store is now
    table: list[dict[str, Any]]  # TEACHERS rows, then or now
    ranking: dict[str, Any] | None  # a night's own
    written: datetime.datetime | None  # when the night's record was, by the store's clock

    def load(self, metric: Metric) -> Scored | None:
        """The score rows of this side; None where it is a night whose rows can no longer be told from the others.

        A night's rows are those of the units that are not younger than its record. They count only if they give the
        record's own numbers again: a store that was copied has other times, a shard that was replaced has lost its rows.
        """
        metrics = [metric, REGISTRY["rsr"]]
        if self.night is None:
            return load_units(self.store, self.fingerprint, self.store.units().get(self.fingerprint, []), metrics)
        units = self.store.units_until(self.fingerprint, self.written) if self.written else []
        if not units:
            return None
        scored = load_units(self.store, self.fingerprint, units, metrics)
        return scored if gives(scored, self.table) else None

    def facts(self) -> dict[str, Any]:
        return {"store": self.store.uri, "student": self.store.student_name, "night": self.night, "fingerprint": self.fingerprint}


@dataclass(frozen=True)
class Measured:
    """Values of teachers on both sides, and as they come out on other draws of prompts."""

    values: np.ndarray  # float64 [2, T]
    draws: np.ndarray  # float64 [2, B, T]; NaN where nothing is known of their noise
    n: np.ndarray  # int [T]: prompts
    ends: tuple[np.ndarray, np.ndarray]  # of the intervals of B - A, [T] each

    def difference(self) -> tuple[np.ndarray, np.ndarray]:
        """B - A, [T] and [B, T]."""
        least = NOTHING * np.abs(self.values).max(0)
        value, draws = self.values[1] - self.values[0], self.draws[1] - self.draws[0]
        return np.where(np.abs(value) <= least, 0.0, value), np.where(np.abs(draws) <= least, 0.0, draws)


@dataclass(frozen=True)
class Found:
    """What two sides have in common, measured."""

    basis: str
    teachers: list[str]  # [T]
    own: Measured  # each teacher on its own prompts
    ranked: Measured  # all on those that they have in common, where there are any: for places
    unmatched: list[str]  # teachers of both sides that were left out
    notes: list[str]


def open_side(text: str, endpoint: str | None) -> Side:
    """A side as the command line names it: STORE, STORE#STUDENT, STORE#STUDENT@NIGHT or STORE#@NIGHT. Raises UserError.

    What counts is the last #; an @ or a further # before it belongs to the store.
    """
    uri, mark, rest = text.rpartition("#")
    given = AFTER_MARK.fullmatch(rest) if mark else AFTER_MARK.fullmatch("")
    if not given or not (uri or rest):
        raise UserError(f"{text!r}: give STORE, STORE#STUDENT, STORE#STUDENT@NIGHT or STORE#@NIGHT; a store with a # in its name needs one after it")
    uri = absolute(uri if mark else rest)
    student = given["student"] or _only_student(uri, endpoint)
    store = Store(uri, student, endpoint)
    if not given["night"]:
        table = store.read_teachers().to_pylist(maps_as_pydicts="strict")
        return Side(store, store.generation(), None, table, None, None)
    nights = {name.removesuffix(".json"): when for name, when in list_files(f"{uri}/nightly", endpoint).items() if NIGHT_FILE.fullmatch(name)}
    if given["night"] not in nights:
        known = ", ".join(sorted(nights)[-5:]) or "none"
        raise UserError(f"store {uri}: no night {given['night']}; the last are: {known}")
    entry = get_record(uri, night_place(given["night"]), NIGHT_KEYS, endpoint)["students"].get(student, {})
    if "teachers" not in entry:
        raise UserError(f"store {uri}: night {given['night']} has no results of student {student}")
    return Side(store, entry["fingerprint"], given["night"], entry["teachers"], entry.get("ranking"), nights[given["night"]])


def _only_student(uri: str, endpoint: str | None) -> str:
    students = Store.students(uri, endpoint)
    if len(students) != 1:
        known = ", ".join(students)
        raise UserError(f"store {uri}: name one of its students as {uri}#STUDENT: {known}" if known else f"store {uri}: no teachers of any student")
    return students[0]


def compare(a: Side, b: Side, metric: Metric, *, confidence: float = 0.95, seed: int = 0, anyway: bool = False) -> dict[str, Any]:
    """What moved from A to B, and what of it is more than noise. JSON-able: NaN is None. Keys:

    a, b: store, student, night, fingerprint; metric, better, confidence, draws, seed, sentence, notes
    same_student: whether both have the same weights; values of two students are on scales of their own
    basis: "matched prompts"; "all prompts" of two nights of one student; "aggregates" of nights whose rows cannot be told
    teachers: of both sides, in B's order, each teacher, a and b (value, place, n_trajectories), n_prompts (of
        aggregates None), difference (b - a), low, high (of each alone), went (same, better or worse), p_up (share of draws in which b is higher),
        p_value (after Holm's correction over the teachers), more_than_noise (None: cannot be told, as with few prompts); of two
        students all of these from the difference on are None
    swaps: pairs of teachers in another order: before_in_a, before_in_b, share of draws with both orders as they
        are, p_value (after Holm's correction over all pairs), more_than_noise
    kendall: of the two rankings: value, low, high; None for one teacher. n_prompts_ranked: places, swaps and this stand on them
    trajectories: by teacher and trajectory_id both, only_a, only_b, and for one student differ (not bitwise the same in the
        metric's columns), largest (relative difference), column, where; None where rows cannot be told
    only_a, only_b: teachers with scores on one side; unmatched: on both, but with no prompt in common

    Raises UserError for a metric without a direction, sides with nothing in common, and those scored under other settings.
    """
    metric.check_direction()
    same_student, said = check_settings(a, b, metric, anyway)
    said += [f"{mark}: {note}" for mark, side in (("A", a), ("B", b)) if side.night is None for note in side.store.notes(side.fingerprint)]
    scored = a.load(metric), b.load(metric)
    rows = (scored[0], scored[1]) if scored[0] and scored[1] else None  # None: only aggregates are left
    names = [side.teachers for side in rows] if rows else [[t["teacher"] for t in side.table if t["n_trajectories"]] for side in (a, b)]
    teachers = sorted({*names[0]} & {*names[1]})
    if not teachers:
        raise UserError(f"no teacher is on both sides: A has {', '.join(names[0]) or 'none'}; B has {', '.join(names[1]) or 'none'}")
    if rows is None:
        lost = " and ".join(str(side.night) for side, of_side in zip((a, b), scored, strict=True) if of_side is None)
        found = on_aggregates(a, b, teachers, metric, lost, confidence, seed)
    elif one_history(a, b):
        found = on_all_prompts(*rows, teachers, metric, confidence, seed)
    else:
        found = on_matched_prompts(*rows, teachers, metric, confidence, seed)
    compared: dict[str, Any] = {
        "a": a.facts(),
        "b": b.facts(),
        "metric": metric.name,
        "better": metric.better,
        "confidence": confidence,
        "draws": DRAWS,
        "seed": seed,
        "same_student": same_student,
        "basis": found.basis,
        "teachers": moves(found, metric, confidence, same_student=same_student),
        "swaps": swaps(found, metric, confidence),
        "kendall": kendall_interval(found.ranked, confidence),
        "n_prompts_ranked": None if rows is None else int(found.ranked.n.min()),
        "trajectories": None if rows is None else trajectories(*rows, metric, same_student),
        "only_a": sorted({*names[0]} - {*names[1]}),
        "only_b": sorted({*names[1]} - {*names[0]}),
        "unmatched": found.unmatched,
        "notes": said + found.notes,
    }
    for t in compared["teachers"]:
        for side, facts in enumerate((a, b)):
            t["ab"[side]]["n_trajectories"] = _n_trajectories(rows[side] if rows else facts.table, t["teacher"])
        t["n_prompts"] = None if rows is None else t["n_prompts"]
    compared["sentence"] = sentence(compared)
    return jsonable(compared)


def one_history(a: Side, b: Side) -> bool:
    """Whether these are two nights of one student, or a night and now: one side then holds most of what the other does."""
    same = a.fingerprint == b.fingerprint and (a.store.uri, a.store.student_name) == (b.store.uri, b.store.student_name)
    return same and (a.night, b.night) != (None, None)


def _n_trajectories(side: Scored | list[dict[str, Any]], teacher: str) -> int:
    if isinstance(side, Scored):
        return int((side.teacher == side.teachers.index(teacher)).sum())
    return next(row["n_trajectories"] for row in side if row["teacher"] == teacher)


# --- may they be compared ---------------------------------------------------------------------------------------------


def check_settings(a: Side, b: Side, metric: Metric, anyway: bool) -> tuple[bool, list[str]]:
    """Whether both sides have the same weights, and notes. Raises UserError where other settings differ, unless that is meant."""
    runs = [side.store.find_run(side.fingerprint) for side in (a, b)]
    if not all(runs):
        if a.fingerprint == b.fingerprint:
            return True, []
        where = " and ".join(side.store.uri for side, run in zip((a, b), runs, strict=True) if not run)
        differ = [f"the record of the run that made them is not in store {where}, so their settings cannot be told"]
        same = False
    else:
        facts = [run["student"] for run in runs if run]
        same = facts[0]["weights_hash"] == facts[1]["weights_hash"]
        told = [settings(run, metric, with_student=same) for run in runs if run]
        differ = [f"{name} {told[0][name]} / {told[1][name]}" for name in told[0] if name in told[1] and told[0][name] != told[1][name]]
    if differ and not anyway:
        raise UserError(f"A and B were scored under other settings and cannot be compared: {', '.join(differ)}. --anyway compares them all the same.")
    notes = [f"scored under other settings, compared anyway: {', '.join(differ)}"] if differ else []
    if not same and all(runs):
        notes.append(f"A and B are two students: their values of {metric.name} are on scales of their own. Compare places and order.")
    versions = [run["versions"] for run in runs if run]
    if len(versions) == 2 and same and versions[0] != versions[1]:
        names = sorted(name for name in {**versions[0], **versions[1]} if versions[0].get(name) != versions[1].get(name))
        notes.append("last run by other versions: " + ", ".join(f"{name} {versions[0].get(name)} / {versions[1].get(name)}" for name in names))
    return same, notes


def settings(run: dict[str, Any], metric: Metric, *, with_student: bool) -> dict[str, Any]:
    """What in a run's record can change this metric's scores, the weights aside.

    `with_student`: also what comes with the weights, which two students may differ in.
    """
    config, student = run["config"], run["student"]
    told = {name: config[name] for name in ("render", "system_prompt", "quantize", "over_length")}
    told |= {"dtype": run["resources"]["dtype"], "scores_version": run.get("scores_version")}
    if told["scores_version"] is None:  # runs of earlier versions do not say
        del told["scores_version"]
    if config["over_length"] != "reject":  # else it decides which rows there are, not what they score
        told["max_length"] = run["max_length"]
    if CLIPPED & {*metric.columns}:
        told["r_max"] = config["r_max"]
    if metric.name == "local_naturalness":
        told |= {name: config[name] for name in ("steps", "step_window")}
    if with_student:
        told |= {name: student[name][:8] for name in ("template_hash", "tokenizer_hash", "config_hash")}
    return told


# --- values, and draws of them ----------------------------------------------------------------------------------------


def aligned(scored: Scored, metric: Metric, teachers: list[str], prompts: pa.Array) -> Matrices:
    """A side's terms by these prompts and teachers, [P, T] each; 0 where there is no answer.

    The metric sees the answers of these teachers only: one that looks at the other answers to a prompt needs the same company.
    """
    some = scored.only(teachers)
    every = some.matrices(metric)
    row = pc.index_in(prompts, some.prompts).fill_null(-1).to_numpy()
    return Matrices(*(np.where((row >= 0)[:, None], m[row], 0) for m in (every.x, every.y, every.n)))


def mean_of_answers(side: Matrices, matched: np.ndarray, teachers: np.ndarray) -> Matrices:
    """Only matched prompts, bool [P, T], of some teachers, bool [T]; of several answers their mean: every prompt weighs the same."""
    n = np.where(matched, side.n, 1)
    return Matrices(*(np.where(matched, m / n, 0.0)[:, teachers] for m in (side.x, side.y, side.n)))


def on_prompts(a: Matrices, b: Matrices, answered: np.ndarray, confidence: float, seed: int) -> Measured:
    """Both sides on the prompts of each teacher, [P, T] bool; teachers of the same prompts are drawn together."""
    n_teachers = answered.shape[1]
    values, draws, ends = np.empty((2, n_teachers)), np.empty((2, DRAWS, n_teachers)), np.empty((2, n_teachers))
    alike: dict[bytes, list[int]] = {}
    for t in range(n_teachers):
        alike.setdefault(answered[:, t].tobytes(), []).append(t)
    for nth, some in enumerate(alike.values()):
        rows = answered[:, some[0]]
        x, y = (np.hstack([m[rows][:, some] for m in pair]) for pair in ((a.x, b.x), (a.y, b.y)))
        both, each = influence(x, y)
        values[:, some] = both.reshape(2, -1)
        draws[:, :, some] = value_draws(x, y, seed + nth).reshape(DRAWS, 2, -1).swapaxes(0, 1)
        between = interval(both[len(some) :] - both[: len(some)], each[:, len(some) :] - each[:, : len(some)], confidence, seed)
        ends[:, some] = between.low, between.high
    return Measured(values, draws, answered.sum(0), (ends[0], ends[1]))


def on_all_prompts(a: Scored, b: Scored, teachers: list[str], metric: Metric, confidence: float, seed: int) -> Found:
    """All that each of two nights had, every trajectory the same weight, as in the nights' own tables."""
    prompts = pa.chunked_array([a.prompts, b.prompts]).unique()
    x, y = (aligned(side, metric, teachers, prompts) for side in (a, b))
    measured = on_prompts(x, y, (x.n > 0) | (y.n > 0), confidence, seed)
    return Found("all prompts", teachers, measured, measured, [], [])


def on_matched_prompts(a: Scored, b: Scored, teachers: list[str], metric: Metric, confidence: float, seed: int) -> Found:
    """What a teacher answered on both sides. Raises UserError where that is nothing."""
    prompts = a.prompts.filter(pc.is_in(a.prompts, b.prompts))
    x, y = (aligned(side, metric, teachers, prompts) for side in (a, b))
    matched = np.logical_and(x.n > 0, y.n > 0)
    some = np.asarray(matched.any(axis=0))
    unmatched = [name for name, is_some in zip(teachers, some, strict=True) if not is_some]
    if not some.any():
        raise UserError(f"no prompt has answers of one teacher on both sides; teachers on both: {', '.join(unmatched)}")
    x, y = (mean_of_answers(side, matched, some) for side in (x, y))
    matched = matched[:, some]
    own = on_prompts(x, y, matched, confidence, seed)
    whole = np.asarray(matched.all(axis=1))
    ranked, notes = own, []
    if not whole.any():
        notes = ["no prompt has all these teachers on both sides: places compare values on different prompts, so read them with care"]
    elif (whole != matched.any(axis=1)).any():
        ranked = on_prompts(x, y, np.repeat(whole[:, None], matched.shape[1], 1), confidence, seed)
        notes = [f"places and order stand on the {whole.sum():,} prompts that all these teachers have on both sides, values on each teacher's own"]
    return Found("matched prompts", [name for name in teachers if name not in unmatched], own, ranked, unmatched, notes)


def on_aggregates(a: Side, b: Side, teachers: list[str], metric: Metric, lost: str, confidence: float, seed: int) -> Found:
    """Sides of which only TEACHERS rows are known: their rsr, and independent errors as the nights' rankings have them.

    Several answers to a prompt are no witnesses of each other, and a teacher's spread over trajectories does not tell how many
    prompts there are: where a ranking has no errors, nothing is said of noise. Raises UserError for another metric than rsr.
    `lost` names the nights whose rows are gone.
    """
    if metric.name != "rsr":
        raise UserError(f"--by {metric.name}: the rows of night {lost} cannot be told any more, and its record holds rsr only")
    values = np.array([[row["rsr"] for name in teachers for row in side.table if row["teacher"] == name] for side in (a, b)])
    error, n = (np.stack(facts) for facts in zip(*(errors(side, teachers) for side in (a, b)), strict=True))
    measured = of_errors(values, error, n, confidence, seed)
    note = f"which rows night {lost} had can no longer be told: the store was copied, or shards were replaced, since. "
    if np.isnan(error).any():
        note += "Of some teachers a night's record has no standard error over prompts, so nothing is said of noise there"
    else:
        note += "The noise is that of each night's own record, as if the sides had no prompt in common: for nights that do, too much"
    return Found("aggregates", teachers, measured, measured, [], [note])


def of_errors(values: np.ndarray, error: np.ndarray, n: np.ndarray, confidence: float, seed: int) -> Measured:
    """Values of both sides that have independent standard errors over n prompts, [2, T] each."""
    rng, fewest = np.random.default_rng(seed), n.min(0)
    draws = values[:, None] + error[:, None] * rng.standard_normal((2, DRAWS, values.shape[1]))
    reach = stats.t.ppf((1 + confidence) / 2, np.maximum(fewest - 1, 1)) * np.hypot(*error)
    reach = np.where(fewest < FEWEST, math.nan, reach)
    difference = values[1] - values[0]
    return Measured(values, draws, fewest, (difference - reach, difference + reach))


def errors(side: Side, teachers: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors of teachers over prompts, as the side's ranking has them, and the numbers of prompts, [T] each; NaN and 0 where it has none."""
    known = {t["teacher"]: t["all"] for t in (side.ranking or {"teachers": []})["teachers"]}
    all_prompts = [known.get(name, {}) for name in teachers]
    error = np.array([of.get("error") if of.get("error") is not None else math.nan for of in all_prompts], np.float64)
    return error, np.array([of["n_prompts"] if not math.isnan(e) else 0 for of, e in zip(all_prompts, error, strict=True)])


# --- what moved -------------------------------------------------------------------------------------------------------


def p_values(value: np.ndarray, draws: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Two-sided p of values [K] that would be 0, from bootstrap draws [B, K] on n prompts [K]; NaN below FEWEST of them.

    Student's t of the bootstrap's standard error. For a mean it is the t-test.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(value) / (np.std(draws, axis=0) * np.sqrt(n / (n - 1)))
        p = 2 * stats.t.sf(t, n - 1)
    return np.where(n < FEWEST, np.nan, np.where(value == 0, 1.0, p))


def holm(p: np.ndarray) -> np.ndarray:
    """p values [K] corrected for being so many (S. Holm, 1979); NaN stays, and does not count."""
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    out = np.full(len(p), np.nan)
    out[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return out


def moves(found: Found, metric: Metric, confidence: float, *, same_student: bool) -> list[dict[str, Any]]:
    """`teachers` of `compare`, but for their trajectories. Nothing is said of noise where values are on scales of their own."""
    own = found.own
    difference, draws = own.difference()
    p = holm(p_values(difference, draws, own.n)) if same_student else np.full(len(difference), math.nan)
    places = [stats.rankdata(metric.order(values), method="ordinal") for values in found.ranked.values]
    rows = []
    for t in np.argsort(places[1]):
        low, high = (float(end[t]) if same_student else math.nan for end in own.ends)
        beyond = math.isnan(low) or low > 0 or high < 0
        known = not math.isnan(p[t])
        rows.append(
            {
                "teacher": found.teachers[t],
                "a": {"value": own.values[0, t], "place": int(places[0][t])},
                "b": {"value": own.values[1, t], "place": int(places[1][t])},
                "n_prompts": int(own.n[t]),
                "difference": difference[t] if same_student else None,
                "low": low,
                "high": high,
                "p_up": np.mean((draws[:, t] > 0) + 0.5 * (draws[:, t] == 0)) if known else None,
                "p_value": p[t],
                "more_than_noise": bool(p[t] < 1 - confidence and beyond) if known else None,
                "went": went(difference[t], metric) if same_student else None,
            }
        )
    return rows


def went(difference: float, metric: Metric) -> str:
    return "same" if not difference else "better" if metric.order(np.asarray(difference)) < 0 else "worse"


def swaps(found: Found, metric: Metric, confidence: float) -> list[dict[str, Any]]:
    """`swaps` of `compare`: both orders have to be sure, so a pair's p is the larger of its two."""
    ranked, teachers = found.ranked, found.teachers
    i, j = np.triu_indices(len(teachers), 1)
    values, draws = metric.order(ranked.values), metric.order(ranked.draws)
    difference, drawn = values[:, i] - values[:, j], draws[:, :, i] - draws[:, :, j]
    n = np.minimum(ranked.n[i], ranked.n[j])
    p = holm(np.maximum(*(p_values(difference[side], drawn[side], n) for side in (0, 1)))) if len(i) else np.empty(0)
    seen = (np.sign(drawn) == np.sign(difference)[:, None]).all(0).mean(0)
    return [
        {
            "before_in_a": teachers[i[k] if difference[0, k] < 0 else j[k]],
            "before_in_b": teachers[i[k] if difference[1, k] < 0 else j[k]],
            "share": None if math.isnan(p[k]) else seen[k],
            "p_value": p[k],
            "more_than_noise": None if math.isnan(p[k]) else bool(p[k] < 1 - confidence),
        }
        for k in sorted(np.flatnonzero(difference[0] * difference[1] < 0), key=lambda k: (p[k], -seen[k]))
    ]


def kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of rankings by values [..., T], [...]; NaN where all of one side tie."""
    i, j = np.triu_indices(a.shape[-1], 1)
    first, second = (np.sign(side[..., i] - side[..., j]) for side in (a, b))
    untied = np.sqrt((first != 0).sum(-1) * (second != 0).sum(-1))
    with np.errstate(invalid="ignore"):
        return (first * second).sum(-1) / untied


def kendall_interval(ranked: Measured, confidence: float) -> dict[str, float] | None:
    """`kendall` of `compare`. The plain percentile interval: of so few values that tau can take, no finer one would be another."""
    if ranked.values.shape[1] < 2:
        return None
    taus, tail = kendall(*ranked.draws), 50 * (1 - confidence)
    known = taus[~np.isnan(taus)]
    low, high = np.percentile(known, [tail, 100 - tail]) if len(known) and ranked.n.min() >= FEWEST else (math.nan, math.nan)
    return {"value": float(kendall(*ranked.values)), "low": low, "high": high}


def trajectories(a: Scored, b: Scored, metric: Metric, same_student: bool) -> dict[str, Any]:
    """`trajectories` of `compare`."""
    keys = [pc.binary_join_element_wise(pa.array(s.teachers, pa.string()).take(pa.array(s.teacher)), s.rows["trajectory_id"], "\0") for s in (a, b)]
    at = pc.index_in(keys[0], keys[1]).fill_null(-1).to_numpy()
    here = np.flatnonzero(at >= 0)
    both = {"both": len(here), "only_a": len(keys[0]) - len(here), "only_b": len(keys[1]) - len(here)}
    if not same_student:
        return {**both, "differ": None, "largest": None, "column": None, "where": None}
    differ, largest, column, where = np.zeros(len(here), bool), 0.0, None, None
    for name in metric.columns:
        mine, other = a.columns[name][here].astype(np.float64), b.columns[name][at[here]].astype(np.float64)
        differ |= mine != other
        relative = np.abs(mine - other) / np.maximum(np.maximum(np.abs(mine), np.abs(other)), np.finfo(float).tiny)
        if len(here) and relative.max() > largest:
            worst = int(relative.argmax())
            largest, column, where = float(relative[worst]), name, keys[0][int(here[worst])].as_py().replace("\0", " ")
    return {**both, "differ": int(differ.sum()), "largest": largest, "column": column, "where": where}


# --- in words ---------------------------------------------------------------------------------------------------------


def sentence(compared: dict[str, Any]) -> str:
    """The answer in words."""
    teachers, rows = compared["teachers"], compared["trajectories"]
    if rows and rows["differ"] == rows["only_a"] == rows["only_b"] == 0:
        return f"Nothing moved: the {rows['both']:,} trajectories are the same on both sides, bit for bit."
    if all(t["n_prompts"] is not None and t["n_prompts"] < FEWEST for t in teachers):
        return f"On fewer than {FEWEST} prompts per teacher: what moved is shown, but nothing can be said of noise."
    if compared["same_student"] and all(t["more_than_noise"] is None for t in teachers):
        return "What moved is shown, but nothing can be said of noise."
    said = []
    if compared["same_student"]:
        moved = [t for t in teachers if t["more_than_noise"]]
        names = [f"{t['teacher']} ({'higher' if t['difference'] > 0 else 'lower'}: {t['went']})" for t in moved]
        whole = f"{len(moved)} of {len(teachers)} teachers moved by more than noise: {_listed(names)}"
        said.append(whole if moved else f"none of {len(teachers)} teachers moved by more than noise")
    if len(teachers) > 1:
        pairs, sure = len(teachers) * (len(teachers) - 1) // 2, [s for s in compared["swaps"] if s["more_than_noise"]]
        names = [f"B has {s['before_in_b']} before {s['before_in_a']}" for s in sure]
        more = f"{len(sure)} by more than noise ({_listed(names)})" if sure else "none by more than noise"
        swapped = f"{len(compared['swaps'])} of {pairs} pairs of teachers changed order, {more}"
        said.append(swapped if compared["swaps"] else f"the {len(teachers)} teachers are in the same order")
    if not said:
        said = [f"the only teacher on both sides is {teachers[0]['teacher']}, and two students' values are on scales of their own"]
    text = "; ".join(said)
    return text[0].upper() + text[1:] + "."


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
