"""reading: what the user says of how rows are read; it comes before all that is guessed.

--teacher NAME                         whose answers they are
--teacher-from file, folder:2, {teacher}/*/*.jsonl    ... told by the path
--columns prompt=question              what a column is
--columns response={teacher}_attempt   answers that lie side by side: a teacher a column
--columns response=solution_{sample}   ... or a sample a column
--roles critic=assistant               what a turn's role is
--stratum metadata.domain              what is kept beside the scores
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from rsr_ray.corpus.identity import numbered
from rsr_ray.corpus.images import NOT_SAID, Media
from rsr_ray.corpus.pairs import ANSWERS
from rsr_ray.corpus.row_faults import Row
from rsr_ray.corpus.shapes import ID_COLUMNS, mapped, samples
from rsr_ray.corpus.turns import ROLES, json_or_none
from rsr_ray.errors import UserError
from rsr_ray.store.units import AS_IT_IS

PLACES = {"{teacher}": "(?P<teacher>.+)", "{sample}": "(?P<sample>[0-9]+)"}
BY_PATH = "the path: teacher=NAME/, or the shard's folder"
FOLDER = re.compile(r"folder(?::([1-9][0-9]?))?")
TURNS = ("messages", "conversations", "prompt", *ANSWERS)


@dataclass(frozen=True)
class Reading:
    """How rows are read, as far as the user says it."""

    teacher: str | None = None
    teacher_from: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)  # name -> column, or path into one
    roles: Mapping[str, str] = field(default_factory=dict)  # as a turn has it -> one of the four
    strata: tuple[str, ...] = ()  # columns, or paths into one, whose values are kept
    media: Media = NOT_SAID  # where images may come from
    # whether the student looks at images; None: whoever reads does not know
    sees: bool | None = None

    @property
    def label(self) -> str:
        """How the names of units have it: -, six digits of the teacher and six of all else.

        "" where nothing is said. The strata, and whether the student sees, are the fingerprint's to
        tell apart.
        """
        if replace(self, strata=(), sees=None) == Reading():
            return ""
        teacher = self.teacher or (f"from {self.teacher_from}" if self.teacher_from else "")
        columns = [f"{name}={column}" for name, column in sorted(self.columns.items())]
        rest: list[Any] = [columns, sorted(self.roles.items())] if self.roles else columns
        if self.media != NOT_SAID:
            rest = [rest, self.media]
        halves = [
            hashlib.sha256(json.dumps(some).encode()).hexdigest()[:6] if some else AS_IT_IS
            for some in (teacher, rest)
        ]
        return "-" + "".join(halves)

    @property
    def teacher_source(self) -> str:
        """Where the teacher comes from if no column names it, in words."""
        if self.teacher:
            return f"--teacher {self.teacher}"
        return f"the path: --teacher-from {self.teacher_from}" if self.teacher_from else BY_PATH

    def teacher_of(self, uri: str) -> str | None:
        """The teacher that the path of a shard names; None where it names none."""
        if self.teacher_from:
            return teacher_by_rule(uri, self.teacher_from)
        return teacher_of_path(uri)

    @property
    def is_explicit(self) -> bool:
        """Whether the user says who the teacher is, or where the path tells it."""
        return self.teacher is not None or self.teacher_from is not None

    def given_teacher(self, uri: str) -> str | None:
        """The teacher that the options give to all rows of a shard, or None."""
        return self.teacher or (self.teacher_of(uri) if self.teacher_from else None)

    def each(self, row: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, str], Row]]:
        """The columns of one answer in a row, and what their names say of it: `teacher`, `sample`.

        Several where answers lie side by side in columns of a pattern.
        """
        patterns = {
            name: pattern_of(column) for name, column in self.columns.items() if is_pattern(column)
        }
        plain = {name: column for name, column in self.columns.items() if name not in patterns}
        if not patterns:
            yield plain, {}
            return
        found: dict[tuple[str, int], dict[str, str]] = {}
        for name, pattern in patterns.items():
            for column in row:
                if at := pattern.fullmatch(str(column)):
                    places = at.groupdict()
                    key = places.get("teacher") or "", int(places.get("sample") or 0)
                    found.setdefault(key, {})[name] = str(column)
        answers = {key: columns for key, columns in found.items() if columns.keys() & {*ANSWERS}}
        for (teacher, sample), columns in sorted(answers.items()):
            said = {"teacher": teacher or None, "sample": sample}
            by_sample = any("{sample}" in column for column in self.columns.values())
            wanted = [
                name for name in said if said[name] is not None and (name != "sample" or by_sample)
            ]
            yield {**plain, **columns}, {name: said[name] for name in wanted}
        if not answers:
            yield plain, {}


def trajectories(row: Row, reading: Reading) -> Iterator[tuple[Row, Mapping[str, str]]]:
    """The trajectories of a row under the names they are read by.

    Each comes with the columns that these names stand for. Raises BadRow.
    """
    for columns, said in reading.each(row):
        one = mapped(row, columns) | said
        if said:
            answer = next(name for name in ANSWERS if name in columns)
            one = {**one, answer: "" if one.get(answer) is None else one[answer]}
        if "sample" in said:  # one id for all would call them repeats
            one |= {
                name: numbered(one[name], said["sample"])
                for name in ID_COLUMNS
                if one.get(name) is not None
            }
        for sample in samples(with_roles(one, reading.roles)):
            yield sample, columns


def is_pattern(column: str) -> bool:
    """Whether a column is given as a pattern of several."""
    return any(place in column for place in PLACES)


def pattern_of(column: str) -> re.Pattern[str]:
    """The regular expression of a pattern of columns."""
    words = re.split(r"(\{teacher\}|\{sample\})", column)
    return re.compile("".join(PLACES.get(word) or re.escape(word) for word in words))


def check_patterns(columns: Mapping[str, str]) -> None:
    """Raise UserError for patterns that cannot be read."""
    patterns = {name: column for name, column in columns.items() if is_pattern(column)}
    for name, column in patterns.items():
        for place in PLACES:
            if column.count(place) > 1:
                raise UserError(f"--columns {name}={column}: contains {place} twice")
    if patterns and not patterns.keys() & {*ANSWERS}:
        name, column = next(iter(patterns.items()))
        raise UserError(
            f"--columns {name}={column}: a pattern also needs one for response; add "
            "response=PATTERN"
        )


def columns_of(columns: Iterable[str], there: Iterable[Any]) -> set[str]:
    """Which of the columns that are there a mapping reads, of these columns, paths and patterns."""
    wanted: set[str] = set()
    for column in columns:
        if is_pattern(column):
            wanted |= {str(name) for name in there if pattern_of(column).fullmatch(str(name))}
        else:
            wanted |= {column, column.partition(".")[0]}
    return wanted


def check_teacher_from(rule: str) -> None:
    """Raise UserError for a rule that says nothing."""
    if rule != "file" and not FOLDER.fullmatch(rule) and rule.count("{teacher}") != 1:
        raise UserError(
            f"--teacher-from {rule}: use file (its name), folder (the one that contains it), "
            "folder:2 (the one above), or a pattern with {teacher} for the end of the path: "
            "{teacher}/*/*.jsonl"
        )


def teacher_by_rule(uri: str, rule: str) -> str | None:
    """The teacher that a shard's path names by a rule of --teacher-from; None without a match."""
    parts = [unquote(part) for part in uri.split("://")[-1].split("/")]
    if rule == "file":
        return parts[-1].partition(".")[0] or None
    if folder := FOLDER.fullmatch(rule):
        place = 1 + int(folder[1] or 1)
        return (parts[-place].removeprefix("teacher=") or None) if len(parts) >= place else None
    wanted = rule.strip("/").split("/")
    words = {"{teacher}": "(?P<teacher>[^/]+?)", "*": "[^/]*"}
    pattern = "/".join(
        "".join(words.get(w) or re.escape(w) for w in re.split(r"(\{teacher\}|\*)", part))
        for part in wanted
    )
    found = re.fullmatch(pattern, "/".join(parts[-len(wanted) :]))
    return found["teacher"] if found else None


def teacher_of_path(uri: str) -> str | None:
    """NAME of a `teacher=NAME/` folder, else the folder that the object lies in, else None."""
    folders = uri.split("://")[-1].split("/")[:-1]
    hive = [f.removeprefix("teacher=") for f in folders if f.startswith("teacher=")]
    return unquote(hive[-1]) if hive else (folders[-1] if folders and folders[-1] else None)


def check_roles(roles: Mapping[str, str]) -> None:
    """Raise UserError for a role that is none of the four."""
    for name, role in roles.items():
        if role not in ("system", "user", "assistant", "tool"):
            raise UserError(
                f"--roles {name}={role}: use system, user, assistant or tool; already known: "
                f"{', '.join(ROLES)}"
            )


def with_roles(row: Row, roles: Mapping[str, str]) -> Row:
    """A row whose turns have the roles that --roles gives them."""
    if not roles:
        return row
    return row | {name: _renamed(row[name], roles) for name in TURNS if row.get(name) is not None}


def _renamed(given: Any, roles: Mapping[str, str]) -> Any:
    turns = json_or_none(given) if isinstance(given, str) else given
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return given
    return [
        turn | {key: roles[turn[key]] for key in ("role", "from") if turn.get(key) in roles}
        for turn in turns
    ]
