"""listing: the files below a local folder, links followed, and what is passed over and why.

What is not read is said, what cannot be read is an error, and nothing is read twice:

- links to files and folders are followed. Of several names of one file the one that is no link
counts, else the first; - a link to a folder that it lies in is a loop and is not followed; a link
to nothing is an error; - a folder or shard that may not be read, or whose name is not UTF-8, is an
error; - names that start with . or _ are hidden.
"""

import fnmatch
import glob
import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rsr_ray.errors import UserError, safe

# Files that lie in corpora by custom and hold no rows: nobody misses them.
CUSTOMARY = re.compile(
    r"_SUCCESS|_(committed|started)_.*|\.DS_Store|\.git.*|\..*\.crc|README(\..*)?|LICENSE(\..*)?",
    re.IGNORECASE,
)
DATASET_FILES = ("state.json", "dataset_info.json", "dataset_dict.json")  # beside Arrow files
MAGIC = re.compile(r"[*?\[]")

HIDDEN = "hidden (its name starts with . or _)"
NO_SHARD = "without a known extension"
DATASET = "a dataset's metadata or cache"
TWICE = "another name for a file that is read"
LOOP = "a link to a folder that contains it"
FOLDER = "a folder matched by a pattern: end the pattern with /** to read its files"


@dataclass(frozen=True)
class Skipped:
    """Something below a corpus that is not read, by its path, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file under the name it was found by, and what its version is made of."""

    path: str
    size: int
    mtime: float


def tell_skipped(skipped: Iterable[Skipped]) -> str:
    """What was passed over, in one line: how many by reason, with an example, or ""."""
    by_reason: dict[str, list[str]] = {}
    for one in skipped:
        if not CUSTOMARY.fullmatch(one.path.rpartition("/")[2]):
            by_reason.setdefault(one.reason, []).append(one.path)
    told = [
        f"{len(paths):,} {reason}, e.g. {safe(min(paths))}"
        for reason, paths in sorted(by_reason.items())
    ]
    return f"not read: {'; '.join(told)}" if told else ""


def reason_to_skip(below: list[str], endings: tuple[str, ...]) -> str | None:
    """Why a file is not read, by the parts of its path below the corpus; None for a shard."""
    if any(part[:1] in "._" for part in below):
        return HIDDEN
    return None if below[-1].lower().endswith(endings) else NO_SHARD


def dataset_files(paths: list[str]) -> set[str]:
    """Those of the paths that `datasets` keeps beside its Arrow files, and that are no shards."""
    folders = {path.rpartition("/")[0] for path in paths if path.endswith(".arrow")}
    above = folders | {folder.rpartition("/")[0] for folder in folders}
    described = {path.rpartition("/")[0] for path in paths if path.endswith(DATASET_FILES)}
    found = set()
    for path in paths:
        folder, _, name = path.rpartition("/")
        if name in DATASET_FILES and folder in above:
            found.add(path)
        if name.startswith("cache-") and name.endswith(".arrow") and folder in described:
            found.add(path)
    return found


def walk(root: str, endings: tuple[str, ...]) -> tuple[list[Found], list[Skipped]]:
    """Every shard below a folder, sorted by path, and what is no shard.

    Raises UserError, which names the path.
    """
    walked = _Walk(endings)
    walked.folders(root)
    walked.follow()
    return walked.sorted, walked.skipped


def matches(pattern: str, endings: tuple[str, ...]) -> tuple[list[Found], list[Skipped]]:
    """Every shard whose path matches a pattern (`**`: any folders); else as `walk`."""
    magic = MAGIC.search(pattern)
    assert magic
    root = pattern[: magic.start()].rpartition("/")[0]
    wanted = pattern.split("/")
    walked = _Walk(endings, lambda path: _fits(path.split("/"), wanted))
    if "**" in wanted:
        above = "/".join(wanted[: wanted.index("**")])
        for folder in sorted(filter(os.path.isdir, glob.glob(above or "/"))):
            walked.folders(folder)
        walked.follow()
        return walked.sorted, walked.skipped
    for path in sorted(
        glob.glob(pattern, include_hidden=True), key=lambda p: (os.path.islink(p), p)
    ):
        below = path[len(root) :].strip("/").split("/")
        if any(part[:1] in "._" for part in below):
            walked.skip(path, HIDDEN)
        elif os.path.isdir(path):
            walked.skip(path, FOLDER)
        else:
            walked.file(path, os.path.realpath(path))
    return walked.sorted, walked.skipped


