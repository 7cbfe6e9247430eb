"""What is in a store, what ran last, and who is at work on it."""

import dataclasses
import json
import os
import time

import pytest

from rsr_ray.cli import main
from rsr_ray.errors import UserError
from rsr_ray.files.objects import list_versions
from rsr_ray.schema import SCORES, TEACHERS
from rsr_ray.store.figures import NightFigures, update_figures
from rsr_ray.store.lease import SECONDS, Claim, Lease
from rsr_ray.store.status import (
    Generation,
    StoreStatus,
    StudentStatus,
    Working,
    read_status,
)
from rsr_ray.store.store import Store
from rsr_ray.store.units import unit_name

from .test_figures import run

OLD, NEW = "0" * 16, "1" * 16


def unit(n: int) -> str:
    return unit_name({"key": f"{n:016x}", "version": "0" * 12, "start": 0, "stop": 2, "last": True})


@pytest.fixture
def store(tmp_path):
    """Of one student with two generations, of which the second is ranked; and its figures."""
    store = Store(str(tmp_path), "s")
    for n, fingerprint in enumerate((OLD, NEW, NEW)):
        store.write_scores(fingerprint, unit(n), SCORES.empty_table())
        path = store.unit_uri(fingerprint, unit(n))
        os.utime(path, (1_700_000_000 + n, 1_700_000_000 + n))
    row = {"teacher": "A", "n_trajectories": 5, "n_rejected": 2, "fingerprint": NEW}
    table = TEACHERS.empty_table().from_pylist([row], schema=TEACHERS)
    store.write_teachers(table, [unit(1), unit(2)])
    night = NightFigures(night="n", ended="2026-01-01T00:00:00+00:00", error=None, seconds=3.0)
    update_figures(store.uri, None, lambda known: known.with_run("s", run()).with_night(night))
    return store


def test_a_store_and_its_generations(store):
    status = read_status(store.uri, None)
    (student,) = status.students
    assert (student.teachers, student.trajectories, student.rejected) == (1, 5, 2)
    assert [(g.fingerprint, g.units, g.ranked) for g in student.generations] == [
        (NEW, 2, True),
        (OLD, 1, False),
    ]
    assert student.generations[0].written == "2023-11-14T22:13:22+00:00"
    assert student.generations[0].bytes == sum(
        os.path.getsize(store.unit_uri(NEW, unit(n))) for n in (1, 2)
    )
    assert student.last == dataclasses.replace(run(), last_success=run().ended)
    assert status.night is not None
    assert (status.night.night, status.working) == ("n", [])
    assert status.files == len(list_versions(store.uri, None))


def test_the_json_has_every_field_and_no_other(store):
    Lease(f"{store.uri}/nightly/lease", 60, None).take()
    told = json.loads(json.dumps(read_status(store.uri, None).to_json()))

    def names(cls) -> set[str]:
        return {field.name for field in dataclasses.fields(cls)}

    assert told.keys() == names(StoreStatus)
    assert told["night"].keys() == names(NightFigures)
    assert told["working"][0].keys() == names(Working)
    assert told["students"][0].keys() == names(StudentStatus)
    assert told["students"][0]["generations"][0].keys() == names(Generation)
    assert told["students"][0]["last"].keys() == names(type(run()))


def test_who_is_at_work_who_has_ended_and_who_has_died(store):
    night = Lease(f"{store.uri}/nightly/lease", 60, None)
    claim = Claim(f"{store.uri}/claims/student=s", SECONDS, None)
    night.take()
    claim.take(NEW)
    nightly, of_run = read_status(store.uri, None).working
    assert nightly == Working(
        what="nightly",
        student=None,
        fingerprint=None,
        holder=night.me.holder,
        since=night.me.since,
        seen=nightly.seen,
        alive=True,
    )
    assert (of_run.what, of_run.student, of_run.fingerprint) == ("run", "s", NEW)
    long_ago = time.time() - 61
    os.utime(f"{night.folder}/{night.name}", (long_ago, long_ago))
    nightly, of_run = read_status(store.uri, None).working
    assert (nightly.alive, of_run.alive) == (False, True)
    assert nightly.seen >= 61
    night.release()
    claim.release()
    assert read_status(store.uri, None).working == []


def test_it_writes_nothing(store):
    before = list_versions(store.uri, None)
    read_status(store.uri, None)
    assert list_versions(store.uri, None) == before


def test_a_student_without_a_table_says_why(store):
    os.unlink(store.teachers_uri)
    (student,) = read_status(store.uri, None).students
    assert (student.teachers, student.trajectories) == (None, None)
    assert "teachers/student=s.parquet is missing" in str(student.table_problem)


def test_no_store_is_one_line(tmp_path, capsys):
    with pytest.raises(UserError, match="nothing was scored into it yet"):
        read_status(str(tmp_path), None)
    assert main(["status", "--store", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "nothing").exists()


def test_what_a_person_reads(store, capsys):
    failed = run("2026-01-02T03:04:05+00:00", error="the GPU is lost")
    update_figures(store.uri, None, lambda known: known.with_run("s", failed))
    assert main(["status", "--store", store.uri]) == 0
    said = capsys.readouterr().out
    for line in (
        "running   nothing",
        "night     n succeeded at 2026-01-01 00:00:00 UTC, took 3 s",
        "student   s: 5 trajectories scored, 2 rejected, of 1 teacher",
        "failed at 2026-01-02 03:04:05 UTC (last success 2026-01-01 00:00:00 UTC), took 2 s",
        "          the GPU is lost",
        "          3 new trajectories, 1 rejected (25.0%), 10 tokens/s",
        f"next      rsr-ray teachers --store {store.uri} --student s",
    ):
        assert line in said
