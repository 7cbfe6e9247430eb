"""correlate: do metrics order teachers as the accuracy of the student trained on them does?

A table has one row a student and teacher: `student`, `teacher`, `accuracy` (of the student after training on this teacher)
and a column a metric. Correlations are taken over the teachers of one student; over students it is the mean of the
signed correlations, as published (arXiv 2601.14249).

Legend: n teachers of a student, T teachers of all students, R resamples.
"""

import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from rsr_ray.errors import UserError
from rsr_ray.metrics import REGISTRY

if TYPE_CHECKING:
    import pyarrow as pa

KEYS = ("student", "teacher", "accuracy")
ENDINGS = (".csv", ".parquet", ".json", ".jsonl")
# |mean over 5 students of Spearman| that the paper prints, with 11 teachers each.
PUBLISHED = {name: metric.published for name, metric in REGISTRY.items() if metric.published is not None}
PUBLISHED |= {"g_norm": 0.55, "grace": 0.59, "influence": 0.11, "mean_tokens": 0.53}
FEWEST = 3  # teachers: two always correlate by +1 or -1
RESAMPLES = 10_000
CHUNK = 2_000  # resamples that are held at once
USABLE = 0.9  # share of draws with a correlation, below which what is left of them is no picture of all
SAME = 1e-9  # correlations closer than this are equal but for rounding
SEED = 0
NO_INTERVAL: dict[str, Any] = {"interval": None, "interval_method": None, "why_no_interval": None}


@dataclass(frozen=True, kw_only=True)
class Student:
    """The teachers of one student. Nothing depends on their order: `Pair` puts them into that of their names."""

    teachers: tuple[str, ...]
    accuracy: np.ndarray  # float64 [n]
    metrics: Mapping[str, np.ndarray]  # float64 [n] each; NaN where there is no value

    def only(self, keep: np.ndarray) -> "Student":
        """With the teachers of a mask, bool [n]."""
        teachers = tuple(name for name, kept in zip(self.teachers, keep, strict=True) if kept)
        return Student(teachers=teachers, accuracy=self.accuracy[keep], metrics={name: x[keep] for name, x in self.metrics.items()})

    def with_cell(self, teacher: str, column: str, value: float) -> "Student":
        """With another value in one place."""
        there = np.array(self.teachers) == teacher
        if column == "accuracy":
            return replace(self, accuracy=np.where(there, value, self.accuracy))
        return replace(self, metrics={**self.metrics, column: np.where(there, value, self.metrics[column])})


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is correlated, and what was left out of it."""

    students: dict[str, Student]
    left_out: list[str]  # a sentence each
    notes: list[str] = field(default_factory=list)  # what the values stand on, a sentence each

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that any student has, in the order they came."""
        return list(dict.fromkeys(name for student in self.students.values() for name in student.metrics))


# --- where the values come from ---------------------------------------------------------------------------------------


def from_table(uri: str, endpoint: str | None) -> Evidence:
    """The students of a table with metrics. Raises UserError."""
    table = read_table(uri, endpoint)
    left_out = []
    values = {}
    for name in [name for name in table.column_names if name not in KEYS]:
        column = _numbers(table, name)
        if column is not None:
            values[name] = column
        elif name in REGISTRY:
            raise UserError(f"{uri}: column {name}: {_first_text(table, name)} is not a number")
        else:
            left_out.append(f"column {name}: not numbers")
    if not values:
        raise UserError(f"{uri}: no column of a metric beside {', '.join(KEYS)}")
    accuracies, told = _by_student(table, uri)
    students = {
        student: Student(teachers=tuple(rows), accuracy=_accuracy(rows), metrics={name: x[_at(rows)] for name, x in values.items()})
        for student, rows in accuracies.items()
    }
    return Evidence(students=students, left_out=left_out + told)


