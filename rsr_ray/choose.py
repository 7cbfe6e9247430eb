"""choose: scores -> of each prompt the best trajectories, as training data, and a manifest of what they are.

Three stages: `Candidates.read` reads the scores of each input object and marks what a filter leaves out; `choose_prompts` gets
all rows of a prompt together, as narrow columns, and keeps the best; `sft.write_chosen` reads the shards of these again
and writes their rows whole. Nothing depends on the order of shards, on partitions or on the number of CPUs.
"""

import dataclasses
import hashlib
import heapq
import importlib.metadata
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import rsr_ray
from rsr_ray.config import ChooseConfig
from rsr_ray.errors import RunError, UserError
from rsr_ray.metrics import CONTROLS, REGISTRY
from rsr_ray.objects import InputObject, put, version_of
from rsr_ray.packs import stored_packs
from rsr_ray.read import Unreadable, iter_trajectories
from rsr_ray.schema import SCORES
from rsr_ray.sft import CHOSEN, clear, refuse_foreign, write_files
from rsr_ray.shapes import BadRow, conversation
from rsr_ray.store import READ_UNITS, UNIT_NAME, Store, settle_units
from rsr_ray.sums import from_fixed, to_fixed
from rsr_ray.units import reading_of

PARTITION_ROWS = 50_000
TIES = "equal values: by teacher, then sample (none comes last), then trajectory_id, in the order of their UTF-8 bytes"
CAP = (
    "While a teacher has more than floor(max_share x chosen) of the chosen rows, that of the rows of all such teachers whose value loses least gives "
    "its place to the best candidate of its prompt whose teacher has room for one more. Where none of these rows has such a candidate, the row of "
    "the worst value of the teacher furthest above (the first by name) is left out. Equal losses: first prompt_id first, and in it the better row; "
    "equal worst values: the last of these."
)
# rule_quality, after LIMO (arXiv 2502.03387): weight and words of each kind; length weighs 0.30.
KEYWORDS = {"checking": (0.20, ("check", "verify")), "exploring": (0.25, ("perhaps", "might")), "connecting": (0.25, ("therefore", "since"))}
LENGTH_WEIGHT = 0.30
WORD = re.compile(r"\w+")
TRUE, FALSE = {"true", "1", "1.0", "yes", "correct"}, {"false", "0", "0.0", "no", "incorrect", "wrong"}
NOTED_UNITS = 200  # of which local naturalness is compared with the global one: more rows would say the same
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

SUMMED = tuple(dict.fromkeys(name for metric in REGISTRY.values() for name in metric.columns))
IDENTITY = ("trajectory_id", "content", "prompt_id", "teacher", "sample", "source", "source_row")
READ = tuple(dict.fromkeys((*IDENTITY, *SUMMED, "mean_rank", "mean_surprisal", "rsr")))
CANDIDATES = pa.schema(
    [
        *[SCORES.field(name).remove_metadata() for name in READ],
        pa.field("version", pa.string()),  # of the input object that was scored
        *[pa.field(name, pa.float64()) for name in KEYWORDS],  # times of these words, of all words; for rule_quality only
        pa.field("complete", pa.bool_()),  # what --complete-column says of it; null where it was not asked, or says nothing
        pa.field("dropped", pa.string()),  # why the row is no candidate; null for one
    ]
)


def choose(config: ChooseConfig) -> dict[str, Any]:
    """Write the chosen set and return its manifest. Raises UserError for what the user can mend, RunError for a broken run."""
    from rsr_ray.cluster import connect

    store = Store(config.store, config.student, config.s3_endpoint)
    fingerprint, names = find_units(store, config.fingerprint)
    refuse_foreign(config)
    with connect(config.ray_address, "text", "Nothing is left of this choice: run the same command again."):
        chosen, found = _choose_rows(config, store, fingerprint, names)
        said = notes(config, store, fingerprint, names, said_complete=found["said_complete"])
        manifest = make_manifest(config, fingerprint, found) | {"notes": said}
        clear(config)
        try:
            manifest["files"], manifest["columns"] = write_files(chosen, manifest["chosen"], len({name[:16] for name in names}), config)
            put(f"{config.out}/manifest.json", json.dumps(manifest, indent=1).encode(), config.s3_endpoint)
        except BaseException:
            clear(config)
            raise
    return manifest


