"""A head started with `ray start --head`:

`ray job submit` by the README's own commands, and what it shows of a run.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict

import yaml

from rsr_ray.config.load import load_nightly

from ..conftest import DEMO_STUDENT, REPOSITORY
from ..test_monitoring import queries, series_in
from .conftest import BIN, Head, as_options, rsr_ray, write_many

ENVIRONMENT = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}


def submit(head: Head, *command) -> subprocess.Popen:
    """The README's command line, begun."""
    return subprocess.Popen(
        [
            str(BIN / "ray"),
            "job",
            "submit",
            "--address",
            head.dashboard,
            "--working-dir",
            ".",
            "--",
            "python",
            "jobs/score.py",
            *map(str, command),
        ],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_of_two_jobs_one_gives_the_same_table_and_one_with_a_mistake_fails(
    head, a_corpus, local_table, tmp_path
):
    corpus, settings = a_corpus
    good = submit(head, "--corpus", corpus, "--store", tmp_path / "store", *as_options(settings))
    bad = submit(
        head,
        "--corpus",
        "/nowhere",
        "--student",
        "rsr_ray/demo/student",
        "--store",
        "/nowhere/store",
    )
    said_of_good, said_of_bad = (job.communicate(timeout=500)[0] for job in (good, bad))
    assert good.returncode == 0, said_of_good[-3000:]
    shown = rsr_ray("teachers", "--store", tmp_path / "store", "--student", "s", "--json")
    assert json.loads(shown.stdout)["table"] == local_table
    assert bad.returncode != 0
    assert "no such file or folder" in said_of_bad


def test_a_night_by_the_readmes_command(tmp_path):
    """The script itself; jobs/local_cluster.py submits nights."""
    readme = (REPOSITORY / "jobs" / "README.md").read_text()
    (command,) = re.findall(r"^ray job submit .*jobs/nightly.py.*$", readme, re.MULTILINE)
    (example,) = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    checkout = shutil.copytree(
        REPOSITORY,
        tmp_path / "checkout",
        ignore=shutil.ignore_patterns(".git", ".venv", "*.egg-info", "__pycache__", ".*_cache"),
    )
    (checkout / "nightly.yaml").write_text(example)
    assert [
        student.student_name
        for student in load_nightly(str(checkout / "nightly.yaml"), {}).students
    ] == [
        "Qwen2.5-7B-Instruct",
        "Llama-3.1-8B-Instruct",
    ]
    write_many(tmp_path / "corpus", 4, 20)
    mine = {
        "corpus": f"{tmp_path}/corpus",
        "store": f"{tmp_path}/store",
        "dtype": "float32",
        "students": [{"student": str(DEMO_STUDENT)}],
    }
    (checkout / "nightly.yaml").write_text(yaml.safe_dump(mine))
    script = shlex.split(command.partition(" -- python ")[2])
    done = subprocess.run(
        [sys.executable, *script],
        cwd=checkout,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "80 scored, 0 rejected, 0 already scored" in done.stdout
    assert len(list((tmp_path / "store" / "nightly").glob("*.json"))) == 1


def test_prometheus_sees_a_run_and_its_logs_carry_its_id(head, tmp_path):
    write_many(tmp_path / "corpus", 8, 100)
    with next((tmp_path / "corpus").rglob("*.jsonl")).open("a") as file:
        file.write("not json\n" * 30)
    options = [
        "--corpus",
        tmp_path / "corpus",
        "--student",
        DEMO_STUDENT,
        "--store",
        tmp_path / "store",
        "--ray-address",
        head.address,
    ]
    options += ["--student-name", "watched"]
    command = [
        sys.executable,
        "-m",
        "rsr_ray",
        "score",
        "--log",
        "json",
        "--json",
        "--unit-rows",
        "25",
        *map(str, options),
    ]
    seen: dict[str, float] = defaultdict(float)
    with (
        open(tmp_path / "stderr", "w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=REPOSITORY
        ) as run,
    ):
        while run.poll() is None:
            for name, value in scraped(head.metrics).items():
                seen[name] = max(seen[name], value)
            time.sleep(0.2)
        record = json.loads(run.stdout.read().splitlines()[-1])
    assert run.returncode == 0
    assert 0 < seen["ray_rsr_trajectories_total"] <= 800
    assert 0 < seen["ray_rsr_tokens_total kind=scored"] <= record["scored_tokens"]
    assert 0 < seen["ray_rsr_rejects_total reason=unreadable_row"] <= 30
    assert seen["ray_rsr_tokens_per_second"] > 0
    assert 0 <= seen["ray_rsr_padding_share"] < 1
    asked = {name for name in series_in(queries()) if name.startswith("ray_")}
    assert asked == {name.split()[0] for name in seen}
    told = [
        json.loads(line)
        for line in (tmp_path / "stderr").read_text().splitlines()
        if line.startswith("{")
    ]
    assert [line["message"] for line in told if line.get("run_id") == record["run_id"]] == [
        "run planned",
        "run finished",
    ]
    workers = [
        line
        for path in head.logs.glob("worker-*.err")
        for line in path.read_text(errors="replace").splitlines()
        if "unit written" in line
    ]
    units = [unit for unit in map(json.loads, workers) if unit["run_id"] == record["run_id"]]
    assert sum(unit["n_scored"] for unit in units) == 800
    assert {unit["student"] for unit in units} == {"watched"}


def scraped(port: int) -> dict[str, float]:
    """Sums of the series of one student, by name and label."""
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:
        return {}
    found: dict[str, float] = defaultdict(float)
    for name, labels, value in re.findall(r"^(ray_rsr_\w+)\{(.*?)\} (\S+)$", text, re.MULTILINE):
        if 'student="watched"' not in labels:
            continue
        label = re.search(r'\b(kind|reason)="(\w+)"', labels)
        found[name + (f" {label[1]}={label[2]}" if label else "")] += float(value)
    return found
