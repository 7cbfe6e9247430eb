"""nightly: score what is new for every student, rank, and say what changed since the last night.

    <store>/nightly/<night>.json   for each student its run, its ranking and the changes, or the error that stopped it

Doing a night again changes nothing but its record: what is scored is scored, and a night is always compared with the last
one of another name.
"""

import time
from collections.abc import Collection
from typing import Any

from rsr_ray.cluster import connect
from rsr_ray.config import NightlyConfig, ScoreConfig
from rsr_ray.errors import RunError, UserError
from rsr_ray.lease import Lease
from rsr_ray.metrics import RSR
from rsr_ray.objects import list_files
from rsr_ray.pipeline import score_corpus
from rsr_ray.rank import load_scored, rank_teachers
from rsr_ray.records import NIGHT_FILE, NIGHT_KEYS, find_record, night_place, put_record
from rsr_ray.run import Run
from rsr_ray.store import Store
from rsr_ray.watch import log

PATIENCE = 5.0  # seconds between looks at somebody else's lease


def run_night(config: NightlyConfig) -> dict[str, Any]:
    """The night's record, also stored; or, where another nightly run holds the store's lease, `held_by`: what it wrote.

    A student that fails has `error` in place of its results and stops no other one. Raises UserError where the store or
    the cluster cannot be used at all.
    """
    store, endpoint = config.students[0].store, config.students[0].s3_endpoint
    lease = Lease(f"{store}/nightly/lease", config.lease_seconds, endpoint)
    try:
        if held := _wait_for(lease, config.wait):
            return {"night": config.night, "held_by": held}
    except OSError as e:
        raise UserError(f"store {store}: cannot be written: {e}") from e
    try:
        history = History(store, endpoint)
        night = history.read(config.night) or {"night": config.night, "students": {}}
        with connect(config.students[0].ray_address, config.students[0].log):
            for student in config.students:
                night["students"][student.student_name] = _score(student, config.night, history)
        history.write(night)  # what was scored is told even where the report fails, and the report tells of this night as well
        _report(config, night)
        history.write(night)
        return night
    finally:
        lease.release()


def _wait_for(lease: Lease, seconds: float) -> dict[str, Any] | None:
    """Who still holds the lease after so many seconds, or None: it is ours."""
    until = time.monotonic() + seconds
    while (held := lease.take()) and (left := until - time.monotonic()) > 0:
        time.sleep(min(PATIENCE, left))
    return held


def _report(config: NightlyConfig, night: dict[str, Any]) -> None:
    """Write the store's report, `report` in the record, or `report_error`: of all students that were ever scored, this night or before."""
    for key in ("report", "report_error"):  # of an earlier run of the same night
        night.pop(key, None)
    store, endpoint = config.students[0].store, config.students[0].s3_endpoint
    from rsr_ray.page import store_report  # which reads the history

    try:
        scored = Store.students(store, endpoint)
        stores = [_store(student) for student in config.students if student.student_name in scored]
        if stores:
            rankings = {name: entry["ranking"] for name, entry in night["students"].items() if entry.get("ranking")}
            night["report"] = store_report(stores, RSR, rankings)
    except Exception as e:  # the scores and the record are there all the same
        log.exception("report")
        night["report_error"] = f"the report could not be made: {type(e).__name__}: {e}"


def _score(student: ScoreConfig, night: str, history: "History") -> dict[str, Any]:
    try:
        run = score_corpus(student)
        last = history.last(str(student.student_name), night)
        entry = _entry(run)
        entry["ranking"] = _rank(student, entry, last)
        return {"error": run.problem, **entry, "changes": compare(last, entry), "since": last and last["night"]}
    except (UserError, RunError, OSError) as e:
        error = str(e)
    except Exception as e:  # a mistake of ours may not cost the other students their night
        log.exception("student %s", student.student_name)
        error = f"{type(e).__name__}: {e}"
    return {"error": error}


def _rank(student: ScoreConfig, entry: dict[str, Any], last: dict[str, Any] | None) -> dict[str, Any] | None:
    """The ranking of a night: with nothing new since the last one, its own."""
    if not any(t["n_trajectories"] for t in entry["teachers"]):
        return None
    if last and last.get("ranking") and last["fingerprint"] == entry["fingerprint"] and last["teachers"] == entry["teachers"]:
        return last["ranking"]
    return rank_teachers(load_scored(_store(student), [RSR]), RSR)


def _store(student: ScoreConfig) -> Store:
    return Store(student.store, str(student.student_name), student.s3_endpoint)


def _entry(run: Run) -> dict[str, Any]:
    assert run.teachers is not None
    keep = {key: run.record[key] for key in ("run_id", "fingerprint", "equation", "seconds")}
    return {**keep, "teachers": run.teachers.to_pylist(maps_as_pydicts="strict")}