def _fits(parts: list[str], wanted: list[str]) -> bool:
    """Whether the parts of a path fit those of a pattern."""
    if not wanted or not parts:
        return not parts and wanted in ([], ["**"])
    if wanted[0] == "**":
        return _fits(parts, wanted[1:]) or _fits(parts[1:], wanted)
    return fnmatch.fnmatchcase(parts[0], wanted[0]) and _fits(parts[1:], wanted[1:])


class _Walk:
    """What was found so far below a folder, and the links that are still to be followed."""

    def __init__(self, endings: tuple[str, ...], fits: Callable[[str], bool] | None = None):
        self.endings, self.fits = endings, fits
        self.found: dict[str, Found] = {}  # by real path
        self.skipped: list[Skipped] = []
        self.links: list[str] = []
        self.seen: set[tuple[int, int]] = set()  # device and inode of folders

    @property
    def sorted(self) -> list[Found]:
        return sorted(self.found.values(), key=lambda one: one.path)

    def skip(self, path: str, reason: str) -> None:
        self.skipped.append(Skipped(path, reason))

    def folders(self, top: str) -> None:
        """A folder and all below it that is no link."""
        left = [top]
        while left:
            folder = left.pop()
            facts = os.stat(folder)
            if (facts.st_dev, facts.st_ino) in self.seen:
                self.skip(folder, TWICE)
                continue
            self.seen.add((facts.st_dev, facts.st_ino))
            entries, real = _scan(folder), os.path.realpath(folder)
            for entry in entries:
                if entry.name[:1] in "._":
                    self.skip(entry.path, HIDDEN)
                elif entry.is_symlink():
                    self.links.append(entry.path)
                elif not entry.is_dir():
                    self.file(entry.path, f"{real}/{entry.name}")
                else:
                    printable(entry.path)
                    left.append(entry.path)

    def follow(self) -> None:
        """Follow the links, after all that is none: its names are the ones to keep."""
        while self.links:
            self.links.sort(reverse=True)
            self.link(self.links.pop())

    def link(self, path: str) -> None:
        """What a link leads to."""
        real = os.path.realpath(path)
        if not os.path.exists(path):
            raise UserError(
                f"corpus: {printable(path)} is a link to {safe(os.readlink(path))}, which does "
                "not exist: fix or remove it"
            )
        if not os.path.isdir(path):
            self.file(path, real)
        elif f"{os.path.realpath(os.path.dirname(path))}/".startswith(f"{real}/"):
            self.skip(path, LOOP)
        else:
            printable(path)
            self.folders(path)

    def file(self, path: str, real: str) -> None:
        """A file that counts if it is a shard, and is not there under another name."""
        if self.fits and not self.fits(path):
            return
        if not path.lower().endswith(self.endings):
            self.skip(path, NO_SHARD)
        elif real in self.found:
            self.skip(path, TWICE)
        else:
            self.found[real] = stat_file(path)


def stat_file(path: str) -> Found:
    """What there is to know of a shard. Raises UserError where it is missing or unreadable."""
    shown = printable(path)
    try:
        facts = os.stat(path)
    except OSError as e:
        raise UserError(f"corpus: {shown} cannot be read: {e.strerror}: fix or remove it") from e
    if not stat.S_ISREG(facts.st_mode):
        raise UserError(f"corpus: {shown} is not a regular file: remove it")
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise UserError(f"corpus: {shown} cannot be read by this user: change its permissions")
    return Found(path=path, size=facts.st_size, mtime=facts.st_mtime)


def printable(path: str) -> str:
    """A path as it may be printed.

    Raises UserError where it is not UTF-8: nothing that is stored could name it.
    """
    try:
        path.encode()
    except UnicodeEncodeError as e:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise UserError(f"corpus: the name {safe(shown)} is not UTF-8: rename it") from e
    return safe(path)


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as e:
        raise UserError(
            f"corpus: the folder {printable(folder)} cannot be listed: {e.strerror}"
        ) from e