def from_store(store_uri: str, accuracies_uri: str, endpoint: str | None) -> Evidence:
    """The students of a table of accuracies with every metric that the store has scores for. Raises UserError."""
    accuracies, left_out = _by_student(read_table(accuracies_uri, endpoint), accuracies_uri)
    students, notes = {}, []
    for name, rows in accuracies.items():
        values, prompts = teacher_values(store_uri, name, endpoint)
        teachers = tuple(teacher for teacher in rows if teacher in values)
        if not values:
            left_out.append(f"student {name}: the store has no scores of it")
            continue
        notes.append(f"student {name}: values on {prompts}")
        left_out += [f"student {name}: the store has no scores of teacher {teacher}" for teacher in rows if teacher not in values]
        metrics = [metric for metric in REGISTRY if any(metric in of_teacher for of_teacher in values.values())]
        students[name] = Student(
            teachers=teachers,
            accuracy=_accuracy({teacher: rows[teacher] for teacher in teachers}),
            metrics={metric: np.array([values[teacher].get(metric, math.nan) for teacher in teachers]) for metric in metrics},
        )
    if not students:
        raise UserError(f"store {store_uri}: no scores of any student in {accuracies_uri}: {', '.join(accuracies)}")
    return Evidence(students=students, left_out=left_out, notes=notes)


def teacher_values(store_uri: str, student: str, endpoint: str | None) -> tuple[dict[str, dict[str, float]], str]:
    """Every metric of the registry by teacher, and on which prompts: as `rank_teachers`, those that all teachers answered, or all.

    A metric that the store's rows do not all have is left out. {} for a student that the store does not have. Raises UserError.
    """
    from rsr_ray.rank import load_scored
    from rsr_ray.store import Store

    if student not in Store.students(store_uri, endpoint):
        return {}, ""
    scored = load_scored(Store(store_uri, student, endpoint))
    values: dict[str, dict[str, float]] = {name: {} for name in scored.teachers}
    prompts = ""
    for name, metric in REGISTRY.items():
        if scored.has(metric):
            compared, is_matched = scored.matrices(metric).compared()
            for teacher, value in zip(scored.teachers, compared.values().tolist(), strict=True):
                values[teacher][name] = value
            n, on_all = len(compared.x), f"all prompts, each teacher's own: none was answered by all {len(scored.teachers)} teachers"
            prompts = f"the {n:,} prompt{'s' * (n > 1)} that all {len(scored.teachers)} teachers of the store answered" if is_matched else on_all
    return values, "; ".join([prompts, *scored.notes])


