"""What is kept in a record quotes no credentials."""

from rsr_ray.store.records import get_record, put_record

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
