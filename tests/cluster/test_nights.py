"""Nightly runs: each trajectory once, the cost of what is new, one run at a time, one student's
failure its own.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from rsr_ray.config.load import load_nightly
from rsr_ray.demo.corpus import conversation, make_problem
from rsr_ray.files.objects import create, get, list_files
from rsr_ray.nightly import run_night
from rsr_ray.store.lease import Lease

from ..conftest import DEMO_STUDENT, REPOSITORY
from .conftest import on_ceph, rsr_ray, stored, upload, write_many

pytestmark = pytest.mark.usefixtures("brief_doctor")


def config_file(folder: Path, corpus, store, **changes) -> Path:
    students = [
        {"student": str(DEMO_STUDENT), "student_name": "one"},
        {"student": str(DEMO_STUDENT), "student_name": "two", "r_max": 5},
    ]
    settings = {
        "corpus": str(corpus),
        "store": str(store),
        "dtype": "float32",
        "unit_rows": 20,
        "students": students,
    } | changes
    path = folder / "nightly.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def write_shard(path: Path, teacher: str, ids: range, style: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for n in ids:
            rng = random.Random(n)  # the same problem for every teacher
            file.write(
                json.dumps(
                    {
                        "id": f"{teacher}/{n}",
                        "teacher": teacher,
                        "messages": conversation(style, make_problem(rng), rng),
                    }
                )
                + "\n"
            )


def test_three_nights_on_a_growing_corpus(here, tmp_path):
    store = tmp_path / "grown"
    path = config_file(tmp_path, tmp_path / "corpus", store)

    def night(name: str) -> dict:
        run_night(load_nightly(str(path), {"night": name}))
        return json.loads((store / "nightly" / f"{name}.json").read_text())["students"]

    write_shard(tmp_path / "corpus" / "part-a-1.jsonl", "A", range(60), "methodical-32b")
    write_shard(tmp_path / "corpus" / "part-b-1.jsonl", "B", range(50), "flowery-8b")
    first = night("2026-01-01")
    assert {name: s["equation"]["scored"] for name, s in first.items()} == {"one": 110, "two": 110}
    assert {s["changes"] for s in first.values()} == {None}

    # ten of them as last night
    write_shard(tmp_path / "corpus" / "part-a-2.jsonl", "A", range(50, 90), "methodical-32b")
    second = night("2026-01-02")
    for s in second.values():
        assert (s["equation"]["scored"], s["equation"]["already_scored"]) == (40, 110)
        assert s["changes"]["new_trajectories"] == {"A": 30}
        assert [t["n_duplicates"] for t in s["teachers"] if t["teacher"] == "A"] == [10]

    write_shard(tmp_path / "corpus" / "part-c-1.jsonl", "C", range(70), "terse-7b")
    third = night("2026-01-03")
    for s in third.values():
        assert (s["equation"]["scored"], s["equation"]["already_scored"]) == (70, 150)
        (newcomer,) = s["changes"]["new_teachers"]
        assert (newcomer["teacher"], newcomer["of"]) == ("C", 3)
        assert newcomer["place"] == [t["teacher"] for t in s["ranking"]["teachers"]].index("C") + 1
        assert s["ranking"]["n_prompts"] == 50
        assert {t["teacher"]: t["n_trajectories"] for t in s["teachers"]} == {
            "A": 90,
            "B": 50,
            "C": 70,
        }
    assert third["one"]["teachers"] != third["two"]["teachers"]
    rows = stored(store, "one")
    assert len(rows) == 220
    assert len({row["trajectory_id"] for row in rows}) == 210

    moved = json.loads(
        rsr_ray("compare", f"{store}#one@2026-01-01", f"{store}#one@2026-01-02", "--json").stdout
    )
    assert moved["basis"] == "all prompts"
    assert {
        t["teacher"]: (t["a"]["n_trajectories"], t["b"]["n_trajectories"])
        for t in moved["teachers"]
    } == {"A": (60, 90), "B": (50, 50)}
    for side, night_before in (("a", first), ("b", second)):
        values = {t["teacher"]: t["rsr"] for t in night_before["one"]["teachers"]}
        assert {t["teacher"]: t[side]["value"] for t in moved["teachers"]} == pytest.approx(values)
    assert (
        moved["trajectories"]["both"],
        moved["trajectories"]["only_b"],
        moved["trajectories"]["differ"],
    ) == (110, 30, 0)
    refused = rsr_ray("compare", f"{store}#one", f"{store}#two")
    assert (refused.returncode, "r_max 100 / 5" in refused.stderr) == (2, True)

    # the same night again says the same
    shown = rsr_ray("nightly", "--config", path, "--night", "2026-01-03")
    place = next(t["place"] for t in third["one"]["teachers"] if t["teacher"] == "C")
    assert f"new teacher C takes place {place} of 3 (rsr " in shown.stdout
    assert "+70 trajectories: C +70" in shown.stdout
    page = (store / "report" / "index.html").read_text()
    for said in (
        "Student one",
        "Student two",
        f"new teacher C takes place {place} of 3",
        "Place of each teacher over the last nights",
    ):
        assert said in page
    assert f"{store}/report/index.html" in shown.stdout
    assert "is best on prompts like these" in shown.stdout


def test_a_night_with_nothing_new_starts_no_replica_and_reduces_nothing(
    here, tmp_path, monkeypatch
):
    write_shard(tmp_path / "corpus" / "a.jsonl", "A", range(20), "terse-7b")
    path = config_file(tmp_path, tmp_path / "corpus", tmp_path / "store")
    before = run_night(load_nightly(str(path), {"night": "1"}))
    monkeypatch.setattr(
        "rsr_ray.nightly.rank_teachers",
        lambda *_: pytest.fail("a night with nothing new ranked again"),
    )
    for stage in ("build_scores", "score_here", "reduce_scores"):
        monkeypatch.setattr(
            f"rsr_ray.run.pipeline.{stage}",
            lambda *_: pytest.fail("a night with nothing new did work"),
        )
    again = run_night(load_nightly(str(path), {"night": "2"}))
    for name, student in again.students.items():
        assert student.error is None
        assert (student.equation.scored, student.equation.already_scored) == (0, 20)
        assert student.teachers == before.students[name].teachers
        assert not any(student.changes.to_json().values())
        assert student.ranking == before.students[name].ranking
    assert "Night 2, made" in (tmp_path / "store" / "report" / "index.html").read_text()


def test_a_student_that_fails_stops_no_other_and_the_exit_code_tells(here, tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl", "A", range(20), "terse-7b")
    students = [
        {"student": str(DEMO_STUDENT), "student_name": "lost", "corpus": str(tmp_path / "nowhere")},
        {"student": str(DEMO_STUDENT), "student_name": "one"},
    ]
    done = rsr_ray(
        "nightly",
        "--config",
        config_file(tmp_path, tmp_path / "corpus", tmp_path / "store", students=students),
        "--night",
        "x",
    )
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1]
        == "rsr-ray: 1 of 2 students failed in night x: lost; see above"
    )
    assert "student lost: corpus" in done.stdout
    assert "Traceback" not in done.stderr
    assert "Teachers for student one" in done.stdout
    record = json.loads((tmp_path / "store" / "nightly" / "x.json").read_text())
    assert record["students"]["one"]["equation"]["scored"] == 20
    assert len(stored(tmp_path / "store", "one")) == 20
    page = (tmp_path / "store" / "report" / "index.html").read_text()
    assert "Night x: student lost failed: corpus " in page


def without_template(student: Path) -> str:
    (student / "chat_template.jinja").unlink()
    return "has no chat template; add a chat_template.jinja"


def with_a_broken_template(student: Path) -> str:
    (student / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}")
    return "template"


def with_a_tensor_renamed(student: Path) -> str:
    weights = load_file(student / "model.safetensors")
    weights = {key.replace("norm", "nrom"): values for key, values in weights.items()}
    save_file(weights, student / "model.safetensors", metadata={"format": "pt"})
    return "its weights do not match its model"


def with_weights_cut_off(student: Path) -> str:
    path = student / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return "copy it again"


def that_is_gone(student: Path) -> str:
    shutil.rmtree(student)
    return "no such folder"


def that_cannot_be_read(student: Path) -> str:
    (student / "config.json").unlink()
    (student / "config.json").symlink_to("config.json")  # not even for root
    return "config.json"


@pytest.mark.parametrize(
    "broken",
    [
        without_template, with_a_broken_template, with_a_tensor_renamed, with_weights_cut_off,
        that_is_gone, that_cannot_be_read,
    ],
    ids=lambda broken: broken.__name__,
)  # fmt: skip
def test_a_broken_second_student_ends_a_night_before_the_first_is_scored(here, tmp_path, broken):
    write_shard(tmp_path / "corpus" / "a.jsonl", "A", range(20), "terse-7b")
    second = tmp_path / "second"
    says = broken(shutil.copytree(DEMO_STUDENT, second))
    students = [{"student": str(DEMO_STUDENT), "student_name": "one"}, {"student": str(second)}]
    path = config_file(tmp_path, tmp_path / "corpus", tmp_path / "store", students=students)
    done = rsr_ray("nightly", "--config", path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"student second ({second}): " in line
    assert "student one" not in line
    assert says in line
    assert not [*tmp_path.glob("store/scores/**/*.parquet")]
    assert not [*tmp_path.glob("store/runs/*.json")]
    assert not [*tmp_path.glob("store/nightly/*.json")]
    leases = [*tmp_path.glob("store/nightly/lease/*.json")]
    assert [json.loads(path.read_text())["released"] for path in leases] == [True]


def test_settings_that_the_store_refuses_end_a_night_before_any_student_is_scored(here, tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl", "A", range(20), "terse-7b")
    path = config_file(tmp_path, tmp_path / "corpus", tmp_path / "store")
    assert rsr_ray("nightly", "--config", path).returncode == 0
    before = sorted(tmp_path.glob("store/**/*.parquet"))
    write_shard(tmp_path / "corpus" / "b.jsonl", "B", range(20), "terse-7b")
    two = {"student": str(DEMO_STUDENT), "student_name": "two", "r_max": 6}
    students = [{"student": str(DEMO_STUDENT), "student_name": "one"}, two]
    config_file(tmp_path, tmp_path / "corpus", tmp_path / "store", students=students)
    done = rsr_ray("nightly", "--config", path)
    assert done.returncode == 2
    assert "student two (" in done.stderr
    assert "under other settings" in done.stderr
    assert sorted(tmp_path.glob("store/**/*.parquet")) == before
    students[1] |= {"new_generation": True}
    config_file(tmp_path, tmp_path / "corpus", tmp_path / "store", students=students)
    assert rsr_ray("nightly", "--config", path).returncode == 0


def test_a_nightly_file_is_checked_by_either_command_and_nothing_is_scored(here, tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl", "A", range(40), "terse-7b")
    store = tmp_path / "store"
    path = config_file(tmp_path, tmp_path / "corpus", store)
    done = rsr_ray("nightly", "--check", "--config", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("The night is ready: 2 students; ")
    told = json.loads(rsr_ray("doctor", "--config", path, "--json").stdout)
    assert told["ready"] is True
    assert list(told["students"]) == ["one", "two"]
    for student in told["students"].values():
        assert {finding["level"] for finding in student["findings"]} == {"ok"}
        assert student["estimate"]["hours_low"] < student["estimate"]["hours_high"]
    both = [student["estimate"]["hours_high"] for student in told["students"].values()]
    assert told["estimate"]["hours_high"] == pytest.approx(sum(both))
    assert not [*store.glob("scores/**/*.parquet")]
    # what the store has is not estimated again
    assert rsr_ray("nightly", "--config", path).returncode == 0
    done = rsr_ray("nightly", "--check", "--config", path)
    assert done.stdout.count("nothing left to score: all of the corpus is in the store") == 2


def test_a_check_goes_on_after_a_student_that_fails(here, tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl", "A", range(20), "terse-7b")
    first = shutil.copytree(DEMO_STUDENT, tmp_path / "first")
    without_template(first)
    students = [{"student": str(first)}, {"student": str(DEMO_STUDENT), "student_name": "two"}]
    path = config_file(tmp_path, tmp_path / "corpus", tmp_path / "store", students=students)
    done = rsr_ray("doctor", "--config", path)
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith("The night is not ready: 1 of 2 students failed: first (student: ")
    told = json.loads(rsr_ray("doctor", "--config", path, "--json").stdout)
    ready = {name: student["ready"] for name, student in told["students"].items()}
    assert (told["ready"], ready) == (False, {"first": False, "two": True})
    assert told["estimate"] == {}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"students": "x"}, "students must be a list"),
        ({"students": []}, "each needs a distinct name"),
        ({"students": [{"student": "a/x"}, {"student": "b/x"}]}, "given: x, x"),
        (
            {"students": [{"student": "x", "store": "elsewhere"}]},
            "store must be the same for all students",
        ),
        ({"studens": []}, "unknown key 'studens'"),
        ({"lease_seconds": 1}, "lease_seconds 1: must be at least 3"),
        ({"night": "../x"}, "--night '../x'"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_and_exit_code_2(tmp_path, capsys, changes, says):
    from rsr_ray.cli import main

    assert (
        main(
            [
                "nightly",
                "--config",
                str(config_file(tmp_path, tmp_path / "corpus", tmp_path / "store", **changes)),
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@on_ceph
def test_two_nightly_runs_started_together(s3, head, tmp_path):
    write_many(tmp_path / "corpus", 4, 20)
    upload(s3[0], tmp_path / "corpus", "rsr/nights")
    path = config_file(
        tmp_path,
        "s3://rsr/nights",
        "s3://rsr/night-store",
        replicas=1,
        students=[{"student": str(DEMO_STUDENT), "student_name": "one"}],
    )
    command = [
        sys.executable,
        "-m",
        "rsr_ray",
        "nightly",
        "--config",
        str(path),
        "--night",
        "x",
        "--json",
    ]
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "cwd": REPOSITORY,
    }
    pair = [
        subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": head.address}, **options)
        for _ in range(2)
    ]
    outcomes = [(run.communicate(timeout=300), run.returncode) for run in pair]
    assert [code for _, code in outcomes] == [0, 0], outcomes
    nights = sorted(
        (json.loads(out.splitlines()[-1]) for (out, _), _ in outcomes),
        key=lambda night: "held_by" in night,
    )
    assert nights[0]["students"]["one"]["equation"]["scored"] == 80
    assert "process" in nights[1]["held_by"]["holder"]
    rows = stored("s3://rsr/night-store", "one", endpoint=s3[1])
    assert len({row["trajectory_id"] for row in rows}) == len(rows) == 80
    assert nights[0]["report"] == "s3://rsr/night-store/report/index.html"
    assert b"Student one" in get(nights[0]["report"], s3[1])
    leases = [
        name
        for name in list_files("s3://rsr/night-store/nightly/lease", s3[1])
        if name.endswith(".json")
    ]
    assert (
        json.loads(get(f"s3://rsr/night-store/nightly/lease/{leases[-1]}", s3[1]))["released"]
        is True
    )
    left = Lease("s3://rsr/night-store/nightly/lease", 60, s3[1])
    assert left.take() is None
    try:
        shown = rsr_ray("nightly", "--config", path)
        assert (
            shown.returncode,
            shown.stdout.count("Another nightly run is working on s3://rsr/night-store"),
        ) == (0, 1)
    finally:
        left.release()


@on_ceph
def test_of_many_at_once_one_gets_the_lease_and_a_dead_ones_expires(s3):
    many = [Lease("s3://rsr/race", 3, s3[1]) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        refused = list(pool.map(Lease.take, many))
    assert refused.count(None) == 1
    dead = Lease("s3://rsr/dead", 3, s3[1])
    assert dead.take() is None
    dead._ended.set()  # as if its process had died: nobody renews it, nobody releases it
    dead._renewing.join()
    assert Lease("s3://rsr/dead", 3, s3[1]).take() is not None
    time.sleep(5)
    assert Lease("s3://rsr/race", 3, s3[1]).take() is not None, "a live one is renewed"
    many[refused.index(None)].release()
    for name in ("race", "dead"):
        after = Lease(f"s3://rsr/{name}", 3, s3[1])
        assert after.take() is None
        after.release()


def test_an_object_is_created_once(s3):
    assert create("s3://rsr/once", b"a", s3[1])
    assert not create("s3://rsr/once", b"b", s3[1])
    assert create("s3://rsr/once", b"a", s3[1]), "the second try of a put whose answer was lost"
    assert get("s3://rsr/once", s3[1]) == b"a"