def read_table(uri: str, endpoint: str | None) -> "pa.Table":
    """A CSV, Parquet, JSON or JSON-lines file with the columns `KEYS`, at least. Raises UserError."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    from rsr_ray.objects import get

    if not uri.endswith(ENDINGS):
        raise UserError(f"{uri}: a table's name ends with {', '.join(ENDINGS)}")
    try:
        data = get(uri, endpoint)
    except FileNotFoundError as e:
        raise UserError(f"{uri}: there is no such file") from e
    file = pa.BufferReader(data)
    try:
        if uri.endswith(".parquet"):
            table = pyarrow.parquet.read_table(file)
        elif uri.endswith(".csv"):
            table = pyarrow.csv.read_csv(file)
        elif data.lstrip().startswith(b"["):
            table = pa.Table.from_pylist(json.loads(data))
        else:
            table = pyarrow.json.read_json(file)
    except (pa.ArrowException, json.JSONDecodeError, UnicodeDecodeError, AttributeError) as e:
        raise UserError(f"{uri}: cannot be read as its name says: {' '.join(str(e).split())}") from e
    counts = Counter(table.column_names)
    if twice := [name for name, n in counts.items() if n > 1]:
        raise UserError(f"{uri}: column {twice[0]} is there twice")
    if missing := [name for name in KEYS if name not in counts]:
        raise UserError(f"{uri}: no column {', '.join(missing)}; a row is {', '.join(KEYS)} and metrics, the columns there: {', '.join(counts)}")
    return table


def _by_student(table: "pa.Table", uri: str) -> tuple[dict[str, dict[str, tuple[int, float]]], list[str]]:
    """By student and teacher the row and its accuracy, and what was left out. Raises UserError."""
    accuracy = _numbers(table, "accuracy")
    if accuracy is None:
        raise UserError(f"{uri}: column accuracy: {_first_text(table, 'accuracy')} is not a number")
    found: dict[str, dict[str, tuple[int, float]]] = {}
    left_out = []
    for row, (student, teacher) in enumerate(zip(table["student"].to_pylist(), table["teacher"].to_pylist(), strict=True)):
        if student is None or teacher is None:
            raise UserError(f"{uri}: row {row + 1} names no {'student' if student is None else 'teacher'}")
        of_student = found.setdefault(str(student), {})
        if str(teacher) in of_student:
            raise UserError(f"{uri}: student {student} and teacher {teacher} are there twice")
        if math.isnan(accuracy[row]):
            left_out.append(f"student {student}, teacher {teacher}: no accuracy")
            continue
        of_student[str(teacher)] = (row, float(accuracy[row]))
    if not table.num_rows:
        raise UserError(f"{uri}: the table has no rows")
    return found, left_out


def _accuracy(rows: Mapping[str, tuple[int, float]]) -> np.ndarray:
    return np.array([accuracy for _, accuracy in rows.values()], np.float64)


def _at(rows: Mapping[str, tuple[int, float]]) -> np.ndarray:
    return np.array([row for row, _ in rows.values()], np.int64)


def _numbers(table: "pa.Table", name: str) -> np.ndarray | None:
    """A column as float64, NaN where there is no value; None where it holds something else. Infinite is no value."""
    import pyarrow as pa

    kind = table[name].type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)):
        return None
    values = table[name].cast(pa.float64()).to_numpy()
    return np.where(np.isfinite(values), values, math.nan)


def _first_text(table: "pa.Table", name: str) -> str:
    """The first value of a column that is not a number, and its row."""
    for row, value in enumerate(table[name].to_pylist(), 1):
        try:
            float(value if value is not None else "nan")
        except (TypeError, ValueError):
            return f"{value!r} in row {row}"
    return f"type {table[name].type}"


# --- what the user changes of them ------------------------------------------------------------------------------------


def set_cells(evidence: Evidence, cells: list[str]) -> Evidence:
    """With cells read differently, each STUDENT/TEACHER/COLUMN=VALUE. Raises UserError."""
    students = dict(evidence.students)
    for cell in cells:
        path, _, text = cell.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"--set {cell}: use STUDENT/TEACHER/COLUMN=VALUE with a number as value")
        known = [  # names may hold slashes themselves
            (name, teacher, column)
            for name, student in students.items()
            for teacher in student.teachers
            for column in ("accuracy", *student.metrics)
            if path == f"{name}/{teacher}/{column}"
        ]
        if not known:
            raise UserError(f"--set {cell}: there is no such student, teacher and column; students: {', '.join(students)}")
        name, teacher, column = known[0]
        students[name] = students[name].with_cell(teacher, column, value)
    return replace(evidence, students=students)


def without(evidence: Evidence, teachers: list[str]) -> Evidence:
    """Without some teachers. Raises UserError where a name is none of any student."""
    known = dict.fromkeys(teacher for student in evidence.students.values() for teacher in student.teachers)
    if unknown := [name for name in teachers if name not in known]:
        raise UserError(f"--without {unknown[0]}: there is no such teacher; teachers: {', '.join(known)}")
    kept = {name: student.only(np.array([t not in teachers for t in student.teachers], bool)) for name, student in evidence.students.items()}
    return replace(evidence, students=kept)


# --- correlations -----------------------------------------------------------------------------------------------------


def correlate(evidence: Evidence, by: list[str] | None = None, n_permutations: int = RESAMPLES, n_draws: int = RESAMPLES) -> dict[str, Any]:
    """Spearman, Pearson and Kendall of every metric (or those of `by`) with accuracy, a student and over students.

    Plain data, ready for JSON; numbers that are not defined are None, with the reason. Raises UserError.
    """
    students = {name: student for name, student in evidence.students.items() if len(student.teachers) >= FEWEST}
    left_out = [
        *evidence.left_out,
        *(
            f"student {name}: {len(student.teachers)} teachers with an accuracy, {FEWEST} are needed"
            for name, student in evidence.students.items()
            if name not in students
        ),
    ]
    if not students:
        raise UserError("no student to correlate: " + "; ".join(left_out))
    if by and (unknown := [name for name in by if name not in evidence.metrics]):
        raise UserError(f"--by {unknown[0]}: there is no such metric; metrics: {', '.join(evidence.metrics)}")
    metrics = [correlate_metric(students, name, n_permutations, n_draws) for name in by or evidence.metrics]
    metrics.sort(key=lambda metric: -(metric["abs_of_mean"] if metric["abs_of_mean"] is not None else -1))
    return {
        "students": {
            name: {"teachers": len(student.teachers), "tied_accuracies": n_tied(student.accuracy)} for name, student in students.items()
        },
        "teachers": len({teacher for student in students.values() for teacher in student.teachers}),
        "permutations": n_permutations,
        "draws": n_draws,
        "seed": SEED,
        "notes": evidence.notes,
        "left_out": left_out,
        "metrics": metrics,
    }  # fmt: skip


def correlate_metric(students: Mapping[str, Student], name: str, n_permutations: int, n_draws: int) -> dict[str, Any]:
    """One metric: its correlations a student, and over the students where they are defined."""
    each: dict[str, dict[str, Any]] = {}
    pair_of: dict[str, Pair] = {}
    # By name: an answer that depended on the order of rows would be one about the file.
    named = sorted({teacher for student in students.values() for teacher in student.teachers})
    every = {teacher: at for at, teacher in enumerate(named)}
    for of_student, student in students.items():
        x = student.metrics.get(name, np.full(len(student.teachers), math.nan))
        there = ~np.isnan(x)
        x, y = x[there], student.accuracy[there]
        pair = Pair(x, y, np.array([every[teacher] for teacher in student.only(there).teachers], np.int64))
        each[of_student] = {"n": len(x), "tied": n_tied(x), **pair.correlations(), "p": None}
        if each[of_student]["why_null"] is None:
            pair_of[of_student] = pair
            each[of_student]["p"] = permutation_p([pair], len(every), n_permutations)
    metric = REGISTRY.get(name)
    pairs = [pair for _, pair in sorted(pair_of.items())]
    defined = [each[of_student] for of_student in sorted(pair_of)]
    out: dict[str, Any] = {
        "metric": name,
        "better": metric.better if metric else "-",
        "published": PUBLISHED.get(name),
        "students": each,
        "n_students": len(defined),
    }
    mean = {kind: float(np.mean([of_student[kind] for of_student in defined])) if defined else None for kind in ("spearman", "pearson", "kendall")}
    spearman = mean["spearman"]
    out |= mean | {"abs_of_mean": None, "mean_of_abs": None, "p": None, **NO_INTERVAL, "any_order_of_ties": None}
    if spearman is not None:
        low, high = np.mean([spearman_in_any_order(pair.x, pair.y) for pair in pairs], axis=0)
        out |= {
            "abs_of_mean": abs(spearman),
            "mean_of_abs": float(np.mean([abs(of_student["spearman"]) for of_student in defined])),
            "p": permutation_p(pairs, len(every), n_permutations),
            "any_order_of_ties": [float(low), float(high)],
            **bootstrap_interval(pairs, len(every), n_draws),
        }
    return out


class Pair:
    """A metric and the accuracies of one student, with what its resamples need.

    x, y float64 [n]; `teachers` int64 [n]: which of all T teachers they are of. Held in ascending order of these, whatever
    the order given: a permutation of all teachers then moves the accuracies of every student alike, and the identity none.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, teachers: np.ndarray):
        order = np.argsort(teachers)
        self.x, self.y, self.teachers = x[order], y[order], teachers[order]
        x, y = self.x, self.y
        self.x_order, self.y_order = _order(x), _order(y)

    def correlations(self) -> dict[str, Any]:
        """The three, or None each and the reason."""
        why = None
        if len(self.x) < FEWEST:
            why = f"{len(self.x)} values, {FEWEST} are needed"
        elif len(set(self.x.tolist())) == 1:
            why = "every teacher has the same value"
        elif len(set(self.y.tolist())) == 1:
            why = "every teacher has the same accuracy"
        if why:
            return {"spearman": None, "pearson": None, "kendall": None, "why_null": why}
        kinds: dict[str, Callable[..., Any]] = {"spearman": stats.spearmanr, "pearson": stats.pearsonr, "kendall": stats.kendalltau}
        return {name: float(correlation(self.x, self.y).statistic) for name, correlation in kinds.items()} | {"why_null": None}

    def spearman_of_draws(self, counts: np.ndarray) -> np.ndarray:
        """Spearman float64 [R] of the teachers drawn, `counts` [R, T] times each; NaN where those drawn are all alike."""
        counts = counts[:, self.teachers].astype(np.float64)
        n = counts.sum(-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            a, b = counts @ self.x_order + 0.5, counts @ self.y_order + 0.5  # average ranks among those drawn, [R, n]
            a, b = (ranks - ((counts * ranks).sum(-1) / n)[:, None] for ranks in (a, b))
            return (counts * a * b).sum(-1) / np.sqrt((counts * a * a).sum(-1) * (counts * b * b).sum(-1))

    def spearman_of_orders(self, orders: np.ndarray) -> np.ndarray:
        """Spearman float64 [R] with the accuracies in other orders: `orders` [R, T], in each row of which the teachers are permuted."""
        a, b = (ranks - ranks.mean() for ranks in (stats.rankdata(self.x), stats.rankdata(self.y)))
        return b[np.argsort(orders[:, self.teachers], axis=-1)] @ a / math.sqrt(a @ a * (b @ b))


def _order(x: np.ndarray) -> np.ndarray:
    """float64 [n, n]: 1 where the row's value is below the column's, 1/2 where it is the same."""
    return (x[:, None] < x) + 0.5 * (x[:, None] == x)


def permutation_p(pairs: list[Pair], n_teachers: int, n_permutations: int) -> float:
    """P(|mean over students of Spearman| is at least what it is) where a metric knows nothing of accuracy.

    What is exchanged is teachers, and with a teacher its accuracies under every student: one that is bad for one student is
    bad for all, so students are no independent witnesses. Exact where the orders are no more than `n_permutations`, else at
    least 1 / (n_permutations + 1).
    """

    def statistic(orders: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(np.mean([pair.spearman_of_orders(np.atleast_2d(orders)) for pair in pairs], axis=0))

    test = stats.permutation_test(
        (np.arange(n_teachers),), statistic, permutation_type="pairings", vectorized=True, n_resamples=n_permutations, batch=CHUNK,
        alternative="greater", axis=-1, rng=np.random.default_rng(SEED),
    )  # fmt: skip
    return float(np.squeeze(test.pvalue))


def bootstrap_interval(pairs: list[Pair], n_teachers: int, n_draws: int) -> dict[str, Any]:
    """95% interval of the mean over students of Spearman: teachers are drawn, the same for all students.

    Of a draw that gives some students no two teachers, or only such as are alike, it is the mean over the others. BCa; where it
    is not defined, percentiles of the draws that have a correlation. None and the reason where too few have, or all have the same.
    """

    def statistic(drawn: np.ndarray, axis: int) -> np.ndarray:
        counts = (drawn[..., None] == np.arange(n_teachers)).sum(-2)
        means = np.nanmean([pair.spearman_of_draws(counts.reshape(-1, n_teachers)) for pair in pairs], axis=0)
        return means.reshape(counts.shape[:-1])

    with np.errstate(all="ignore"), warnings.catch_warnings():
        for kind in (stats.DegenerateDataWarning, RuntimeWarning):  # what they warn of is answered below
            warnings.simplefilter("ignore", kind)
        drawn = stats.bootstrap(
            (np.arange(n_teachers),), statistic, vectorized=True, n_resamples=n_draws, batch=CHUNK, axis=-1, method="percentile",
            rng=np.random.default_rng(SEED),
        )  # fmt: skip
        found = drawn.bootstrap_distribution
        usable = found[np.isfinite(found)]
        if len(usable) < USABLE * n_draws:
            why = f"only {len(usable) / n_draws:.1%} of the draws of teachers have a correlation"
            return NO_INTERVAL | {"why_no_interval": why}
        if np.ptp(usable) < SAME:
            return NO_INTERVAL | {"why_no_interval": "every draw of teachers has the same correlation"}
        if len(usable) == n_draws:
            bca = stats.bootstrap(
                (np.arange(n_teachers),), statistic, vectorized=True, n_resamples=0, batch=CHUNK, axis=-1, method="BCa", bootstrap_result=drawn
            )
            low, high = map(float, bca.confidence_interval)
            if math.isfinite(low) and math.isfinite(high):
                return NO_INTERVAL | {"interval": [low, high], "interval_method": "BCa"}
    low, high = map(float, np.percentile(usable, [2.5, 97.5]))
    return NO_INTERVAL | {"interval": [low, high], "interval_method": "percentile"}


def spearman_in_any_order(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The lowest and highest Spearman if tied values of x, and of y, were not tied, in whatever order.

    What a table's rounding has hidden lies between. The highest is where tied values are in the order of the other variable,
    the lowest where they are in the opposite one (exchange two that are not, and the sum of products of ranks only moves inwards).
    """
    index = np.arange(len(x))

    def ranks(*keys: np.ndarray) -> np.ndarray:
        return np.argsort(np.lexsort(keys[::-1]))

    pairs = [(ranks(x, -y, index), ranks(y, -x, -index)), (ranks(x, y, index), ranks(y, x, index))]
    low, high = (float(np.corrcoef(a, b)[0, 1]) for a, b in pairs)
    return low, high


def n_tied(x: np.ndarray) -> int:
    """How many values are there more than once."""
    return sum(n for n in Counter(x[~np.isnan(x)].tolist()).values() if n > 1)
