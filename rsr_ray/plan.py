"""plan: how a corpus is read, found from its first rows and said before anything is scored."""

import itertools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from rsr_ray.objects import InputObject
from rsr_ray.read import Unreadable, check_readable, iter_rows
from rsr_ray.reading import BY_PATH, Reading, columns_of
from rsr_ray.shapes import COLUMNS, ID_COLUMNS, value_at

LOOKED_AT = 32  # rows of each of as many shards as `SHARDS`
SHARDS = 8
NAMED = 8  # teachers that a line names before it only counts
DATE = re.compile(r"(19|20)\d\d[-_.]?\d\d[-_.]?\d\d([T_-]?\d{2,6}Z?)?")
MARKERS = re.compile(r"<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|\[INST\]|<\|user\|>|<｜User｜>")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which column is read as what, where the names come from, and what is not read."""

    shape: str
    columns: dict[str, str]  # name -> column, of what is mapped
    teacher: str  # where it comes from, as are the next three
    trajectory_id: str
    prompt_id: str
    sample: str
    teachers: str  # those that the paths name, with how many shards each has
    not_read: list[str]  # columns
    notes: list[str]  # what may not be as it was meant, a sentence each


def make_plan(
    objects: list[InputObject],
    endpoint: str | None,
    reading: Reading,
) -> Plan:
    """The plan of a corpus. Raises UserError where no shard of it can be read as asked for."""
    columns = reading.columns
    shape = check_readable(objects, endpoint, columns)
    there: dict[str, None] = {}
    rendered = 0
    prompt = columns.get("prompt", "prompt")
    for obj in objects[:: max(1, len(objects) // SHARDS)][:SHARDS]:
        for row in itertools.islice(iter_rows(obj, endpoint, columns, None), LOOKED_AT):
            if isinstance(row, Unreadable):
                continue
            there |= dict.fromkeys(map(str, row))
            text = value_at(row, prompt)
            rendered += isinstance(text, str) and bool(MARKERS.search(text))
    read = {*COLUMNS} | columns_of(columns.values(), there)
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
        teachers=listed(from_path) if by_path else "",
        not_read=[name for name in there if name not in read],
        notes=(_doubts(from_path) if by_path else []) + _rendered(rendered, prompt),
    )


def listed(names: Mapping[str, int]) -> str:
    """Names with their counts in one line."""
    first = [f"{name} ({n:,} shards)" for name, n in sorted(names.items())[:NAMED]]
    return ", ".join(first) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def _rendered(n: int, column: str) -> list[str]:
    """What to say of prompts that hold a template's markers."""
    if not n:
        return []
    what = f"{n:,} of the first prompts in column {column} hold a chat template's markers"
    return [f"{what}: they would be wrapped a second time; give the conversation's own text"]


def _doubts(names: Mapping[str, int]) -> list[str]:
    """What is odd about teachers that paths name."""
    ways_out = "give --teacher-from file or folder:2, --teacher NAME, --columns teacher=COLUMN, or teacher=NAME/ folders"
    dates = sorted(name for name in names if DATE.fullmatch(name))
    if dates:
        return [f"{dates[0]} is taken for a teacher's name and looks like a date: {ways_out}"]
    if len(names) == 1:
        return [f"{next(iter(names))} is the only teacher that the paths name; if not: {ways_out}"]
    return []