def find_units(store: Store, fingerprint: str | None) -> tuple[str, list[str]]:
    """The fingerprint to choose by and the names of its units that count. Raises UserError."""
    units = store.units()
    if not units:
        raise UserError(f"store {store.uri}: no scores of student {store.student_name}; run rsr-ray score")
    if fingerprint is None and len(units) > 1:
        raise UserError(
            f"store {store.uri} holds scores of student {store.student_name} under several settings or weights, which cannot be compared: "
            f"name one, --fingerprint {' or '.join(sorted(units))}"
        )
    fingerprint = fingerprint or next(iter(units))
    if fingerprint not in units:
        raise UserError(f"--fingerprint {fingerprint}: the store holds {', '.join(sorted(units))} of student {store.student_name}")
    _, repeated = settle_units(units[fingerprint])
    return fingerprint, sorted({*units[fingerprint]} - {*repeated})


def _choose_rows(config: ChooseConfig, store: Store, fingerprint: str, names: list[str]) -> tuple[Any, dict[str, Any]]:
    """The chosen rows as a Ray Data dataset of CHOSEN, at hand in Ray's object store, and the sums of all partitions."""
    import ray.data

    n_rows = sum(int(unit["stop"]) - int(unit["start"]) for name in names if (unit := UNIT_NAME.fullmatch(name)))
    partitions = 1 if config.max_share is not None else int(np.clip(n_rows // PARTITION_ROWS, 2, 200))
    find = Candidates(config, store, fingerprint, names)
    chosen = (
        ray.data.from_arrow(list(_batches(names, 1 if find.reads_corpus else READ_UNITS)))
        .map_batches(find.read, batch_size=None, batch_format="pyarrow")
        .repartition(partitions, keys=["prompt_id"])
        .map_batches(choose_prompts, batch_size=None, batch_format="pyarrow", fn_args=(config,))
        .materialize()
    )
    # The rows come by a block at a time: another stage would start workers for a few lines of text.
    blocks = chosen.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    return chosen, merge([json.loads(part) for block in blocks for part in block["summary"].drop_null().to_pylist()])


def _batches(names: list[str], size: int) -> Iterator[pa.Table]:
    """Input objects with the names of their units, the units of an object together: tables of `size` units or a little more."""
    of_object: dict[str, list[str]] = defaultdict(list)
    for name in names:
        of_object[name[:16]].append(name)
    held: list[list[str]] = []
    for units in of_object.values():
        held.append(units)
        if sum(map(len, held)) >= size:
            yield pa.table({"names": held})
            held = []
    if held:
        yield pa.table({"names": held})


# --- candidates -------------------------------------------------------------------------------------------------------


class Candidates:
    """Input objects -> CANDIDATES rows. Small and picklable: it travels to the tasks."""

    def __init__(self, config: ChooseConfig, store: Store, fingerprint: str, names: Iterable[str] = ()):
        self.config, self.store, self.fingerprint = config, store, fingerprint
        self.packs = {pack.key: pack for pack in stored_packs(store, {name[:16] for name in names})}

    @property
    def reads_corpus(self) -> bool:
        """Whether the scores alone do not say which rows are candidates."""
        config = self.config
        return config.verified is not None or config.complete_only or config.complete_column is not None or config.by == "rule_quality"

    def read(self, objects: pa.Table) -> pa.Table:
        """Ray Data UDF over input objects, given as the names of their units: their rows."""
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(self.of_object, objects["names"].to_pylist()))
        return pa.concat_tables(found)

    def of_object(self, names: list[str]) -> pa.Table:
        """The rows of one object's units. Raises UserError where its shard is not there as it was scored."""
        by_version: dict[str, list[str]] = defaultdict(list)
        for name in names:
            by_version[name[17:29]].append(name)
        wanted = [*READ, "truncated", "complete", "reject_reason"]
        tables = {v: self.store.read_units(pa.table({"name": some}), self.fingerprint, wanted) for v, some in sorted(by_version.items())}
        if pack := self.packs.get(names[0][:16]):
            rows = pa.concat_tables(tables.values())
            files = ((file, rows.filter(pc.equal(rows["source"], file.uri))) for file in pack.members)
            return pa.concat_tables([self.of_file(file.uri, {file.version: some}, by_version) for file, some in files if some.num_rows])
        sources = [table["source"][0].as_py() for table in tables.values() if table.num_rows]
        return self.of_file(sources[0], tables, by_version) if sources else CANDIDATES.empty_table()

    def of_file(self, source: str, tables: dict[str, pa.Table], by_version: dict[str, list[str]]) -> pa.Table:
        """The rows of one file, given by its versions. Raises UserError where it is not there as it was scored."""
        now = version_of(source, self.config.s3_endpoint)
        if len(ways := {reading_of(name) for name in by_version.get(now, [])}) > 1:
            what = f"{source} was read in {len(ways)} ways, by --teacher and --columns"
            raise UserError(f"{what}: choose writes rows of one; score each into a store of its own")
        version = now if now in tables else next(v for v, table in tables.items() if table.num_rows)
        rows = tables[version]
        dropped = drop_by_scores(rows, self.config)
        if now != version and dropped.null_count:
            if not self.config.skip_missing:
                what = "is gone since it was scored: put it back" if now is None else "was replaced since it was scored: score it as it is now"
                raise UserError(f"shard {source} {what}, or give --skip-missing, which leaves out those of its trajectories that no other shard has")
            dropped = pc.fill_null(dropped, "missing")
        said = pa.nulls(rows.num_rows, pa.bool_()) if self.config.complete_column else rows["complete"]
        rows = rows.drop_columns(["truncated", "complete", "reject_reason"])
        rows = rows.append_column("version", pa.repeat(version, rows.num_rows).cast(pa.string()))
        columns = {name: pa.nulls(rows.num_rows, pa.float64()) for name in KEYWORDS} | {"complete": said}
        if self.reads_corpus and dropped.null_count:
            obj = InputObject(uri=source, version=version, size=0)
            at = np.flatnonzero(dropped.is_null().to_numpy(zero_copy_only=False))
            dropped, columns = self.read_corpus(obj, rows["source_row"].to_numpy(), at, dropped)
            columns["complete"] = pc.coalesce(columns["complete"], said)
        for name, column in columns.items():
            rows = rows.append_column(name, column)
        rows = rows.append_column("dropped", dropped)
        # A row that names no prompt was rejected; hash partitions want a value.
        return rows.set_column(rows.schema.get_field_index("prompt_id"), "prompt_id", pc.fill_null(rows["prompt_id"], "")).cast(CANDIDATES)

    def read_corpus(self, obj: InputObject, source_rows: np.ndarray, at: np.ndarray, dropped: pa.Array) -> tuple[pa.Array, dict[str, pa.Array]]:
        """`dropped` after the filters by the shard's own columns, and KEYWORDS and `complete` where they are asked for, of the rows `at`."""
        config, complete_column = self.config, self.config.complete_column or "complete"
        place = {int(source_rows[i]): int(i) for i in at}
        reasons: list[str | None] = dropped.to_pylist()
        counts = {name: np.full(len(reasons), np.nan) for name in KEYWORDS}
        complete: list[bool | None] = [None] * len(reasons)
        only = frozenset({"response", "output", complete_column, *([config.verified] if config.verified else [])})
        rows = iter_trajectories(obj, config.s3_endpoint, config.reading, None if config.by == "rule_quality" else only)
        left = set(place)
        for index, row in enumerate(rows):
            if index not in left or isinstance(row, Unreadable):
                continue
            left.remove(index)
            where, i = f"{obj.uri} row {index}", place[index]
            if config.complete_only or config.complete_column:
                complete[i] = says(row, complete_column, where)
            if complete[i] is False:
                reasons[i] = "incomplete"
            elif config.verified and not (verdict := says(row, config.verified, where)):
                reasons[i] = "no_verdict" if verdict is None else "not_verified"
            elif config.by == "rule_quality":
                for name, value in keyword_shares(row, where).items():
                    counts[name][i] = value
            if not left:
                break
        if left:
            raise UserError(f"shard {obj.uri}: row {min(left)} was scored and is not there: give the --columns that it was scored with")
        columns = {name: pa.array(values, from_pandas=True) for name, values in counts.items()}
        return pa.array(reasons, pa.string()), columns | {"complete": pa.array(complete, pa.bool_())}


def drop_by_scores(rows: pa.Table, config: ChooseConfig) -> pa.Array:
    """Why a row of scores is no candidate, string [N], the first reason that holds; null for a candidate."""
    teacher, n_tokens = rows["teacher"], rows["n_tokens"]
    dropped = pc.binary_join_element_wise("rejected/", rows["reject_reason"], "")
    filters = [("teachers", pc.invert(pc.is_in(teacher, pa.array(config.teachers, pa.string()))))] if config.teachers else []
    filters.append(("exclude_teachers", pc.is_in(teacher, pa.array(config.exclude_teachers, pa.string()))))
    if not config.keep_incomplete and not config.complete_column:
        filters.append(("incomplete", pc.invert(rows["complete"])))
    if config.complete_only:
        filters.append(("truncated", rows["truncated"]))
    if config.min_tokens is not None:
        filters.append(("min_tokens", pc.less(n_tokens, config.min_tokens)))
    if config.max_tokens is not None:
        filters.append(("max_tokens", pc.greater(n_tokens, config.max_tokens)))
    for why, holds in filters:
        dropped = pc.if_else(pc.and_(pc.is_null(dropped), pc.fill_null(holds, False)), why, dropped)
    return dropped.combine_chunks() if isinstance(dropped, pa.ChunkedArray) else dropped


def says(row: dict[str, Any], column: str, where: str) -> bool | None:
    """What a column says of a row; of a list, one element an answer, the answer's own. Raises UserError for neither yes nor no."""
    value = row.get(column)
    if isinstance(value, list):
        n = row.get("sample")
        value = value[n] if type(n) is int and 0 <= n < len(value) else None
    if value is None or value == "":
        return None
    text = str(value).strip().lower()
    if text not in TRUE | FALSE:
        raise UserError(f"{where}: column {column} holds {value!r:.60}, which is neither true nor false")
    return text in TRUE


def keyword_shares(row: dict[str, Any], where: str) -> dict[str, float]:
    """Of each kind of KEYWORDS: its words' times in the assistant's text, of all words; whole words, upper or lower case."""
    try:
        turns = conversation(row)
    except BadRow as e:
        raise UserError(f"{where} was scored and has no conversation now ({e.detail}): give the --columns that it was scored with") from e
    words = Counter(WORD.findall(" ".join(turn["content"] for turn in turns if turn["role"] == "assistant").lower()))
    return {name: sum(words[word] for word in kind) / max(words.total(), 1) for name, (_, kind) in KEYWORDS.items()}


# --- the choice -------------------------------------------------------------------------------------------------------


def choose_prompts(rows: pa.Table, config: ChooseConfig) -> pa.Table:
    """Ray Data UDF over partitions of CANDIDATES, all rows of a prompt in one: the CHOSEN rows.

    One more row, which has nothing but `summary`, holds what was counted and added up here, as JSON. With a cap on
    teachers' shares the partition must be all there is.
    """
    rows = count_once(rows)
    rows, values = evaluate(rows, config)
    dropped = rows["dropped"]
    candidate = pc.is_null(dropped).to_numpy(zero_copy_only=False)
    best = rows.filter(pa.array(candidate))
    prompt = codes(best["prompt_id"])
    value = values[candidate]
    order = -value if config.better == "higher" else value
    keys = {"prompt": prompt, "order": order, **{name: best[name] for name in ("teacher", "sample", "trajectory_id")}}
    ranking = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys])
    best, at = best.take(ranking), ranking.to_numpy()
    prompt, value, order = prompt[at], value[at], order[at]

    place = np.arange(len(prompt)) - np.searchsorted(prompt, prompt) + 1  # 1 = the best of its prompt
    chosen = place <= config.k
    cut = np.flatnonzero(place[:-1] == config.k)
    tied = int(((prompt[cut] == prompt[cut + 1]) & (order[cut] == order[cut + 1])).sum())
    capped: dict[str, Any] = {}
    if config.max_share is not None:
        chosen, capped = cap_shares(prompt, codes(best["teacher"]), order, chosen, config.max_share, best["teacher"])
    draw = random_draw(best, config.seed)
    by_chance = np.empty(len(prompt), bool)
    shuffled = np.lexsort((draw, prompt))
    by_chance[shuffled] = place <= np.bincount(prompt, chosen, prompt[-1] + 1 if len(prompt) else 0)[prompt]

    summary = {
        "rows": rows.num_rows,
        "seen": _counted(rows["teacher"]),
        "said_complete": rows.num_rows - rows["complete"].null_count,
        "dropped": _counted(dropped),
        **_prompts_without(rows, candidate),
        "short_prompts": int((np.bincount(prompt) < config.k).sum()) if len(prompt) else 0,
        "tied_prompts": tied,
        "capped": capped,
        "teachers": _teachers(best, chosen),
        "sets": {name: _sums(best, prompt, some) for name, some in (("chosen", chosen), ("candidates", chosen | True), ("random", by_chance))},
    }
    out = best.append_column("value", pa.array(value)).append_column("place", pa.array(place, pa.int64())).filter(pa.array(chosen))
    out = out.append_column("by", pa.repeat(config.by, out.num_rows)).append_column("summary", pa.nulls(out.num_rows, pa.string()))
    last = pa.Table.from_pylist([{"summary": json.dumps(summary)}], CHOSEN)
    return pa.concat_tables([out.select(CHOSEN.names).cast(CHOSEN), last])


