"""nightly: score what is new for every student, rank, and say what changed since the last night.

    <store>/nightly/<night>.json   for each student its run, its ranking and the changes, or the error that stopped it

Doing a night again changes nothing but its record: what is scored is scored, and a night is always compared with the last
one of another name.
"""

import json
import time
from typing import Any

from rsr_ray.cluster import connect
from rsr_ray.config import NightlyConfig, ScoreConfig
from rsr_ray.errors import RunError, UserError
from rsr_ray.lease import Lease
from rsr_ray.metrics import RSR
from rsr_ray.objects import get, list_files, put
from rsr_ray.pipeline import score_corpus
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
        if any("teachers" in night["students"][student.student_name] for student in config.students):
            _report(config, night, history)
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


def _report(config: NightlyConfig, night: dict[str, Any], history: "History") -> None:
    """Rank each student's teachers, as `ranking`, and write the store's report, `report` in the record; with nothing new both stay as they were."""
    night.pop("report_error", None)  # of an earlier run of the same night
    stores = [Store(s.store, str(s.student_name), s.s3_endpoint) for s in config.students if "teachers" in night["students"][s.student_name]]
    done = {store.student_name: night["students"][store.student_name] for store in stores}
    earlier = {name: history.read_entry(name, night["night"]) or history.last(name, night["night"]) or {} for name in done}
    old = all(not entry["equation"]["scored"] and not entry["equation"]["rejected"] for entry in done.values())
    if old and all(earlier[name].get("ranking") and earlier[name]["fingerprint"] == entry["fingerprint"] for name, entry in done.items()):
        for name, entry in done.items():
            entry["ranking"] = earlier[name]["ranking"]
        return
    history.write(night)  # the page tells of this night as well
    from rsr_ray.page import store_report  # which reads the history

    try:
        night["report"], rankings = store_report(stores, RSR)
    except Exception as e:  # the scores and the record are there all the same
        log.exception("report")
        night["report_error"] = f"the report could not be made: {type(e).__name__}: {e}"
        return
    for name, entry in done.items():
        entry["ranking"] = rankings[name]


def _score(student: ScoreConfig, night: str, history: "History") -> dict[str, Any]:
    try:
        run = score_corpus(student)
        last = history.last(str(student.student_name), night)
        entry = _entry(run)
        return {"error": run.problem, **entry, "changes": compare(last, entry), "since": last and last["night"]}
    except (UserError, RunError, OSError) as e:
        error = str(e)
    except Exception as e:  # a mistake of ours may not cost the other students their night
        log.exception("student %s", student.student_name)
        error = f"{type(e).__name__}: {e}"
    return {"error": error}


def _entry(run: Run) -> dict[str, Any]:
    assert run.teachers is not None
    keep = {key: run.record[key] for key in ("run_id", "fingerprint", "equation", "seconds")}
    return {**keep, "teachers": run.teachers.to_pylist(maps_as_pydicts="strict")}


class History:
    """The nights of a store."""

    def __init__(self, store: str, endpoint: str | None):
        self.folder, self.endpoint = f"{store}/nightly", endpoint
        self.nights = sorted(n.removesuffix(".json") for n in list_files(self.folder, endpoint) if n.endswith(".json") and "/" not in n)

    def read(self, night: str) -> dict[str, Any] | None:
        return json.loads(get(f"{self.folder}/{night}.json", self.endpoint)) if night in self.nights else None

    def read_entry(self, student: str, night: str) -> dict[str, Any] | None:
        """A student's results of a night."""
        return (self.read(night) or {"students": {}})["students"].get(student)

    def write(self, night: dict[str, Any]) -> None:
        put(f"{self.folder}/{night['night']}.json", json.dumps(night, indent=1).encode(), self.endpoint)

    def last(self, student: str, night: str) -> dict[str, Any] | None:
        """A student's results of the last night before this one in which it has any, with that night's name."""
        for name in reversed([n for n in self.nights if n < night]):
            entry = self.read_entry(student, name)
            if entry and "teachers" in entry:
                return {**entry, "night": name}
        return None


def compare(last: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any] | None:
    """What changed between two nights' results of a student; None where there is nothing to compare with.

    A teacher has moved where its place among the teachers of both nights is another: one that only makes room for a
    newcomer has not.
    """
    if last is None or last["fingerprint"] != now["fingerprint"]:
        return None
    old, new = ({t["teacher"]: t for t in entry["teachers"]} for entry in (last, now))
    was, is_now = ([name for name in side if name in old and name in new and old[name]["place"] and new[name]["place"]] for side in (old, new))
    moved = [name for name in is_now if was.index(name) != is_now.index(name) and old[name]["place"] != new[name]["place"]]
    ranked = sum(t["place"] is not None for t in new.values())
    newcomers = [{"teacher": name, "place": t["place"], "of": ranked, "rsr": t["rsr"]} for name, t in new.items() if name not in old]
    grown = {name: t["n_trajectories"] - old.get(name, {"n_trajectories": 0})["n_trajectories"] for name, t in new.items()}
    before = _rejects(old)
    rejects = {reason: n - before.get(reason, 0) for reason, n in _rejects(new).items()}
    return {
        "new_trajectories": {name: n for name, n in grown.items() if n},
        "new_teachers": newcomers,
        "gone_teachers": sorted(old.keys() - new.keys()),
        "moved": [{"teacher": name, "from": old[name]["place"], "to": new[name]["place"]} for name in moved],
        "new_rejects": {reason: n for reason, n in rejects.items() if n},
    }


def _rejects(teachers: dict[str, Any]) -> dict[str, int]:
    total: dict[str, int] = {}
    for t in teachers.values():
        for reason, n in t["rejects"].items():
            total[reason] = total.get(reason, 0) + n
    return total
