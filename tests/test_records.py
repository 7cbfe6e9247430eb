"""What is kept in a record quotes no credentials."""

import json
from pathlib import Path

from rsr_ray.store.records import get_record, put_record
from rsr_ray.store.run_record import RunRecord

EARLIER = Path(__file__).parent / "golden" / "version_2" / "store" / "runs"

SECRET = "hf_" + "a1B2" * 8


def test_a_record_is_kept_without_the_credentials_that_a_message_quotes(tmp_path):
    said = {
        "run_id": "r",
        "examples": {"row_error": f"cannot open https://me:hunter2@host/x with {SECRET}"},
        "n": [1, 2.5, None, True],
    }
    put_record(str(tmp_path), "runs/r.json", said, None)
    kept = (tmp_path / "runs" / "r.json").read_text()
    assert SECRET not in kept
    assert "hunter2" not in kept
    record = get_record(str(tmp_path), "runs/r.json", ("run_id",), None)
    assert record["n"] == said["n"]
    assert "cannot open https://***@host/x" in record["examples"]["row_error"]


def test_the_record_of_a_run_of_another_version_is_read_and_written_again():
    (path,) = EARLIER.glob("*.json")
    found = json.loads(path.read_text())
    run = RunRecord.from_json(found | {"colour": "red"})
    lacking = dict.fromkeys(("plan", "identity", "kept", "added", "estimate"))
    assert {name: getattr(run, name) for name in lacking} == lacking
    assert (run.equation.scored, run.student.vocab_size, run.resources.replicas) == (12, 627, 1)
    found["student"]["sees"] = False
    assert run.to_json() == found | lacking | {"colour": "red"}
    assert RunRecord.from_json(run.to_json()) == run
    idle = RunRecord.from_json({"resources": {"replicas": 0, "dtype": "float32"}})
    assert idle.to_json()["resources"] == {"replicas": 0, "dtype": "float32"}
