"""candidates: which scored rows can be chosen, and why the others cannot."""

import functools
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.choose.columns import READ, candidates_of
from rsr_ray.choose.overlap import prompt_text, read_eval_set
from rsr_ray.choose.rule import KEYWORDS, keyword_shares
from rsr_ray.codes import codes_of
from rsr_ray.config.choose import PoolConfig
from rsr_ray.corpus.row_faults import Row
from rsr_ray.corpus.shapes import conversation
from rsr_ray.corpus.turns import Turn
from rsr_ray.corpus.verdicts import columns_read, says, scored_rows
from rsr_ray.errors import BadRow, UserError
from rsr_ray.files.objects import InputObject, version_of
from rsr_ray.guard import GUARD_COLUMNS, JUDGED_BY, as_numbers, degenerate
from rsr_ray.store.packs import stored_packs
from rsr_ray.store.score_files import ScoreFile
from rsr_ray.store.store import Store
from rsr_ray.store.units import n_rows, reading_of

# read for the filters only
FILTERED = ("truncated", "complete", "reject_reason", *GUARD_COLUMNS)


@dataclass(frozen=True)
class _Objects:
    """What the names of units say of the objects that they are of."""

    packs: dict[str, dict[str, str]]  # by key of a pack: URI -> version of its files
    # by key: of objects of several versions these, one with rows first
    versions: dict[str, tuple[str, ...]]
    ways: dict[tuple[str, str], int]  # by key and version: in how many it was read

    @classmethod
    def of(cls, names: list[str], store: Store) -> "_Objects":
        packs = stored_packs(store, {name[:16] for name in names})
        rows: dict[str, dict[str, int]] = defaultdict(Counter)
        readings: dict[tuple[str, str], set[str]] = defaultdict(set)
        for name in names:
            key, version = name[:16], name[17:29]
            rows[key][version] += n_rows([name])
            readings[key, version].add(reading_of(name))
        return cls(
            packs={p.key: {file.uri: file.version for file in p.members} for p in packs},
            versions={
                key: tuple(sorted(of_key, key=lambda version: (not of_key[version], version)))
                for key, of_key in rows.items()
                if len(of_key) > 1
            },
            ways={of: len(some) for of, some in readings.items() if len(some) > 1},
        )


class _Scored(NamedTuple):
    """Rows of a file as a unit has them."""

    version: str
    counts: bool  # whether they are of the version that is to be chosen from
    is_missing: bool  # whether the file is no longer what was scored