class History:
    """The nights of a store. A record that is not what was written is named and left out."""

    def __init__(self, store: str, endpoint: str | None):
        self.store, self.endpoint = store, endpoint
        self.nights = sorted(n.removesuffix(".json") for n in list_files(f"{store}/nightly", endpoint) if NIGHT_FILE.fullmatch(n))
        self._read: dict[str, dict[str, Any] | None] = {}

    def read(self, night: str) -> dict[str, Any] | None:
        """The record of a night; None where there is none."""
        if night not in self._read:
            self._read[night] = find_record(self.store, night_place(night), NIGHT_KEYS, self.endpoint) if night in self.nights else None
        return self._read[night]

    def read_entry(self, student: str, night: str) -> dict[str, Any] | None:
        """A student's results of a night."""
        return (self.read(night) or {"students": {}})["students"].get(student)

    def write(self, night: dict[str, Any]) -> None:
        put_record(self.store, night_place(night["night"]), night, self.endpoint)
        self._read.pop(night["night"], None)

    def last(self, student: str, night: str) -> dict[str, Any] | None:
        """A student's results of the last night before this one in which it has any, with that night's name."""
        for name in reversed([n for n in self.nights if n < night]):
            entry = self.read_entry(student, name)
            if entry and "teachers" in entry:
                return {**entry, "night": name}
        return None


def places(entry: dict[str, Any]) -> dict[str, int | None]:
    """Of a night's results the place of each teacher in its ranking; nights of earlier versions have those of the teachers table."""
    ranked = {t["teacher"]: t["place"] for t in entry["ranking"]["teachers"]} if entry.get("ranking") else None
    return {t["teacher"]: ranked.get(t["teacher"]) if ranked else t["place"] for t in entry["teachers"]}


def bounds(entry: dict[str, Any], among: Collection[str]) -> dict[str, tuple[int, int]]:
    """Of a night's ranking the places that each of some teachers may have among these, where that is known.

    Of the others, those that come before a teacher are not surely worse than it, and of those behind it none is surely
    better: without them its places lie between its bounds less the number of those before it.
    """
    ranked = entry["ranking"]["teachers"] if entry.get("ranking") else []
    found, others_before = {}, 0
    for t in sorted(ranked, key=lambda t: t["place"]):
        if t["teacher"] not in among:
            others_before += 1
        elif t.get("first_place"):
            found[t["teacher"]] = (t["first_place"] - others_before, t["last_place"] - others_before)
    return found


def apart(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[1] < b[0] or b[1] < a[0]


def compare(last: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any] | None:
    """What changed between two nights' results of a student; None where there is nothing to compare with.

    A teacher's place has changed where it is another among the teachers of both nights: one that only makes room for a
    newcomer keeps its own. It has moved where the places that it may have among them (`bounds`) are others; else the change
    may be noise, and is `unsure`.
    """
    if last is None or last["fingerprint"] != now["fingerprint"]:
        return None
    old, new = ({t["teacher"]: t for t in entry["teachers"]} for entry in (last, now))
    was, is_now = places(last), places(now)
    both = [name for name in old if was[name] and is_now.get(name)]
    before, after = ([*sorted(both, key=side.__getitem__)] for side in (was, is_now))  # type: ignore[arg-type]
    changed = [name for name in after if before.index(name) != after.index(name) and was[name] != is_now[name]]
    could, can = bounds(last, both), bounds(now, both)
    moved = {name for name in changed if name in could and name in can and apart(could[name], can[name])}
    moves = [{"teacher": name, "from": was[name], "to": is_now[name]} for name in changed]
    values = {t["teacher"]: t["value"] for t in now["ranking"]["teachers"]} if now.get("ranking") else {}
    ranked = sum(place is not None for place in is_now.values())
    newcomers = [{"teacher": name, "place": is_now[name], "of": ranked, "rsr": values.get(name, new[name]["rsr"])} for name in new if name not in old]
    grown = {name: t["n_trajectories"] - old.get(name, {"n_trajectories": 0})["n_trajectories"] for name, t in new.items()}
    rejected = _rejects(old)
    rejects = {reason: n - rejected.get(reason, 0) for reason, n in _rejects(new).items()}
    return {
        "new_trajectories": {name: n for name, n in grown.items() if n},
        "new_teachers": newcomers,
        "gone_teachers": sorted(old.keys() - new.keys()),
        "moved": [move for move in moves if move["teacher"] in moved],
        "unsure": [move for move in moves if move["teacher"] not in moved],
        "new_rejects": {reason: n for reason, n in rejects.items() if n},
    }


def _rejects(teachers: dict[str, Any]) -> dict[str, int]:
    total: dict[str, int] = {}
    for t in teachers.values():
        for reason, n in t["rejects"].items():
            total[reason] = total.get(reason, 0) + n
    return total
