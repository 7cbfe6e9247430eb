"""What real runs and nights leave to watch them by: in the store, on S3, and at a Pushgateway."""

import json
import shutil
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from rsr_ray.files.objects import get, list_versions, put
from rsr_ray.store.figures import update_figures
from rsr_ray.store.status import read_status

from ..conftest import DEMO_STUDENT
from ..test_monitoring import queries, series_in
from .conftest import free_port, in_a_process, listens, process, rsr_ray
from .test_nights import config_file, write_shard

pytestmark = pytest.mark.usefixtures("here")


def samples(text: str) -> dict[str, float]:
    """Of one store, by name and student."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            student = sample.labels.get("student")
            found[sample.name + (f" {student}" if student else "")] = sample.value
    return found


def test_two_nights_of_which_a_student_fails_in_the_second(tmp_path):
    store = tmp_path / "store"
    write_shard(tmp_path / "corpus" / "a.jsonl", "A", range(20), "terse-7b")
    write_shard(tmp_path / "corpus" / "b.jsonl", "B", range(20), "flowery-8b")
    path = config_file(tmp_path, tmp_path / "corpus", store)
    assert rsr_ray("nightly", "--config", path, "--night", "1").returncode == 0
    first = samples((store / "status.prom").read_text())
    assert first["rsr_night_failed"] == 0
    assert first["rsr_run_new_trajectories one"] == first["rsr_trajectories two"] == 40
    assert "rsr_run_place_changes one" not in first  # there was no night to compare with

    write_shard(tmp_path / "corpus" / "c.jsonl", "A", range(20, 30), "terse-7b")
    with (tmp_path / "corpus" / "c.jsonl").open("a") as file:
        file.write("not json\nnor this\n")
    students = [
        {"student": str(DEMO_STUDENT), "student_name": "one", "max_rejects": 0.5},
        {"student": str(DEMO_STUDENT), "student_name": "two", "r_max": 5},
    ]
    path = config_file(tmp_path, tmp_path / "corpus", store, students=students)
    assert rsr_ray("nightly", "--config", path, "--night", "2").returncode == 1
    second = samples((store / "status.prom").read_text())
    assert second["rsr_night_failed"] == second["rsr_run_failed two"] == 1
    assert second["rsr_run_failed one"] == second["rsr_run_place_changes one"] == 0
    assert second["rsr_run_new_trajectories one"] == 10
    assert second["rsr_run_reject_share one"] == pytest.approx(2 / 12, abs=1e-6)
    assert (
        second["rsr_night_success_timestamp_seconds"] == first["rsr_night_ended_timestamp_seconds"]
    )
    kept = "rsr_run_success_timestamp_seconds two"
    assert second[kept] == first[kept] < second["rsr_run_ended_timestamp_seconds two"]
    asked = {name for name in series_in(queries()) if not name.startswith("ray_")}
    assert asked == {name.split()[0] for name in second}

    shown = rsr_ray("status", "--store", store)
    assert shown.returncode == 0
    assert "night     2 failed at" in shown.stdout
    assert "1 of 2 students failed in night 2: two" in shown.stdout
    assert "student   one: 50 trajectories scored, 2 rejected" in shown.stdout
    assert rsr_ray("check", "--store", store).returncode == 0


def test_a_run_that_fails_on_the_way_and_a_mistake_in_the_command(tmp_path):
    store = tmp_path / "store"
    write_shard(tmp_path / "corpus" / "a.jsonl", "A", range(20), "terse-7b")
    (tmp_path / "corpus" / "b.parquet").write_bytes(b"PAR1 cut off")
    options = ["--corpus", tmp_path / "corpus", "--store", store]
    done = rsr_ray("score", *options, "--student", DEMO_STUDENT)
    assert done.returncode == 1
    (student,) = read_status(str(store), None).students
    assert student.last is not None
    assert "1 shard could not be read" in str(student.last.error)
    assert (student.last.new_trajectories, student.last.last_success) == (20, None)
    before = list_versions(str(store), None)
    assert rsr_ray("score", *options, "--student", tmp_path / "nobody").returncode == 2
    assert list_versions(str(store), None) == before


def test_a_store_on_s3_has_the_status_of_its_files_and_is_only_read(s3, tmp_path):
    _, endpoint = s3
    local, uri = tmp_path / "store", "s3://rsr/watched"
    write_shard(tmp_path / "corpus" / "a.jsonl", "A", range(20), "terse-7b")
    options = ["--student", DEMO_STUDENT, "--student-name", "s"]
    done = rsr_ray("score", "--corpus", tmp_path / "corpus", "--store", local, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    for path in filter(Path.is_file, local.rglob("*")):
        put(f"{uri}/{path.relative_to(local)}", path.read_bytes(), endpoint)
    update_figures(uri, endpoint, lambda known: known)
    text = get(f"{uri}/status.prom", endpoint).decode()
    assert samples(text) == samples((local / "status.prom").read_text())
    before = list_versions(uri, endpoint)
    shown = in_a_process("status", "--store", uri, "--json", RAY_ADDRESS="nobody:1")
    told, of_files = json.loads(shown.stdout), read_status(str(local), None).to_json()
    for status in (told, of_files):
        status["students"][0]["generations"][0].pop("written")
    assert told["students"] == of_files["students"]
    assert (told["files"], told["working"]) == (len(before), [])
    assert list_versions(uri, endpoint) == before
    missing = rsr_ray("status", "--store", "s3://rsr/no-such-store")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


@pytest.mark.skipif(
    not shutil.which("prometheus-pushgateway"),
    reason="no Pushgateway: apt-get install prometheus-pushgateway",
)
def test_a_pushgateway_has_what_the_store_has(tmp_path):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    write_shard(tmp_path / "corpus" / "a.jsonl", "A", range(20), "terse-7b")
    path = config_file(tmp_path, tmp_path / "corpus", tmp_path / "store", pushgateway=url)
    options = [f"--web.listen-address=127.0.0.1:{port}", "--persistence.file="]
    with process("prometheus-pushgateway", *options, ready=lambda: listens(port)):
        done = rsr_ray("nightly", "--config", path)
        assert (done.returncode, "pushgateway" in done.stderr) == (0, False)
        text = urllib.request.urlopen(f"{url}/metrics", timeout=5).read().decode()
    lines = [line for line in text.splitlines() if line.startswith("rsr_")]
    assert all('job="rsr_ray"' in line for line in lines)
    pushed = samples("\n".join(lines) + "\n# EOF\n")
    assert pushed == samples((tmp_path / "store" / "status.prom").read_text())
