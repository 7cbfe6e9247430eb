"""candidates: which scored rows can be chosen, and why the others cannot."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.choose.columns import READ, candidates_of
from rsr_ray.choose.overlap import prompt_text, read_eval_set
from rsr_ray.choose.rule import KEYWORDS, keyword_shares
from rsr_ray.config.choose import PoolConfig
from rsr_ray.corpus.row_faults import Row
from rsr_ray.corpus.shapes import conversation
from rsr_ray.corpus.turns import Turn
from rsr_ray.corpus.verdicts import columns_read, says, scored_rows
from rsr_ray.errors import BadRow, UserError
from rsr_ray.files.objects import InputObject, version_of
from rsr_ray.guard import GUARD_COLUMNS, JUDGED_BY, as_numbers, degenerate
from rsr_ray.store.packs import stored_packs
from rsr_ray.store.store import Store
from rsr_ray.store.units import reading_of

# read for the filters only
FILTERED = ("truncated", "complete", "reject_reason", *GUARD_COLUMNS)


class Candidates:
    """Input objects -> CANDIDATES rows. Small and picklable: it travels to the tasks."""

    def __init__(
        self, config: PoolConfig, store: Store, fingerprint: str, names: Iterable[str] = ()
    ):
        self.config = config
        self.store = store
        self.fingerprint = fingerprint
        self.schema = candidates_of(config.metric)
        self.eval_set = (
            read_eval_set(
                config.eval_set, config.eval_column, config.eval_overlap, config.s3_endpoint
            )
            if config.eval_set
            else None
        )
        self.packs = {pack.key: pack for pack in stored_packs(store, {name[:16] for name in names})}

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

    def read(self, objects: pa.Table) -> pa.Table:
        """Ray Data UDF over input objects, given as the names of their units: their rows."""
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(self.of_object, objects["names"].to_pylist()))
        return pa.concat_tables(found)

    def of_object(self, names: list[str]) -> pa.Table:
        """The rows of one object's units. Raises UserError if a shard is not as it was scored."""
        units: dict[str, list[str]] = defaultdict(list)  # by version of the object
        for name in names:
            units[name[17:29]].append(name)
        of_segment = [name for name in self.schema.names if "/" in name]
        tables = {
            version: self.store.read_units(
                pa.table({"name": some}), self.fingerprint, [*READ, *of_segment, *FILTERED]
            )
            for version, some in sorted(units.items())
        }
        if pack := self.packs.get(names[0][:16]):
            rows = pa.concat_tables(tables.values())
            of_members = []
            for file in pack.members:
                some = rows.filter(pc.equal(rows["source"], file.uri))
                if some.num_rows:
                    of_members.append(self.of_file(file.uri, {file.version: some}, units))
            return pa.concat_tables(of_members)
        sources = [table["source"][0].as_py() for table in tables.values() if table.num_rows]
        return self.of_file(sources[0], tables, units) if sources else self.schema.empty_table()

    def of_file(
        self, source: str, tables: dict[str, pa.Table], units: dict[str, list[str]]
    ) -> pa.Table:
        """The rows of one file; its scores and the names of its units are given by version.

        Raises UserError if the file is not as it was scored.
        """
        now = version_of(source, self.config.s3_endpoint)
        if len(ways := {reading_of(name) for name in units.get(now or "", [])}) > 1:
            what = (
                f"{source} was scored with {len(ways)} different settings of --teacher and "
                "--columns"
            )
            raise UserError(
                f"{what}: choose can only write rows read in one way; score each into a separate "
                "store"
            )
        version = now if now in tables else next(v for v, table in tables.items() if table.num_rows)
        rows = tables[version]
        dropped = drop_by_scores(rows, self.config)
        if now != version and dropped.null_count:
            self._check_missing(source, now)
            dropped = pc.fill_null(dropped, "missing")
        read = self._read_columns(InputObject(uri=source, version=version, size=0), rows, dropped)
        is_guarded = pc.is_valid(rows["longest_repeat"])
        rows = rows.drop_columns([*FILTERED]).append_column("is_guarded", is_guarded)
        rows = rows.append_column("version", pa.repeat(version, rows.num_rows).cast(pa.string()))
        for name, column in read.items():
            rows = rows.append_column(name, column)
        # A row that names no prompt was rejected; hash partitions want a value.
        prompt_id = pc.fill_null(rows["prompt_id"], "")
        at = rows.schema.get_field_index("prompt_id")
        rows = rows.set_column(at, "prompt_id", prompt_id)
        return rows.select(self.schema.names).cast(self.schema)

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

    def _read_columns(
        self, obj: InputObject, rows: pa.Table, dropped: pa.Array
    ) -> dict[str, pa.Array]:
        """The columns KEYWORDS, `complete` and `dropped`, from the shard itself where needed."""
        n = rows.num_rows
        said = pa.nulls(n, pa.bool_()) if self.config.complete_column else rows["complete"]
        if not (self.reads_corpus and dropped.null_count):
            empty = {name: pa.nulls(n, pa.float64()) for name in KEYWORDS}
            return {**empty, "complete": said, "dropped": dropped}
        columns = self.read_corpus(obj, rows["source_row"].to_numpy(), dropped)
        return columns | {"complete": pc.coalesce(columns["complete"], said)}

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
        wanted = {int(source_rows[i]): i for i, reason in enumerate(reasons) if reason is None}
        for index, row in self._rows(obj, wanted):
            i = wanted[index]
            where = f"{obj.uri} row {index}"
            complete[i] = self._says_complete(row, where)
            reasons[i] = self._why_dropped(row, where, complete[i])
            if reasons[i] is None and self.config.by == "rule_quality":
                for name, share in keyword_shares(said_by_assistant(row, where)).items():
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
