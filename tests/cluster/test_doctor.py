"""The doctor on settings that are right, and on ten that are not."""

import json
import os
import re
import shutil
import subprocess

import pytest
from safetensors.torch import load_file, save_file

from rsr_ray.config.score import ScoreConfig
from rsr_ray.run.doctor.doctor import Examination, examine

from ..conftest import DEMO_STUDENT
from .conftest import rsr_ray, score, write_many

pytestmark = pytest.mark.usefixtures("local_ray", "brief_doctor")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_many(folder, 6, 20)
    return folder


def student(tmp_path):
    return shutil.copytree(DEMO_STUDENT, tmp_path / "student")


def student_saying(tmp_path, **changes) -> str:
    """A student whose config.json says something else."""
    path = student(tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return str(path.parent)


def examined(tmp_path, **changes) -> Examination:
    settings = {"student": str(DEMO_STUDENT), "store": str(tmp_path / "store"), "replicas": 1}
    return examine(ScoreConfig(**(settings | changes)))


def no_chat_template(tmp_path, corpus):
    (student(tmp_path) / "chat_template.jinja").unlink()
    return {"student": str(tmp_path / "student")}, "student", "has no chat template"


def a_head_smaller_than_the_tokenizer(tmp_path, corpus):
    return (
        {"student": student_saying(tmp_path, vocab_size=100)},
        "student",
        "its head has only 100 rows",
    )


def weights_that_are_not_numbers(tmp_path, corpus):
    weights = load_file(student(tmp_path) / "model.safetensors")
    weights = {
        name: values * float("nan") if "norm" in name else values
        for name, values in weights.items()
    }
    save_file(weights, tmp_path / "student" / "model.safetensors", metadata={"format": "pt"})
    return {"student": str(tmp_path / "student")}, "engine", "not finite numbers"


def weights_cut_off(tmp_path, corpus):
    whole = (student(tmp_path) / "model.safetensors").read_bytes()
    (tmp_path / "student" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    return {"student": str(tmp_path / "student")}, "student", "model.safetensors is truncated"


def another_end_token(tmp_path, corpus):
    return (
        {"student": student_saying(tmp_path, eos_token_id=3)},
        "student",
        "are they from the same student",
    )


def a_template_that_drops_reasoning(tmp_path, corpus):
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}{% endfor %}"
    )
    (student(tmp_path) / "chat_template.jinja").write_text(template)
    return {"student": str(tmp_path / "student")}, "template", "--render verbatim keeps it"


def columns_of_another_name(tmp_path, corpus):
    (tmp_path / "teacher=A.jsonl").write_text(json.dumps({"question": "a", "answer": "b"}))
    return {"corpus": (str(tmp_path / "teacher=A.jsonl"),)}, "corpus", "--columns maps other names"


def rows_too_long(tmp_path, corpus):
    return {"max_length": 45}, "rows", "over_length"


def a_store_that_is_a_file(tmp_path, corpus):
    (tmp_path / "file").write_text("")
    return {"store": str(tmp_path / "file" / "store")}, "store", "cannot be written"


def a_store_under_other_settings(tmp_path, corpus):
    score(corpus, tmp_path / "store", r_max=7)
    return {}, "store", "under other settings"


def more_replicas_than_fit(tmp_path, corpus):
    return {"replicas": 1000}, "cluster", "fewer --replicas"


def a_shard_cut_off(tmp_path, corpus):
    copy = shutil.copytree(corpus, tmp_path / "corpus")
    first = min(copy.rglob("*.parquet"))
    first.write_bytes(first.read_bytes()[:500])
    return {"corpus": (str(copy),)}, "corpus", "fix or remove it"


FAULTS = (
    no_chat_template, a_head_smaller_than_the_tokenizer, weights_that_are_not_numbers,
    weights_cut_off, another_end_token, a_template_that_drops_reasoning, columns_of_another_name,
    rows_too_long, a_store_that_is_a_file, a_store_under_other_settings, more_replicas_than_fit,
    a_shard_cut_off,
)  # fmt: skip
WARNINGS = (another_end_token, a_template_that_drops_reasoning)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(corpus, tmp_path, fault):
    changes, check, says = fault(tmp_path, corpus)
    doctor = examined(tmp_path, **({"corpus": (str(corpus),)} | changes))
    found = [
        finding
        for finding in doctor.findings
        if finding.check == check and re.search(says, finding.says)
    ]
    assert [finding.level for finding in found[:1]] == [
        "warning" if fault in WARNINGS else "failure"
    ], doctor.findings
    assert doctor.failed or fault in WARNINGS


def test_all_is_well(corpus, tmp_path):
    options = ["--corpus", corpus, "--student", DEMO_STUDENT, "--store", tmp_path / "store"]
    done = rsr_ray("doctor", *options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    checks = [
        line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("ok ")
    ]
    assert checks == [
        "student",
        "corpus",
        "template",
        "rows",
        "cluster",
        "store",
        "memory",
        "engine",
        "estimate",
    ]
    assert done.stdout.count("«") >= 10
    told = json.loads(rsr_ray("doctor", *options, "--json").stdout.splitlines()[-1])
    assert {finding["level"] for finding in told["findings"]} == {"ok"}
    assert 80 < told["estimate"]["trajectories"] < 160  # 120 of them
    estimate = told["estimate"]
    assert 0 < estimate["hours_low"] < estimate["hours"] < estimate["hours_high"]
    assert not (tmp_path / "store" / "scores").exists()


def test_what_the_store_has_is_left_out_of_the_estimate(corpus, tmp_path):
    expected = examined(tmp_path, corpus=(str(corpus),)).cost
    record = score(corpus, tmp_path / "store").record
    assert record.estimate.hours_high == expected.hours_high  # what came out is beside it
    assert record.estimate.fingerprint == record.fingerprint
    cost = examined(tmp_path, corpus=(str(corpus),)).cost
    assert (cost.trajectories, cost.tokens, cost.hours_high) == (0, 0, 0)
    write_many(tmp_path / "more", 6, 20, seed=1)
    both = examined(tmp_path, corpus=(str(corpus), str(tmp_path / "more"))).cost
    assert 80 < both.trajectories < 160  # 120 of 240


def test_a_failure_is_exit_code_1(tmp_path):
    done = rsr_ray(
        "doctor",
        "--corpus",
        tmp_path / "nowhere",
        "--student",
        DEMO_STUDENT,
        "--store",
        tmp_path / "store",
    )
    assert done.returncode == 1
    assert "failure  corpus: corpus" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_store_without_room(corpus, tmp_path):
    (tmp_path / "store").mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp_path / "store"], check=True
    )
    try:
        findings = examined(tmp_path, corpus=(str(corpus),)).findings
        assert [finding.level for finding in findings if finding.check == "memory and disk"] == [
            "failure"
        ]
    finally:
        subprocess.run(["umount", tmp_path / "store"], check=True)
