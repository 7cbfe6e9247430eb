"""Stores that were damaged, disturbed or used by two at once, in whole runs, on a local disk and
on S3.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import ray

from rsr_ray.files.objects import delete, get, list_versions, put
from rsr_ray.store.seal import write_record

from ..conftest import DEMO_STUDENT
from .conftest import in_a_process, rsr_ray, stored, upload, write_many

pytestmark = pytest.mark.usefixtures("here")

NIGHT = "2026-01-01"


@dataclass(frozen=True)
class Place:
    """Where stores lie: `uri`, a folder or a prefix in a bucket, and how a corpus gets there."""

    uri: str
    fs: object = None
    endpoint: str | None = None

    def files(self, name: str) -> dict[str, str]:
        return list_versions(f"{self.uri}/{name}", self.endpoint)

    def read(self, path: str) -> bytes:
        return get(f"{self.uri}/{path}", self.endpoint)

    def write(self, path: str, content: bytes) -> None:
        put(f"{self.uri}/{path}", content, self.endpoint)

    def delete(self, path: str) -> None:
        delete(f"{self.uri}/{path}", self.endpoint)

    def copy(self, name: str, to: str) -> str:
        """A store under another name: its address."""
        for path in self.files(name):
            self.write(f"{to}/{path}", self.read(f"{name}/{path}"))
        return f"{self.uri}/{to}"

    def bring(self, folder: Path, name: str) -> str:
        """A corpus from this disk: its address."""
        if self.fs is None:
            shutil.copytree(folder, f"{self.uri}/{name}")
        else:
            upload(self.fs, folder, f"{self.uri.removeprefix('s3://')}/{name}")
        return f"{self.uri}/{name}"


@pytest.fixture(scope="module")
def local_place(tmp_path_factory):
    return Place(str(tmp_path_factory.mktemp("stores")))


@pytest.fixture(scope="module")
def s3_place(moto):
    endpoint = f"http://127.0.0.1:{moto}"
    fs = pafs.S3FileSystem(
        endpoint_override=endpoint, region="us-east-1", allow_bucket_creation=True
    )
    fs.create_dir("rsr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        yield Place("s3://rsr/damage", fs, endpoint)


def not_every_day(*where: str):
    """At these places a test runs under `slow` only: what it shows there is mostly shown at the
    other place.
    """
    places = [
        pytest.param(name, marks=pytest.mark.slow if name in where else ())
        for name in ("local", "s3")
    ]
    return pytest.mark.parametrize("base", places, indirect=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_many(folder, 3, 8, teachers=("terse-7b", "formal-72b", "methodical-32b"))
    return folder


def made(place: Place, corpus: Path) -> Place:
    """A place with a store of a run, a night, and token scores: `base`, which nobody changes."""
    place.bring(corpus, "corpus")
    done = rsr_ray("nightly", "--config", settings_file(place, "base"), "--night", NIGHT)
    assert done.returncode == 0, done.stderr[-2000:]
    return place


@pytest.fixture(scope="module")
def local_base(local_place, corpus):
    return made(local_place, corpus)


@pytest.fixture(scope="module")
def s3_base(s3_place, corpus, local_ray):
    return made(s3_place, corpus)


@pytest.fixture(params=["local", "s3"])
def base(request):
    return request.getfixturevalue(f"{request.param}_base")


def settings_file(place: Place, store: str, **changes) -> str:
    settings = {
        "corpus": [f"{place.uri}/corpus"],
        "store": f"{place.uri}/{store}",
        "unit_rows": 4,
        "token_scores": True,
    }
    students = [{"student": str(DEMO_STUDENT), "student_name": "one"}]
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        file.write(json.dumps(settings | {"students": students} | changes))
    return file.name


def options(place: Place, store: str, corpus: str = "corpus", **changes) -> list[str]:
    given = {
        "corpus": f"{place.uri}/{corpus}",
        "student": DEMO_STUDENT,
        "student_name": "one",
        "unit_rows": 4,
    } | changes
    named = [
        str(x) for name, value in given.items() for x in (f"--{name.replace('_', '-')}", value)
    ]
    return ["score", "--store", f"{place.uri}/{store}", *named, "--token-scores", "--json"]


def answer(done) -> dict:
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def teachers(place: Place, store: str) -> list[dict]:
    return answer(
        rsr_ray("teachers", "--store", f"{place.uri}/{store}", "--student", "one", "--json")
    )["table"]


def units(place: Place, store: str) -> list[str]:
    return sorted(path for path in place.files(store) if path.startswith("scores/"))


# --- one file is not what was written there--------------------------------------------------------

SORTS = {
    "unit": "scores/",
    "tokens": "tokens/",
    "table": "teachers/",
    "run": "runs/",
    "night": f"nightly/{NIGHT}",
    "lease": "nightly/lease/",
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "something else": lambda _: b"PAR1" + bytes(200),
    "one bit": lambda data: (
        data[: len(data) // 3] + bytes([data[len(data) // 3] ^ 1]) + data[len(data) // 3 + 1 :]
    ),
}
READERS = {
    "teachers": ["teachers", "--student", "one", "--json"],
    "rejects": ["rejects", "--student", "one"],
    "check": ["check"],
}


def places_and_sorts():
    """Every day all of them on a disk, and on S3 those that are read in another way there."""
    for place in ("local", "s3"):
        for sort in SORTS:
            every_day = place == "local" or sort in ("unit", "table")
            yield pytest.param(place, sort, marks=() if every_day else pytest.mark.slow)


@pytest.mark.parametrize(("base", "sort"), places_and_sorts(), indirect=["base"])
def test_a_damaged_file_is_named_or_does_not_matter_and_the_next_run_heals_it(base, sort):
    want, shown = (
        teachers(base, "base"),
        rsr_ray("rejects", "--store", f"{base.uri}/base", "--student", "one").stdout,
    )
    for damage, change in DAMAGES.items():
        name = f"{sort}-{damage.replace(' ', '-')}"
        store = base.copy("base", name)
        path = next(p for p in sorted(base.files("base")) if p.startswith(SORTS[sort]))
        base.write(f"{name}/{path}", change(base.read(f"base/{path}")))
        for command, arguments in READERS.items():
            done = rsr_ray(*arguments, "--store", store)
            said = done.stdout + done.stderr
            assert "Traceback" not in said
            is_named = path.rpartition("/")[2] in said
            if command == "check":
                assert is_named, (damage, said)
                assert done.returncode == 1
            elif not is_named:
                assert done.returncode == 0, (damage, command, said)
                same = (
                    answer(done)["table"] == want
                    if command == "teachers"
                    else done.stdout.replace(name, "base") == shown
                )
                assert same, (damage, command, said)
            else:
                assert done.returncode == 1 or answer(done)["table"] == want, (
                    damage,
                    command,
                    said,
                )
        if damage == "cut":  # what heals is the same whatever is wrong
            heal(base, name, want)


def heal(place: Place, name: str, want: list[dict]) -> None:
    """A run makes it whole again; so does `check --repair` before one."""
    repaired = place.copy(name, f"{name}-repaired")
    assert rsr_ray("check", "--store", repaired, "--repair").returncode == 0
    for store in (name, f"{name}-repaired"):
        done = rsr_ray(*options(place, store))
        assert answer(done)["equation"]["holds"]
        assert teachers(place, store) == want
    assert rsr_ray("check", "--store", repaired).returncode == 0
    assert answer(rsr_ray(*options(place, name)))["equation"]["already_scored"] == 24


# --- files that do not belong there, and files that are gone---------------------------------------


def test_stray_copies_of_a_unit_are_neither_read_nor_deleted(base):
    store, want = base.copy("base", "stray"), teachers(base, "base")
    good = units(base, "base")[0]
    folder, _, name = good.rpartition("/")
    strays = [
        f"{folder}/deeper/{name}",
        f"{folder}/copy of {name}",
        f"{folder.rpartition('/')[0]}/{name}",
        f"{good}.bak",
    ]
    for stray in strays:
        base.write(f"stray/{stray}", base.read(f"base/{good}"))
    assert teachers(base, "stray") == want
    scored = answer(rsr_ray(*options(base, "stray")))
    assert scored["equation"]["already_scored"] == 24
    assert teachers(base, "stray") == want
    assert {*strays, good} <= base.files("stray").keys()
    assert strays[0] in rsr_ray("check", "--store", store).stdout


def test_a_unit_that_is_gone_is_said_and_scored_again(base):
    base.copy("base", "gone")
    want, lost = teachers(base, "base"), units(base, "base")[0]
    base.delete(f"gone/{lost}")
    done = rsr_ray("teachers", "--store", f"{base.uri}/gone", "--student", "one")
    assert (
        "1 of the 6 units that the teachers table was made from are missing from the store"
        in " ".join((done.stdout + done.stderr).split())
    )
    assert answer(rsr_ray(*options(base, "gone")))["equation"]["scored"] == 4
    assert teachers(base, "gone") == want


def test_a_retried_row_is_in_the_table_and_in_the_night(base, corpus, tmp_path):
    """A unit that is scored again has the name that it had."""
    (tmp_path / "teacher=late").mkdir()
    rows = [
        {"id": f"late-{n}", "question": f"{n}+{n}?", "answer": f"It is {2 * n}."} for n in range(4)
    ]
    (tmp_path / "teacher=late" / "part-0.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    late = base.bring(tmp_path, "late")
    store = base.copy("base", "retried")
    both = {"corpus": [f"{base.uri}/corpus", late], "max_rejects": 1.0}
    assert (
        rsr_ray(
            "nightly", "--config", settings_file(base, "retried", **both), "--night", "2026-01-02"
        ).returncode
        == 0
    )
    (before,) = [t for t in night(base, "retried", "2026-01-02") if t["teacher"] == "late"]
    assert (before["n_trajectories"], before["rsr"]) == (0, None)
    rsr_ray("rejects", "--store", store, "--student", "one", "--retry")
    mapping = {"columns": ["prompt=question", "response=answer"]}
    done = rsr_ray(
        "nightly",
        "--config",
        settings_file(base, "retried", **both, **mapping),
        "--night",
        "2026-01-03",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (after,) = [t for t in night(base, "retried", "2026-01-03") if t["teacher"] == "late"]
    (shown,) = [t for t in teachers(base, "retried") if t["teacher"] == "late"]
    assert after["n_trajectories"] == shown["n_trajectories"] == 4
    assert after["rsr"] == pytest.approx(shown["rsr"])


def night(place: Place, store: str, name: str) -> list[dict]:
    return json.loads(place.read(f"{store}/nightly/{name}.json"))["students"]["one"]["teachers"]


def test_a_store_inside_the_corpus_is_no_corpus(base, corpus):
    base.bring(corpus, "mixed")
    for n in range(2):
        equation = answer(rsr_ray(*options(base, "mixed/store", "mixed")))["equation"]
        assert equation["read"] == 24
        assert equation["already_scored"] == 24 * n


def test_a_shard_that_left_the_corpus_is_said(base, corpus):
    base.bring(corpus, "shrinks")
    answer(rsr_ray(*options(base, "shrunk", "shrinks")))
    base.delete(f"shrinks/{next(p for p in sorted(base.files('shrinks')) if 'terse' in p)}")
    done = rsr_ray(*options(base, "shrunk", "shrinks"))
    assert "8 rows of 1 shards that are not in this corpus are in the store and count" in " ".join(
        answer(done)["notes"]
    )


# --- two runs at once------------------------------------------------------------------------------


@not_every_day("local")
def test_two_runs_at_once_on_other_corpora_make_one_table_of_both(base, corpus):
    parts = {}
    for teacher in ("terse-7b", "formal-72b"):
        parts[teacher] = f"only-{teacher}"
        base.bring(corpus / f"teacher={teacher}", f"only-{teacher}/teacher={teacher}")
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda part: in_its_own(*options(base, "both", part)), parts.values()))
    assert [one.returncode for one in done] == [0, 0], [one.stderr[-500:] for one in done]
    assert {t["teacher"]: t["n_trajectories"] for t in teachers(base, "both")} == {
        "terse-7b": 8,
        "formal-72b": 8,
    }
    want = {t["teacher"]: t["rsr"] for t in teachers(base, "base")}
    assert {t["teacher"]: t["rsr"] for t in teachers(base, "both")} == {
        name: want[name] for name in parts
    }


@not_every_day("s3")
def test_of_two_runs_at_once_with_other_settings_one_is_refused(base, local_ray):
    with ThreadPoolExecutor(2) as pool:
        done = list(
            pool.map(lambda r_max: in_its_own(*options(base, "other", r_max=r_max)), (100, 50))
        )
    assert sorted(one.returncode for one in done) == [0, 2], [one.stderr[-500:] for one in done]
    (refused,) = [one for one in done if one.returncode == 2]
    assert "Traceback" not in refused.stderr
    rows = stored(f"{base.uri}/other", "one", base.endpoint)
    assert len({row["fingerprint"] for row in rows}) == 1
    assert len(rows) == 24


def in_its_own(*arguments):
    """In a process of its own, on the session's Ray: two at once have one output otherwise."""
    return in_a_process(*arguments, "--ray-address", ray.get_runtime_context().gcs_address)


# --- the clock-------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["local"], indirect=True)  # a bucket's clock is its server's
def test_a_lease_of_the_future_stops_no_night(base):
    base.copy("base", "future")
    path = "nightly/lease/000000000099.json"
    record = {
        "id": "x",
        "holder": "h",
        "seconds": 300,
        "released": False,
        "started": "2099-01-01T00:00:00+00:00",
        "written": 4e9,
    }
    base.write(f"future/{path}", write_record(record, path.rpartition("/")[2]))
    os.utime(f"{base.uri}/future/{path}", (4e9, 4e9))
    done = rsr_ray("nightly", "--config", settings_file(base, "future"), "--night", "2026-01-04")
    assert done.returncode == 0
    assert (
        json.loads(base.read("future/nightly/2026-01-04.json"))["students"]["one"]["equation"][
            "already_scored"
        ]
        == 24
    )
