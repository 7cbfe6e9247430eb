"""check: is every file of a store what was written there?

It reads all of them, and removes what is not where that is asked for.

A broken unit is removed with its tokens, and tokens with their unit: only a unit that is not there
is scored again. A broken part is removed with all its units; a broken manifest is made again from
what the parts say.
"""

import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rsr_ray.errors import RunError, UserError
from rsr_ray.files.filesystems import absolute
from rsr_ray.files.objects import delete, get, list_versions
from rsr_ray.metrics import RSR
from rsr_ray.schema import SCORES, TEACHERS, TOKENS
from rsr_ray.store import seal
from rsr_ray.store.manifest import part_at
from rsr_ray.store.parts import rebuilt
from rsr_ray.store.scores import STUDENT_NAME
from rsr_ray.store.store import Store
from rsr_ray.store.units import unit_at

KINDS = {
    "broken": "not what was written: truncated, altered, or replaced by another file",
    "table": "the teachers table does not match the units",
    "stray": "not a file of the store: it is neither read nor deleted",
    "leftover": "left behind by an interrupted write",
}
WRONG = ("broken", "table")  # what makes the exit code 1
REMOVED = ("broken", "leftover")  # what --repair removes
# of notes on a store
NO_DAMAGE = ("are not work units", "an earlier version of rsr_ray", "drawn at random")
SCHEMAS = {"scores": SCORES, "parts": SCORES, "tokens": TOKENS}

IN_RACE = re.compile(r"(?P<root>races/[^/]+)/(?P<place>.+)")
OF_STUDENT = re.compile(
    rf"(?P<kind>scores|tokens|teachers|summaries)/student=(?P<student>{STUDENT_NAME.pattern}?)"
    r"(?P<rest>/.+|\.parquet)"
)
RECORD = re.compile(r"(runs|nightly|packs/student=[^/]+)/[^/]+\.json|race\.json|status\.json")
LEASE = re.compile(
    r"(?P<folder>nightly/lease|claims/student=[^/]+(/lock)?|claims/status/lock)/"
    r"(?P<name>(?:[0-9a-f]+/[0-9a-f]{32}|\d{12})\.json)"
)
OURS = re.compile(r"(scores|tokens|teachers|summaries|packs|runs|nightly|claims)/.+")


@dataclass(frozen=True)
class Finding:
    """A file that is not as it should be."""

    kind: str  # one of KINDS
    place: str  # path below the store
    detail: str


@dataclass(frozen=True)
class Checked:
    """What was read of a store, and what was found."""

    store: str
    files: dict[str, int]  # by what they are
    n_unsealed: int  # of an earlier version: nothing says whether they are what was written
    findings: list[Finding]
    removed: list[str]  # places

    @property
    def is_well(self) -> bool:
        return not any(
            finding.kind in WRONG and finding.place not in self.removed for finding in self.findings
        )

    def to_json(self) -> dict[str, Any]:
        findings = [{"kind": f.kind, "place": f.place, "detail": f.detail} for f in self.findings]
        return {
            "store": self.store,
            "well": self.is_well,
            "files": self.files,
            "unsealed": self.n_unsealed,
            "findings": findings,
            "removed": self.removed,
        }


def check_store(
    uri: str, endpoint: str | None, student: str | None = None, *, repair: bool = False
) -> Checked:
    """Read every file of a store, or of one student in it, and say what is wrong.

    Raises UserError where there is no store.
    """
    root = absolute(uri)
    places = sorted(place for place in list_versions(root, endpoint) if _is_of(place, student))
    if not places:
        raise UserError(
            f"store {root}: no files of {f'student {student}' if student else 'a store'} found"
        )
    with ThreadPoolExecutor(16) as pool:
        read = [
            told for told in pool.map(lambda place: examine(root, place, endpoint), places) if told
        ]
    findings = [found for _, _, found in read if found]
    findings += _tables(
        root, endpoint, places, {found.place for found in findings if found.kind == "broken"}
    )
    removed = _remove(root, endpoint, findings, set(places)) if repair else []
    return Checked(
        root,
        dict(Counter(what for what, _, _ in read)),
        sum(not is_sealed for _, is_sealed, _ in read),
        findings,
        removed,
    )


def _is_of(place: str, student: str | None) -> bool:
    inside = _inside(place)[1]
    at = OF_STUDENT.fullmatch(inside)
    return (
        bool(at and at["student"] == student)
        if student
        else bool(OURS.fullmatch(inside) or inside in ("race.json", "status.json"))
    )


def _inside(place: str) -> tuple[str, str]:
    """The store within the store that a place lies in, "" but for a race's, and its place there."""
    race = IN_RACE.fullmatch(place)
    return (race["root"] + "/", race["place"]) if race else ("", place)