def count_once(rows: pa.Table) -> pa.Table:
    """Rows sorted by prompt, teacher, trajectory_id and content, further ones of the same four marked as dropped.

    A candidate counts before a row that is dropped already, for whatever reason, then the first by source and row.
    """
    rows = rows.append_column("out", pc.is_valid(rows["dropped"]))
    key = ("prompt_id", "teacher", "trajectory_id", "content")
    rows = rows.sort_by([(name, "ascending") for name in (*key, "out", "source", "source_row")])
    same = np.zeros(rows.num_rows, bool)
    same[1:] = np.logical_and.reduce([np.diff(codes(rows[name])) == 0 for name in key])
    return _drop(rows.drop_columns(["out"]), same, "duplicate")


def _drop(rows: pa.Table, which: np.ndarray, why: str) -> pa.Table:
    dropped = pc.if_else(pa.array(which), why, rows["dropped"])
    return rows.set_column(rows.schema.get_field_index("dropped"), "dropped", dropped)


def codes(column: pa.ChunkedArray) -> np.ndarray:
    """int64 [N]: the same number for the same text, counted in the order of first appearance."""
    return pc.fill_null(column, "").combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)


def evaluate(rows: pa.Table, config: ChooseConfig) -> tuple[pa.Table, np.ndarray]:
    """`config.by` of each row, float64 [N], NaN for what is dropped; candidates that have no value of it are dropped."""
    values = np.full(rows.num_rows, np.nan)
    candidate = pc.is_null(rows["dropped"]).to_numpy(zero_copy_only=False)
    some = rows.filter(pa.array(candidate))
    if config.by == "random":
        values[candidate] = random_draw(some, config.seed)
    elif config.by in ("longest", "shortest"):
        values[candidate] = some["n_tokens"].to_numpy()
    elif config.by == "rule_quality":
        values[candidate] = rule_quality(some, codes(some["prompt_id"]))
    else:
        metric = REGISTRY[config.by]
        columns = {name: some[name].to_numpy() for name in metric.columns}
        with np.errstate(divide="ignore", invalid="ignore"):
            values[candidate] = metric.values(columns, codes(some["prompt_id"]))
    return _drop(rows, candidate & ~np.isfinite(values), "no_value"), values