class Candidates:
    """Score files -> CANDIDATES rows. Small and picklable: it travels to the tasks."""

    def __init__(
        self, config: PoolConfig, store: Store, fingerprint: str, files: Sequence[ScoreFile]
    ):
        self.config = config
        self.store = store
        self.fingerprint = fingerprint
        self.files = files
        self.schema = candidates_of(config.metric)
        self.eval_set = (
            read_eval_set(
                config.eval_set, config.eval_column, config.eval_overlap, config.s3_endpoint
            )
            if config.eval_set
            else None
        )
        names = [name for file in files for name in file.units]
        self.objects = _Objects.of(names, store)
        self.run = uuid.uuid4().hex

    @property
    def reads_corpus(self) -> bool:
        """Whether the scores alone do not say which rows are candidates."""
        config = self.config
        return (
            config.verified is not None
            or config.complete_only
            or config.complete_column is not None
            or config.by == "rule_quality"
            or config.eval_set is not None
        )

    def read(self, places: pa.Table) -> pa.Table:
        """Ray Data UDF over places in `files`: their rows, as far as their scores say what they
        are. Raises UserError if a shard is not as it was scored.
        """
        of_segment = [name for name in self.schema.names if "/" in name]
        columns = [*READ, *of_segment, *FILTERED, "unit"]
        with ThreadPoolExecutor(8) as pool:
            tables = pool.map(
                lambda place: self.store.read_score_file(
                    self.fingerprint, self.files[place], columns
                ),
                places["place"].to_pylist(),
            )
            rows = pa.concat_tables(tables)
            rows = self._as_scored(rows, pool)
        return rows.select(self.schema.names).cast(self.schema)

    def _as_scored(self, rows: pa.Table, pool: ThreadPoolExecutor) -> pa.Table:
        """The rows of the version of their shards that counts, with all columns."""
        unit, units = codes_of(rows["unit"])
        source, sources = codes_of(rows["source"])
        pairs, pair = np.unique(unit * len(sources) + source, return_inverse=True)
        of_pair = list(
            pool.map(
                lambda n: self._scored_in(
                    units[n // len(sources)].as_py(), sources[n % len(sources)].as_py()
                ),
                pairs.tolist(),
            )
        )
        counts = np.array([said.counts for said in of_pair], bool)[pair]
        is_missing = np.array([said.is_missing for said in of_pair], bool)[pair]
        versions = pa.array([said.version for said in of_pair], pa.string()).take(pa.array(pair))
        rows = rows.append_column("version", versions).filter(pa.array(counts))
        is_missing = is_missing[counts]
        dropped = drop_by_scores(rows, self.config)
        lost = is_missing & dropped.is_null().to_numpy(zero_copy_only=False)
        if lost.any():
            uri = pc.min(rows["source"].filter(pa.array(lost))).as_py()
            self._check_missing(uri, self._version_now(uri))
            dropped = pc.if_else(pa.array(lost), "missing", dropped)
        n = rows.num_rows
        rows = rows.append_column("is_guarded", pc.is_valid(rows["longest_repeat"]))
        said = pa.nulls(n, pa.bool_()) if self.config.complete_column else rows["complete"]
        # A row that names no prompt was rejected; hash partitions want a value.
        named = {"prompt_id": pc.fill_null(rows["prompt_id"], ""), "complete": said}
        for name, column in named.items():
            rows = rows.set_column(rows.schema.get_field_index(name), name, column)
        for name in KEYWORDS:
            rows = rows.append_column(name, pa.nulls(n, pa.float64()))
        return rows.append_column("dropped", dropped)

    def _scored_in(self, unit: str, source: str) -> "_Scored":
        """Whether the rows that a unit has of a file count.

        Of a file that was scored in several versions its present one counts, or else the first.
        """
        now, version = self._version_now(source), unit[17:29]
        if (pack := self.objects.packs.get(unit[:16])) is not None:
            packed = pack.get(source)
            return _Scored(packed or "", packed is not None, packed != now)
        versions = self.objects.versions.get(unit[:16], (version,))
        if now in versions and self.objects.ways.get((unit[:16], now), 1) > 1:
            what = (
                f"{source} was scored with {self.objects.ways[unit[:16], now]} different settings "
                "of --teacher and --columns"
            )
            raise UserError(
                f"{what}: choose can only write rows read in one way; score each into a separate "
                "store"
            )
        counting = now if now in versions else versions[0]
        return _Scored(version, version == counting, version != now)

    def _version_now(self, uri: str) -> str | None:
        return _version_of(self.run, uri, self.config.s3_endpoint)

    def _check_missing(self, source: str, now: str | None) -> None:
        """Raise UserError for a file that is not as it was scored, unless it may be left out."""
        if self.config.skip_missing:
            return
        what = (
            "no longer exists: restore it"
            if now is None
            else "was replaced since it was scored: score it again"
        )
        raise UserError(
            f"shard {source} {what}, or pass --skip-missing to leave out its trajectories (other "
            "than those that another shard also has)"
        )

    def judge(self, rows: pa.Table) -> pa.Table:
        """Ray Data UDF over CANDIDATES rows, all of a shard in one batch: with what the shards
        themselves say of those that are not dropped.
        """
        judged = [self.schema.empty_table()]
        for source in sorted(set(rows["source"].to_pylist())):
            of_source = rows.filter(pc.equal(rows["source"], source))
            for version in sorted(set(of_source["version"].to_pylist())):
                some = of_source.filter(pc.equal(of_source["version"], version))
                if some["dropped"].null_count:
                    obj = InputObject(uri=source, version=version, size=0)
                    some = self._judged(obj, some)
                judged.append(some)
        return pa.concat_tables(judged)

    def _judged(self, obj: InputObject, rows: pa.Table) -> pa.Table:
        numbers = rows["source_row"].to_numpy()
        columns = self.read_corpus(obj, numbers, rows["dropped"])
        columns["complete"] = pc.coalesce(columns["complete"], rows["complete"])
        for name, column in columns.items():
            rows = rows.set_column(rows.schema.get_field_index(name), name, column)
        return rows.cast(self.schema)

    def read_corpus(
        self, obj: InputObject, source_rows: np.ndarray, dropped: pa.Array
    ) -> dict[str, pa.Array]:
        """What the shard says of those of its scored rows that are not dropped.

        Returns `dropped` after the filters by the shard's own columns, and KEYWORDS and `complete`
        if they are asked for. Raises UserError if a row is not there.
        """
        reasons: list[str | None] = dropped.to_pylist()
        complete: list[bool | None] = [None] * len(reasons)
        shares = {name: np.full(len(reasons), np.nan) for name in KEYWORDS}
        wanted = defaultdict[int, list[int]](list)  # a file may be scored alone and in a pack
        for i, reason in enumerate(reasons):
            if reason is None:
                wanted[int(source_rows[i])].append(i)
        for index, row in self._rows(obj, wanted):
            where = f"{obj.uri} row {index}"
            is_complete = self._says_complete(row, where)
            why = self._why_dropped(row, where, is_complete)
            has_quality = why is None and self.config.by == "rule_quality"
            quality = keyword_shares(said_by_assistant(row, where)) if has_quality else {}
            for i in wanted[index]:
                complete[i], reasons[i] = is_complete, why
                for name, share in quality.items():
                    shares[name][i] = share
        return {
            **{name: pa.array(values, from_pandas=True) for name, values in shares.items()},
            "complete": pa.array(complete, pa.bool_()),
            "dropped": pa.array(reasons, pa.string()),
        }

    def _rows(self, obj: InputObject, wanted: Collection[int]) -> Iterator[tuple[int, Row]]:
        """Trajectories of the shard, read no further than the columns that the settings need."""
        config = self.config
        whole = config.by == "rule_quality" or self.eval_set is not None
        asked = [config.complete_column or "complete", *filter(None, [config.verified])]
        only = None if whole else columns_read(*asked)
        return scored_rows(obj, config.s3_endpoint, config.reading, only, wanted)

    def _says_complete(self, row: Row, where: str) -> bool | None:
        config = self.config
        if not (config.complete_only or config.complete_column):
            return None
        return says(row, config.complete_column or "complete", where)

    def _why_dropped(self, row: Row, where: str, complete: bool | None) -> str | None:
        if complete is False:
            return "incomplete"
        if self.config.verified:
            verdict = says(row, self.config.verified, where)
            if verdict is None:
                return "no_verdict"
            if not verdict:
                return "not_verified"
        return self.eval_set.why_dropped(_asked(row, where)) if self.eval_set else None


@functools.lru_cache(1 << 18)
def _version_of(run: str, uri: str, endpoint: str | None) -> str | None:
    """The version of a file as it is now: looked up once by each process of a run."""
    return version_of(uri, endpoint)


def drop_by_scores(rows: pa.Table, config: PoolConfig) -> pa.Array:
    """Why each row of scores is no candidate, string [N]: the first reason; null if it is one."""
    teacher = rows["teacher"]
    n_tokens = rows["n_tokens"]
    filters = {}
    if config.teachers:
        filters["teachers"] = pc.invert(_is_one_of(teacher, config.teachers))
    filters["exclude_teachers"] = _is_one_of(teacher, config.exclude_teachers)
    if not config.keep_incomplete and not config.complete_column:
        filters["incomplete"] = pc.invert(rows["complete"])
    if not config.keep_degenerate:
        columns = {name: as_numbers(rows[name]) for name in JUDGED_BY}
        by_end = not config.keep_incomplete and not config.complete_column
        filters["degenerate"] = pa.array(degenerate(columns, cut_offs=by_end) == 1)
    if config.complete_only:
        filters["truncated"] = rows["truncated"]
    if config.min_tokens is not None:
        filters["min_tokens"] = pc.less(n_tokens, config.min_tokens)
    if config.max_tokens is not None:
        filters["max_tokens"] = pc.greater(n_tokens, config.max_tokens)
    dropped = pc.binary_join_element_wise("rejected/", rows["reject_reason"], "")
    for why, holds in filters.items():
        dropped = pc.if_else(pc.and_(pc.is_null(dropped), pc.fill_null(holds, False)), why, dropped)
    return dropped.combine_chunks() if isinstance(dropped, pa.ChunkedArray) else dropped


def _is_one_of(column: pa.ChunkedArray, names: tuple[str, ...]) -> pa.ChunkedArray:
    return pc.is_in(column, pa.array(names, pa.string()))


def said_by_assistant(row: Row, where: str) -> str:
    """All that the assistant says in a row's conversation. Raises UserError if it has none."""
    turns = _turns(row, where)
    return " ".join(turn["content"] for turn in turns if turn["role"] == "assistant")


def _asked(row: Row, where: str) -> str:
    """What a row's prompt says. Raises UserError if it has no conversation."""
    return prompt_text(_turns(row, where))


def _turns(row: Row, where: str) -> list[Turn]:
    try:
        return conversation(row)
    except BadRow as e:
        raise UserError(
            f"{where} was scored but now has no readable conversation ({e.detail}): pass the "
            "--columns it was scored with"
        ) from e
