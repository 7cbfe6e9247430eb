"""plan: how a corpus is read, found from its first rows and said before anything is scored."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.first_rows import check_readable
from rsr_ray.corpus.images import check_root
from rsr_ray.corpus.reading import BY_PATH, Reading, columns_of
from rsr_ray.corpus.row_faults import Row, Unreadable
from rsr_ray.corpus.rows import iter_rows, iter_trajectories
from rsr_ray.corpus.shapes import COLUMNS, ID_COLUMNS
from rsr_ray.corpus.turns import is_scored
from rsr_ray.errors import counted
from rsr_ray.files.objects import InputObject

LOOKED_AT = 32  # rows of each of as many shards as `SHARDS`
SHARDS = 8
NAMED = 8  # teachers that a line names before it only counts
DATE = re.compile(r"(19|20)\d\d[-_.]?\d\d[-_.]?\d\d([T_-]?\d{2,6}Z?)?")
MARKERS = re.compile(
    r"<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|\[INST\]|<\|user\|>|<｜User｜>"
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which column is read as what, where the names come from, and what is not read."""

    shape: str
    columns: dict[str, str]  # name -> column, of what is mapped
    teacher: str  # where it comes from, as are the next three
    trajectory_id: str
    prompt_id: str
    sample: str
    teachers: (
        str  # names, each with how many shards of the corpus, or rows of those looked at, it has
    )
    not_read: list[str]  # columns
    notes: list[str]  # what may not be as it was meant, a sentence each


def make_plan(
    objects: list[InputObject],
    endpoint: str | None,
    reading: Reading,
) -> Plan:
    """The plan of a corpus. Raises UserError where no shard of it can be read as asked for."""
    columns = reading.columns
    check_root(reading.media, endpoint)
    shape = check_readable(objects, endpoint, columns, reading.strata)
    seen = Seen.of(objects, endpoint, reading)
    there = seen.columns
    read = {*COLUMNS} | columns_of([*columns.values(), *reading.strata], there)
    from_path = Counter(reading.teacher_of(obj.uri) or "none" for obj in objects)

    def source(name: str, otherwise: str) -> str:
        column = columns.get(name, name)
        return f"column {column}" if name in columns or name in there else otherwise

    by_column = next((column for column in columns.values() if "{teacher}" in column), "")
    from_data = f"the names of columns: {by_column}" if by_column else reading.teacher_source
    if not by_column and not reading.is_explicit:
        from_data = source("teacher", BY_PATH)
    by_path = from_data.startswith("the path")
    given_id = next((name for name in ID_COLUMNS if name in columns or name in there), "")
    return Plan(
        shape=shape,
        columns=dict(columns),
        teacher=from_data,
        trajectory_id=source(given_id, "the text of the row"),
        prompt_id=source("prompt_id", "the text of the prompt"),
        sample=source("sample", "the place in a list of answers"),
        teachers=listed(from_path, lambda n: counted(n, "shard"))
        if by_path
        else listed(seen.teachers, "{:,} of the first rows".format),
        not_read=[name for name in there if name not in read],
        notes=[*(_doubts(from_path, reading) if by_path else []), *seen.notes(by_path=by_path)],
    )


@dataclass
class Seen:
    """What the first rows of some shards hold."""

    columns: dict[str, None] = field(default_factory=dict)
    teachers: Counter[str] = field(default_factory=Counter)
    # without `sample`, by teacher and prompt
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    n_rows: int = 0
    n_rendered: int = 0  # prompts that hold a chat template's markers
    n_untrained: int = 0  # turns of an assistant that are context

    @classmethod
    def of(cls, objects: list[InputObject], endpoint: str | None, reading: Reading) -> "Seen":
        """Of LOOKED_AT rows of each of SHARDS shards all over the corpus."""
        seen = cls()
        for obj in objects[:: max(1, len(objects) // SHARDS)][:SHARDS]:
            for row in itertools.islice(iter_rows(obj, endpoint, reading.columns, None), LOOKED_AT):
                if not isinstance(row, Unreadable):
                    seen.columns |= dict.fromkeys(map(str, row))
            for n, one in enumerate(
                itertools.islice(iter_trajectories(obj, endpoint, reading), LOOKED_AT)
            ):
                seen.add(canonical(one, obj, n, reading, endpoint))
        return seen

    def add(self, row: Row) -> None:
        self.n_rows += 1
        self.teachers[row["teacher"] or "none"] += 1
        if row["reject_reason"] is not None:
            return
        turns = json.loads(row["messages"])
        asked = next((turn["content"] for turn in turns if turn["role"] == "user"), "")
        self.n_rendered += bool(MARKERS.search(asked))
        self.n_untrained += sum(
            turn["role"] == "assistant" and not is_scored(turn) for turn in turns
        )
        if row["sample"] is None:
            self.answers[row["teacher"], row["prompt_id"]] += 1

    def notes(self, *, by_path: bool) -> list[str]:
        """What may not be as it was meant, a sentence each."""
        said = []
        if self.n_rendered:
            what = (
                f"{self.n_rendered:,} of the first {self.n_rows:,} prompts contain a chat "
                "template's markers"
            )
            said.append(
                f"{what}: use --render raw to keep them as they are; any other setting adds the "
                "template a second time"
            )
        if self.n_untrained:
            what = (
                f"{self.n_untrained:,} assistant turns of the first {self.n_rows:,} rows are "
                "marked as not trained on"
            )
            said.append(
                f"{what} (weight 0, loss or train false, history): they are used as context and "
                "not scored"
            )
        several = sorted({teacher for (teacher, _), n in self.answers.items() if n > 1})
        if several and by_path:
            what = (
                f"teacher {several[0]}, named by its path, has several answers to one prompt and "
                "no sample column to number them"
            )
            said.append(f"{what}: are they all from one teacher?")
        return said


def listed(names: Mapping[str, int], say: Callable[[int], str]) -> str:
    """Names with their counts in one line."""
    first = [f"{name} ({say(n)})" for name, n in sorted(names.items())[:NAMED]]
    return ", ".join(first) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def _doubts(names: Mapping[str, int], reading: Reading) -> list[str]:
    """What is odd about teachers that paths name."""
    if reading.teacher_from:
        n = names.get("none", 0)
        return (
            [
                f"{n:,} shards have no teacher, because --teacher-from {reading.teacher_from} "
                "does not match their paths"
            ]
            if n
            else []
        )
    ways_out = (
        "use --teacher-from file or folder:2, --teacher NAME, --columns teacher=COLUMN, or "
        "teacher=NAME/ folders"
    )
    dates = sorted(name for name in names if DATE.fullmatch(name))
    if dates:
        return [f"teacher {dates[0]} looks like a date; to name teachers differently, {ways_out}"]
    if len(names) == 1:
        return [
            f"{next(iter(names))} is the only teacher that the paths name; if it is not one, "
            f"{ways_out}"
        ]
    return []