def random_draw(rows: pa.Table, seed: int) -> np.ndarray:
    """A number in [0, 1) of each row, float64 [N], that depends on nothing but the seed and what the row is."""
    names = zip(*(rows[name].to_pylist() for name in ("prompt_id", "teacher", "trajectory_id")), strict=True)
    digests = (hashlib.sha256("\0".join((str(seed), *name)).encode()).digest()[:8] for name in names)
    return (np.frombuffer(b"".join(digests), ">u8") >> 11) * 2.0**-53


def rule_quality(rows: pa.Table, prompts: np.ndarray) -> np.ndarray:
    """The rule-based quality that LIMO describes (arXiv 2502.03387), float64 [N]; higher is better.

    0.30 length + 0.20 self-verification + 0.25 exploration + 0.25 connectives, the last three as words per word of the
    text. Written from the paper's text; its code was not used. That each is standardised among the prompt's candidates
    (minus the mean, over the population standard deviation; 0 where all are equal) is this project's choice.
    """
    parts = [(LENGTH_WEIGHT, "n_tokens"), *((weight, name) for name, (weight, _) in KEYWORDS.items())]
    return sum((weight * standardised(rows[name].to_numpy().astype(np.float64), prompts) for weight, name in parts), np.zeros(rows.num_rows))


