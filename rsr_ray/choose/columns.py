"""columns: of the tables that go from one stage of a choice to the next, and of its files."""

import pyarrow as pa

from rsr_ray.choose.rule import KEYWORDS
from rsr_ray.errors import UserError
from rsr_ray.metrics import REGISTRY, Metric
from rsr_ray.schema import SCORES


def _scores(*names: str) -> list[pa.Field]:
    return [SCORES.field(name).remove_metadata() for name in names]


IDENTITY = ("trajectory_id", "content", "prompt_id", "teacher", "sample", "source", "source_row")
SUMMED = tuple(dict.fromkeys(name for metric in REGISTRY.values() for name in metric.columns))
READ = tuple(
    dict.fromkeys((*IDENTITY, *SUMMED, "n_prompt_tokens", "mean_rank", "mean_surprisal", "rsr"))
)
CANDIDATES = pa.schema(
    [
        *_scores(*READ),
        pa.field("version", pa.string()),  # of the input object that was scored
        # times of these words, of all words; for rule_quality only
        *[pa.field(name, pa.float64()) for name in KEYWORDS],
        # what --complete-column says of the row; null if it was not asked, or says nothing
        pa.field("complete", pa.bool_()),
        pa.field("is_guarded", pa.bool_()),  # whether the guard's columns of it are known
        pa.field("dropped", pa.string()),  # why the row is no candidate; null for one
    ]
)
CHOSEN = pa.schema(
    [
        *_scores("trajectory_id", "prompt_id", "teacher", "sample", "source", "source_row"),
        pa.field("version", pa.string()),
        pa.field("by", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("place", pa.int64()),  # 1 = the best of its prompt
        *_scores("n_tokens", "mean_rank", "mean_surprisal", "rsr"),
        pa.field("summary", pa.string()),  # of a partition, in a row that has nothing else
    ]
)


def candidates_of(metric: Metric | None) -> pa.Schema:
    """CANDIDATES, with the columns of a metric of a segment."""
    more = metric.columns if metric and metric.segment else ()
    fields = [
        SCORES.field(name.rpartition("/")[2]).remove_metadata().with_name(name) for name in more
    ]
    return pa.schema([*CANDIDATES, *fields])


SCORE_COLUMNS = (
    "trajectory_id",
    "prompt_id",
    "teacher",
    "sample",
    "by",
    "value",
    "place",
    "n_tokens",
    "mean_rank",
    "mean_surprisal",
    "rsr",
)
RSR_RAY = pa.struct([CHOSEN.field(name) for name in SCORE_COLUMNS])
ADDED = ("messages", "rsr_ray")  # the columns that every file ends with
WRITTEN = pa.schema(
    [
        ("name", pa.string()),
        ("rows", pa.int64()),
        ("sha256", pa.string()),
        ("schema", pa.binary()),
        ("columns", pa.list_(pa.string())),  # of the shard
    ]
)


def common_schema(schemas: list[pa.Schema]) -> pa.Schema:
    """One schema for files of these. Raises UserError, naming the column that has none."""
    names = sorted({name for schema in schemas for name in schema.names} - {*ADDED})
    fields = []
    for name in (*names, *ADDED):
        kinds = [pa.schema([schema.field(name)]) for schema in schemas if name in schema.names]
        try:
            unified = pa.unify_schemas(kinds, promote_options="permissive")
        except pa.ArrowException as e:
            types = " and ".join(sorted({str(kind.field(0).type) for kind in kinds}))
            raise UserError(
                f"column {name} has different types in different shards ({types[:300]}), which "
                f"cannot be combined. {way_out(name)}"
            ) from e
        fields.append(unified.field(0).with_nullable(True))
    return pa.schema(fields)


def way_out(name: str) -> str:
    """What to do about a column that does not fit."""
    return f"To leave {name} out, name the columns to keep with --keep, or use --keep none"
