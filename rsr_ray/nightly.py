"""nightly: score what is new for every student, rank, and say what changed since the last night.

    <store>/nightly/<night>.json   each student's run, ranking and changes, or what stopped it

Doing a night again changes nothing but its record: what is scored is scored, and a night is always
compared with the last one of another name.
"""

import time
from collections.abc import Mapping
from dataclasses import replace

from rsr_ray.config.nightly import NightlyConfig
from rsr_ray.config.score import ScoreConfig
from rsr_ray.decide.changes import compare
from rsr_ray.decide.loading import load_scored
from rsr_ray.decide.nights import FailedNight, HeldNight, History, Night, StudentNight
from rsr_ray.decide.ranking import Ranking, rank_teachers
from rsr_ray.decide.scored import Scored
from rsr_ray.errors import RunError, UserError
from rsr_ray.metrics import RSR
from rsr_ray.report.page.write import store_report
from rsr_ray.run.cluster import Cluster
from rsr_ray.run.doctor.night import check_students
from rsr_ray.run.figures import note_night, note_run
from rsr_ray.run.ledger import Run
from rsr_ray.run.pipeline import run_through
from rsr_ray.store.lease import Held, Lease
from rsr_ray.store.store import Store
from rsr_ray.store.teacher_rows import teacher_rows
from rsr_ray.watch import log

PATIENCE = 5.0  # seconds between looks at somebody else's lease


def run_night(config: NightlyConfig) -> Night | HeldNight:
    """The night's record, also stored; or who holds the store's lease, another nightly run.

    A student that fails has an error in place of its results and stops no other one. Raises
    UserError where the store or the cluster cannot be used at all, or a student's own files cannot,
    before the first one is scored.
    """
    store, endpoint = config.students[0].store, config.students[0].s3_endpoint
    _store(config.students[0]).check_access("night")
    lease = Lease(f"{store}/nightly/lease", config.lease_seconds, endpoint)
    try:
        if held := _wait_for(lease, config.wait):
            return HeldNight(config.night, held)
    except OSError as e:
        raise UserError(f"store {store}: cannot be written: {e}") from e
    begun = time.monotonic()
    try:
        night = _night(config)
    except Exception as e:
        note_night(config.students[0], config.night, str(e), begun)
        raise
    else:
        note_night(config.students[0], config.night, night.problem, begun)
        return night
    finally:
        lease.release()


def _night(config: NightlyConfig) -> Night:
    """A night's record, also stored."""
    first = config.students[0]
    history = History(first.store, first.s3_endpoint)
    before = history.read(config.night)
    students = dict(before.students) if before else {}
    check_students(config)
    loaded: dict[str, Scored] = {}
    with Cluster(first.ray_address, first.log, verbose=first.verbose) as cluster:
        for n, student in enumerate(config.students, 1):
            label = f"student {n} of {len(config.students)}, {student.student_name}"
            scored = _score(student, config.night, history, cluster, label, loaded)
            students[str(student.student_name)] = scored
    night = Night(night=config.night, students=students)
    # Written before the report too: the report tells of this night, and it may fail.
    history.write(night)
    night = _report(config, night, loaded)
    history.write(night)
    return night


def _wait_for(lease: Lease, seconds: float) -> Held | None:
    """Who still holds the lease after so many seconds, or None: it is ours."""
    until = time.monotonic() + seconds
    while (held := lease.take()) and (left := until - time.monotonic()) > 0:
        time.sleep(min(PATIENCE, left))
    return held


def _report(config: NightlyConfig, night: Night, loaded: Mapping[str, Scored]) -> Night:
    """Write the store's report, of all students that were ever scored, this night or before; the
    night with its URI, or with why there is none. `loaded` are scores that need not be read again.
    """
    store, endpoint = config.students[0].store, config.students[0].s3_endpoint
    try:
        scored = Store.students(store, endpoint)
        stores = [_store(student) for student in config.students if student.student_name in scored]
        if not stores:
            return night
        rankings = {
            name: entry.ranking
            for name, entry in night.students.items()
            if isinstance(entry, StudentNight) and entry.ranking
        }
        return replace(night, report=store_report(stores, RSR, rankings, loaded))
    except Exception as e:  # the scores and the record are there all the same
        log.exception("report")
        error = f"the report could not be made: {type(e).__name__}: {e}"
        return replace(night, report_error=error)


def _score(
    student: ScoreConfig,
    night: str,
    history: History,
    cluster: Cluster,
    label: str,
    loaded: dict[str, Scored],
) -> StudentNight | FailedNight:
    run = Run(student)
    loaded.clear()  # of many students the last one's: all take too much memory
    entry: StudentNight | FailedNight
    try:
        entry = _results(run, night, history, cluster, label, loaded)
    except (UserError, RunError, OSError) as e:
        entry = FailedNight(str(e))
    except Exception as e:  # a mistake of ours may not cost the other students their night
        log.exception("student %s", student.student_name)
        entry = FailedNight(f"{type(e).__name__}: {e}")
    changes = entry.changes if isinstance(entry, StudentNight) else None
    note_run(run, entry.error, None if changes is None else len(changes.moved))
    return entry


def _results(
    run: Run,
    night: str,
    history: History,
    cluster: Cluster,
    label: str,
    loaded: dict[str, Scored],
) -> StudentNight:
    student = run.config
    run_through(run, cluster, label)
    assert run.teachers is not None
    last = history.last(str(student.student_name), night)
    before = last.results if last else None
    entry = StudentNight(
        error=run.problem,
        run_id=run.record.run_id,
        fingerprint=run.record.fingerprint,
        equation=run.record.equation,
        seconds=run.record.seconds,
        teachers=teacher_rows(run.teachers),
        ranking=None,
        changes=None,
        since=last.night if last else None,
    )
    entry = replace(entry, ranking=_rank(student, entry, before, loaded))
    return replace(entry, changes=compare(before, entry))


def _rank(
    student: ScoreConfig,
    entry: StudentNight,
    before: StudentNight | None,
    loaded: dict[str, Scored],
) -> Ranking | None:
    """The ranking of a night: with nothing new since the last one, its own."""
    if not any(t.n_trajectories for t in entry.teachers):
        return None
    if (
        before
        and before.ranking
        and before.fingerprint == entry.fingerprint
        and before.teachers == entry.teachers
    ):
        return before.ranking
    scored = loaded[str(student.student_name)] = load_scored(_store(student), [RSR])
    return rank_teachers(scored, RSR)


def _store(student: ScoreConfig) -> Store:
    return Store(student.store, str(student.student_name), student.s3_endpoint)