def standardised(values: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """float64 [N]: (value - mean) / standard deviation, both over the prompt; 0 where its values are all equal."""
    _, group, n = np.unique(prompts, return_inverse=True, return_counts=True)
    mean = np.bincount(group, values) / n if len(n) else n
    centred = values - mean[group]
    least, most = np.full(len(n), np.inf), np.full(len(n), -np.inf)
    np.minimum.at(least, group, values)
    np.maximum.at(most, group, values)
    varies = (most > least)[group]
    deviation = np.sqrt(np.bincount(group, centred**2) / n) if len(n) else n
    return np.divide(centred, deviation[group], out=np.zeros_like(centred), where=varies)


def cap_shares(
    prompt: np.ndarray, teacher: np.ndarray, order: np.ndarray, chosen: np.ndarray, max_share: float, names: pa.ChunkedArray
) -> tuple[np.ndarray, dict[str, Any]]:
    """The choice with no teacher above its share, and what that did to each teacher. The rule is CAP.

    All are [N], sorted by prompt and within it best first; `order` is the value turned so that lower is better.
    """
    share = Fraction(str(max_share))
    chosen, n = chosen.copy(), int(chosen.sum())
    have = np.bincount(teacher[chosen], minlength=int(teacher.max(initial=-1)) + 1).tolist()
    name_of = dict(zip(teacher.tolist(), names.to_pylist(), strict=True))
    stop = np.searchsorted(prompt, prompt, side="right")
    did: dict[str, Any] = {}

    def count(of: int, what: str) -> None:
        did.setdefault(name_of[of], {"moved_away": 0, "moved_to": 0, "left_out": 0})[what] += 1

    def successor(row: int, most: int) -> int | None:
        """The best candidate of its prompt whose teacher has room; before `row` there is none, as room never comes back."""
        return next((i for i in range(row + 1, stop[row]) if not chosen[i] and have[teacher[i]] < most), None)

    # A row's loss can only grow while others move, so what a heap says of it is a lower bound until it is looked at again.
    moves: list[list[tuple[float, int]]] = [[] for _ in have]
    worst: list[list[tuple[float, int]]] = [[] for _ in have]

    def add(row: int) -> None:
        heapq.heappush(moves[teacher[row]], (0.0, row))
        heapq.heappush(worst[teacher[row]], (-order[row], -row))

    def least_loss(of: int, most: int) -> tuple[float, int, int] | None:
        heap = moves[of]
        while heap:
            bound, row = heap[0]
            new = successor(row, most) if chosen[row] else None
            if new is None:
                heapq.heappop(heap)
                continue
            loss = float(order[new] - order[row])
            if loss == bound:
                return loss, row, new
            heapq.heapreplace(heap, (loss, row))
        return None

    for row in np.flatnonzero(chosen).tolist():
        add(row)
    most = int(share * n)
    while above := [t for t, own in enumerate(have) if own > most]:
        best = min((move for t in above if (move := least_loss(t, most))), default=None)
        if best:
            _, row, new = best
            chosen[new] = True
            have[teacher[new]] += 1
            count(teacher[new], "moved_to")
            add(new)
            count(teacher[row], "moved_away")
        else:
            furthest = min(above, key=lambda t: (-have[t], name_of[t]))
            while not chosen[row := -heapq.heappop(worst[furthest])[1]]:
                pass
            n -= 1
            most = int(share * n)
            count(furthest, "left_out")
        chosen[row] = False
        have[teacher[row]] -= 1
    return chosen, did


# --- what was counted -------------------------------------------------------------------------------------------------


def _counted(column: pa.ChunkedArray) -> dict[str, int]:
    counts = column.drop_null().value_counts().to_pylist()
    return {entry["values"]: entry["counts"] for entry in counts}


def _prompts_without(rows: pa.Table, candidate: np.ndarray) -> dict[str, Any]:
    """How many prompts there are, how many have no candidate, and for how many of these a row was dropped for each reason."""
    named = pc.not_equal(rows["prompt_id"], "").to_numpy(zero_copy_only=False)
    prompt = codes(rows["prompt_id"])
    has = np.bincount(prompt, candidate, minlength=1) > 0
    lost = rows.filter(pa.array(named & ~has[prompt])) if len(prompt) else rows
    pairs = lost.group_by(["prompt_id", "dropped"]).aggregate([])
    return {
        "prompts": len(np.unique(prompt[named])),
        "prompts_without": len(pc.unique(lost["prompt_id"])),
        "because": _counted(pairs["dropped"]),
    }


def _teachers(best: pa.Table, chosen: np.ndarray) -> dict[str, dict[str, int]]:
    table = pa.table({"teacher": best["teacher"], "chosen": chosen.astype(np.int64), "n_tokens": np.where(chosen, best["n_tokens"].to_numpy(), 0)})
    sums = table.group_by("teacher").aggregate([("teacher", "count"), ("chosen", "sum"), ("n_tokens", "sum")])
    return {t["teacher"]: {"candidates": t["teacher_count"], "chosen": t["chosen_sum"], "tokens": t["n_tokens_sum"]} for t in sums.to_pylist()}


def _sums(rows: pa.Table, prompts: np.ndarray, some: np.ndarray) -> dict[str, Any]:
    """Of the rows `some`: how many there are of each length, and of each metric how many have it and the sums of its two terms."""
    metrics = {}
    for metric in REGISTRY.values():
        columns = {name: rows[name].to_numpy() for name in metric.columns}
        with np.errstate(divide="ignore", invalid="ignore"):
            x, y = metric.terms(columns, prompts)
        there = some & np.isfinite(x) & np.isfinite(y)
        metrics[metric.name] = [int(there.sum()), *(int(part.sum()) for term in (x, y) for part in to_fixed(term[there]))]
    lengths, counts = np.unique(rows["n_tokens"].to_numpy()[some], return_counts=True)
    return {"n": int(some.sum()), "lengths": {str(length): int(n) for length, n in zip(lengths, counts, strict=True)}, "metrics": metrics}


def merge(parts: Iterable[Any]) -> Any:
    """Summaries added up: numbers are summed, lists element by element, mappings key by key."""
    parts = list(parts)
    if not parts:
        return {}
    if isinstance(parts[0], dict):
        return {key: merge([part[key] for part in parts if key in part]) for key in sorted({key for part in parts for key in part})}
    if isinstance(parts[0], list):
        return [merge(some) for some in zip(*parts, strict=True)]
    return sum(parts)


def make_manifest(config: ChooseConfig, fingerprint: str, found: dict[str, Any]) -> dict[str, Any]:
    """What is said of the choice, but for its files. Raises UserError where nothing was chosen."""
    found = found or {"rows": 0, "dropped": {}, "seen": {}}
    for option, names in (("--teachers", config.teachers), ("--exclude-teachers", config.exclude_teachers)):
        if unknown := sorted({*names} - {*found["seen"]}):
            raise UserError(f"{option} {unknown[0]}: the store has no such teacher; there: {', '.join(sorted(found['seen']))}")
    dropped = found["dropped"]
    chosen = found["sets"]["chosen"]["n"] if "sets" in found else 0
    if not chosen:
        raise UserError(f"nothing to choose: {_why_nothing(config, found)}")
    if config.complete_column and not found["said_complete"]:
        raise UserError(f"no row says anything in a column {config.complete_column} (--complete-column)")
    n_candidates = found["sets"]["candidates"]["n"]
    if found["rows"] != n_candidates + sum(dropped.values()):
        raise RunError(f"rows are missing: {found['rows']:,} = {n_candidates:,} candidates + {sum(dropped.values()):,} dropped does not hold")
    formula, better = CONTROLS[config.by] if config.by in CONTROLS else (REGISTRY[config.by].formula, REGISTRY[config.by].better)
    capped = found["capped"]
    most = int(Fraction(str(config.max_share)) * chosen) if config.max_share is not None else None
    return {
        "student": config.student,
        "fingerprint": fingerprint,
        "by": {"name": config.by, "formula": formula, "better": better},
        "config": {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(config).items()},
        "rows": found["rows"],
        "dropped": dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
        "candidates": n_candidates,
        "chosen": chosen,
        "prompts": {
            "all": found["prompts"],
            "with_candidates": found["prompts"] - found["prompts_without"],
            "without_candidates": found["prompts_without"],
            "without_because": found["because"],  # a prompt counts under each reason for which it lost a row
            "with_fewer_than_k": found["short_prompts"],
        },
        "teachers": [
            {"teacher": name, "chosen": t["chosen"], "share": t["chosen"] / chosen, "candidates": t["candidates"],
             "mean_tokens": t["tokens"] / t["chosen"] if t["chosen"] else None}
            for name, t in sorted(found["teachers"].items(), key=lambda item: (-item[1]["chosen"], item[0]))
        ],
        "lengths": {name: _quantiles(some["lengths"]) for name, some in found["sets"].items()},
        "means": {name: _means(some["metrics"]) for name, some in found["sets"].items()},
        "ties": {"prompts": found["tied_prompts"], "rule": TIES},
        "cap": None if most is None else {
            "max_share": config.max_share, "most": most, "rule": CAP, "teachers": capped,
            "moved": sum(t["moved_away"] for t in capped.values()), "left_out": sum(t["left_out"] for t in capped.values()),
        },
        "versions": {"rsr_ray": rsr_ray.__version__} | {name: importlib.metadata.version(name) for name in ("ray", "pyarrow", "numpy")},
    }  # fmt: skip


def notes(config: ChooseConfig, store: Store, fingerprint: str, names: list[str], *, said_complete: int) -> list[str]:
    """What the store lacks; of local naturalness whether it says another thing than global naturalness, from some of the units, spread over all."""
    from rsr_ray.rank import naturalness_notes

    said = store.notes(fingerprint)
    if not said_complete:
        said.append("no row says whether its answer is complete, so none was left out for it; --complete-column names such a column")
    if config.by != "local_naturalness":
        return said
    some = pa.table({"name": names[:: math.ceil(len(names) / NOTED_UNITS)]})
    columns = ["n_tokens", "surprisal_sum", "n_steps", "step_surprisal_sum"]
    rows = store.read_units(some, fingerprint, columns).drop_null()
    return said + naturalness_notes({name: rows[name].to_numpy() for name in columns})


def _why_nothing(config: ChooseConfig, found: dict[str, Any]) -> str:
    dropped: dict[str, int] = found["dropped"]
    if config.max_share is not None and "sets" in found and found["sets"]["candidates"]["n"]:
        return f"--max-share {config.max_share:g} cannot be kept with {len(found['teachers'])} teachers among the candidates"
    if dropped.get("no_value"):
        return f"no candidate has a value of {config.by}: score with --metrics {config.by}"
    if dropped.get("no_verdict") and not dropped.get("not_verified"):
        return f"no row says anything in a column {config.verified} (--verified)"
    why = ", ".join(f"{reason} {n:,}" for reason, n in sorted(dropped.items(), key=lambda item: -item[1]))
    return f"of {found['rows']:,} scored rows none is left: {why or 'the store has no rows'}"


def _quantiles(lengths: dict[str, int]) -> dict[str, Any]:
    """The mean of lengths given with their counts, and the least length that at least each share of them does not exceed."""
    length = np.array(sorted(map(int, lengths)))
    count = np.array([lengths[str(n)] for n in length])
    reached = np.cumsum(count) / count.sum()
    return {
        "mean": int((length * count).sum()) / int(count.sum()),
        **{f"p{round(100 * q)}": int(length[np.searchsorted(reached, q)]) for q in QUANTILES},
    }


def _means(metrics: dict[str, list[int]]) -> dict[str, float]:
    """Each metric of a set, as of a teacher: mean x / mean y."""
    return {name: from_fixed(xw, xp) / from_fixed(yw, yp) for name, (n, xw, xp, yw, yp) in metrics.items() if n}
