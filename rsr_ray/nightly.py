"""nightly: score what is new for every student, rank, and say what changed since the last night.

    <store>/nightly/<night>.json   each student's run, ranking and changes, or what stopped it

Doing a night again changes nothing but its record: what is scored is scored, and a night is always
compared with the last one of another name.
"""

import time
from dataclasses import asdict
from typing import Any

from rsr_ray.config.nightly import NightlyConfig
from rsr_ray.config.score import ScoreConfig
from rsr_ray.decide.changes import compare
from rsr_ray.decide.ranking import rank_teachers
from rsr_ray.decide.scored import load_scored
from rsr_ray.errors import RunError, UserError
from rsr_ray.metrics import RSR
from rsr_ray.report.page.write import store_report
from rsr_ray.run.cluster import Cluster
from rsr_ray.run.pipeline import score_corpus
from rsr_ray.store.lease import Lease
from rsr_ray.store.nights import History, LastNight, Night, StudentNight
from rsr_ray.store.store import Store
from rsr_ray.store.teacher_rows import teacher_rows
from rsr_ray.watch import log

PATIENCE = 5.0  # seconds between looks at somebody else's lease


def run_night(config: NightlyConfig) -> dict[str, Any]:
    """The night's record, also stored; or, where another nightly run holds the store's lease,
    `held_by`: what it wrote.

    A student that fails has `error` in place of its results and stops no other one. Raises
    UserError where the store or the cluster cannot be used at all.
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
        night: Night = history.read(config.night) or {"night": config.night, "students": {}}
        first = config.students[0]
        with Cluster(first.ray_address, first.log, verbose=first.verbose) as cluster:
            for n, student in enumerate(config.students, 1):
                label = f"student {n} of {len(config.students)}, {student.student_name}"
                scored = _score(student, config.night, history, cluster, label)
                night["students"][str(student.student_name)] = scored
        # Written before the report too: the report tells of this night, and it may fail.
        history.write(night)
        _report(config, night)
        history.write(night)
        return dict(night)
    finally:
        lease.release()


def _wait_for(lease: Lease, seconds: float) -> dict[str, Any] | None:
    """Who still holds the lease after so many seconds, or None: it is ours."""
    until = time.monotonic() + seconds
    while (held := lease.take()) and (left := until - time.monotonic()) > 0:
        time.sleep(min(PATIENCE, left))
    return held


def _report(config: NightlyConfig, night: Night) -> None:
    """Write the store's report, `report` in the record, or `report_error`: of all students that
    were ever scored, this night or before.
    """
    # of an earlier run of the same night
    night.pop("report", None)
    night.pop("report_error", None)
    store, endpoint = config.students[0].store, config.students[0].s3_endpoint
    try:
        scored = Store.students(store, endpoint)
        stores = [_store(student) for student in config.students if student.student_name in scored]
        if stores:
            found = {name: entry.get("ranking") for name, entry in night["students"].items()}
            rankings = {name: ranking for name, ranking in found.items() if ranking}
            night["report"] = store_report(stores, RSR, rankings)
    except Exception as e:  # the scores and the record are there all the same
        log.exception("report")
        night["report_error"] = f"the report could not be made: {type(e).__name__}: {e}"


def _score(
    student: ScoreConfig, night: str, history: History, cluster: Cluster, label: str
) -> StudentNight:
    try:
        return _results(student, night, history, cluster, label)
    except (UserError, RunError, OSError) as e:
        error = str(e)
    except Exception as e:  # a mistake of ours may not cost the other students their night
        log.exception("student %s", student.student_name)
        error = f"{type(e).__name__}: {e}"
    return {"error": error}


def _results(
    student: ScoreConfig, night: str, history: History, cluster: Cluster, label: str
) -> StudentNight:
    run = score_corpus(student, cluster, label)
    assert run.teachers is not None
    entry: StudentNight = {
        "error": run.problem,
        "run_id": run.record.run_id,
        "fingerprint": run.record.fingerprint,
        "equation": asdict(run.record.equation),
        "seconds": run.record.seconds,
        "teachers": [row.to_json() for row in teacher_rows(run.teachers)],
    }
    last = history.last(str(student.student_name), night)
    entry["ranking"] = _rank(student, entry, last)
    changes = compare(last, entry)
    entry["changes"] = changes.to_json() if changes else None
    entry["since"] = last["night"] if last else None
    return entry


def _rank(
    student: ScoreConfig, entry: StudentNight, last: LastNight | None
) -> dict[str, Any] | None:
    """The ranking of a night: with nothing new since the last one, its own."""
    if not any(t["n_trajectories"] for t in entry["teachers"]):
        return None
    if (
        last
        and last.get("ranking")
        and last["fingerprint"] == entry["fingerprint"]
        and last["teachers"] == entry["teachers"]
    ):
        return last["ranking"]
    return rank_teachers(load_scored(_store(student), [RSR]), RSR).to_json()


def _store(student: ScoreConfig) -> Store:
    return Store(student.store, str(student.student_name), student.s3_endpoint)