def examine(root: str, place: str, endpoint: str | None) -> tuple[str, bool, Finding | None] | None:
    """What a file is, whether it is sealed, and what is wrong with it; None where it is gone."""
    _, inside = _inside(place)
    what = kind_of(inside)
    if what in ("stray", "leftover"):
        return what, True, Finding(what, place, KINDS[what])
    try:
        return what, _verify(what, inside, get(f"{root}/{place}", endpoint)), None
    except seal.BrokenError as e:
        return what, True, Finding("broken", place, str(e))
    except FileNotFoundError:
        return None


def kind_of(place: str) -> str:
    """What lies at a place of a store."""
    if place.rpartition("/")[2].startswith("."):
        return "leftover"
    if LEASE.fullmatch(place):
        return "lease"
    if RECORD.fullmatch(place):
        return "record"
    at = OF_STUDENT.fullmatch(place)
    if at and at["kind"] in SCHEMAS and unit_at(at["rest"][1:]):
        return str(at["kind"])
    if at and at["kind"] == "scores" and part_at(at["rest"][1:]):
        return "manifest" if place.endswith(".json") else "parts"
    is_one = at and at["kind"] in ("teachers", "summaries") and at["rest"] == ".parquet"
    return str(at["kind"]) if at and is_one else "stray"


def _verify(what: str, place: str, data: bytes) -> bool:
    """Whether it is sealed. Raises BrokenError."""
    if what == "lease":
        place = str(LEASE.fullmatch(place)["name"])  # type: ignore[index]
    if what in ("lease", "record", "manifest"):
        seal.read_record(data, place)
        return seal.check_seal(data, place)
    if seal.check_seal(data, place):
        return seal.read_parquet(data, place, []).is_sealed
    table = seal.read_parquet(data, place, None, SCHEMAS.get(what, TEACHERS)).table
    if what in ("scores", "parts"):
        given = (
            {*table["fingerprint"].to_pylist()} if "fingerprint" in table.column_names else set()
        )
        if given - {place.split("/")[2]}:
            raise seal.BrokenError("scores of another fingerprint")
    return False


def _tables(root: str, endpoint: str | None, places: list[str], bad: set[str]) -> list[Finding]:
    """Of each student, whose files are all well, whether its table says what its units say."""
    from rsr_ray.decide.loading import load_scored

    findings = []
    for place in places:
        above, inside = _inside(place)
        if kind_of(inside) != "teachers":
            continue
        name = _student(inside)
        if any(other.startswith(above) and f"/student={name}" in other for other in bad):
            continue
        try:
            scored = load_scored(Store(f"{root}/{above}".rstrip("/"), name, endpoint), [RSR])
        except (UserError, RunError) as e:  # nothing was scored, or by two fingerprints
            findings += (
                [] if "every row was rejected" in str(e) else [Finding("table", place, str(e))]
            )
            continue
        findings += [
            Finding("table", place, note)
            for note in scored.notes
            if not any(mark in note for mark in NO_DAMAGE)
        ]
    return findings


def _student(place: str) -> str:
    return OF_STUDENT.fullmatch(place)["student"]  # type: ignore[index]


def _remove(root: str, endpoint: str | None, findings: list[Finding], there: set[str]) -> list[str]:
    """The places that were deleted, of those that are there."""
    places = {f.place for f in findings if f.kind in REMOVED}
    units: dict[tuple[str, str, str], set[str]] = defaultdict(set)  # by store, student, fingerprint
    for place in sorted(places, key=lambda place: kind_of(_inside(place)[1]) != "manifest"):
        above, inside = _inside(place)
        kind = kind_of(inside)
        if kind not in (*SCHEMAS, "manifest"):
            continue
        store = Store(f"{root}/{above}".rstrip("/"), _student(inside), endpoint)
        fingerprint, name = inside.split("/")[2], inside.rpartition("/")[2]
        folder = store.parts(fingerprint)
        if kind == "manifest":  # before others look into it
            folder.put(rebuilt(folder))
            continue
        parts = folder.read()[0].parts if kind == "parts" else ()
        names = {name} if kind != "parts" else {n for p in parts if p.name == name for n in p.units}
        units[store.uri, store.student_name, fingerprint] |= names
        tail = f"student={store.student_name}/{fingerprint}"
        places |= {
            f"{above}{of}/{tail}/{unit[0]}/{unit}" for unit in names for of in ("scores", "tokens")
        }
    for place in sorted(places & there):
        delete(f"{root}/{place}", endpoint)
    for (uri, student, fingerprint), names in units.items():
        Store(uri, student, endpoint).drop(fingerprint, names)
    return sorted(places & there)
