"""The figures that outlive runs: kept whatever fails, in words for Prometheus, pushed if asked."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from rsr_ray.config.score import ScoreConfig
from rsr_ray.errors import UserError
from rsr_ray.run.figures import expected_of, note_estimate, note_night, note_run
from rsr_ray.run.ledger import Run
from rsr_ray.store.exposition import openmetrics
from rsr_ray.store.figures import Figures, RunFigures, read_figures, update_figures
from rsr_ray.store.run_record import Estimate

GIVEN = {"corpus": ("c",), "student": "s"}


def run(ended: str = "2026-01-01T00:00:00+00:00", **changes) -> RunFigures:
    figures = RunFigures(
        run_id="r",
        ended=ended,
        error=None,
        seconds=2.0,
        new_trajectories=3,
        rejected=1,
        reject_share=0.25,
        tokens_per_second=10.0,
        gpu_hours=0.0,
        trajectories=3,
        place_changes=None,
    )
    return dataclasses.replace(figures, **changes)


def samples(text: str) -> dict[tuple[str, str | None], float]:
    """By name and student."""
    return {
        (sample.name, sample.labels.get("student")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_failure_keeps_the_last_success_and_a_success_moves_it():
    figures = Figures().with_run("s", run(error="none yet"))
    assert figures.students["s"].last_success is None
    figures = figures.with_run("s", run("2026-01-02T00:00:00+00:00"))
    figures = figures.with_run("s", run("2026-01-03T00:00:00+00:00", error="broke"))
    kept = figures.students["s"]
    assert (kept.last_success, kept.ended) == (
        "2026-01-02T00:00:00+00:00",
        "2026-01-03T00:00:00+00:00",
    )


ESTIMATE = Estimate(
    made="2026-01-01T00:00:00+00:00",
    fingerprint="f",
    trajectories=10.0,
    tokens=1000.0,
    replicas=1,
    hours=0.1,
    hours_low=0.05,
    hours_high=0.2,
)


def test_an_estimate_is_of_the_next_run_under_the_same_settings(tmp_path):
    config = ScoreConfig(store=str(tmp_path), **GIVEN)
    student = str(config.student_name)
    note_estimate(config, "f", ESTIMATE)
    kept = read_figures(str(tmp_path), None).estimates[student]
    assert kept == dataclasses.replace(ESTIMATE, made=kept.made)
    now, other = Run(config), Run(config)
    now.fingerprint, other.fingerprint = "f", "g"
    assert (expected_of(now), expected_of(other)) == (kept, None)
    note_run(now, "it broke")  # it is used up
    assert read_figures(str(tmp_path), None).estimates == {}
    assert expected_of(now) is None


def test_what_is_not_known_has_no_sample_and_what_is_zero_has_one():
    failed = run(error="x", reject_share=None, tokens_per_second=None, trajectories=None)
    found = samples(openmetrics(Figures(students={"s": failed}), "store").decode())
    assert found["rsr_run_failed", "s"] == 1
    assert found["rsr_run_gpu_hours", "s"] == 0
    for name in ("reject_share", "tokens_per_second", "place_changes", "success_timestamp_seconds"):
        assert (f"rsr_run_{name}", "s") not in found


def test_the_text_is_read_by_scrapers_of_either_format():
    text = openmetrics(Figures(students={'a"\\b': run()}), "/a b").decode()
    plain = {s.name: s.value for family in plain_families(text) for s in family.samples}
    assert plain == {name: value for (name, _), value in samples(text).items()}
    assert plain["rsr_run_ended_timestamp_seconds"] == 1767225600


def test_runs_that_end_together_lose_none(tmp_path):
    def end(n: int) -> None:
        update_figures(str(tmp_path), None, lambda known: known.with_run(f"s{n}", run()))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(end, range(6)))
    assert sorted(read_figures(str(tmp_path), None).students) == [f"s{n}" for n in range(6)]
    found = samples((tmp_path / "status.prom").read_text())
    assert len([name for name, _ in found if name == "rsr_run_failed"]) == 6


def test_broken_figures_are_named_and_written_anew(tmp_path, logged):
    update_figures(str(tmp_path), None, lambda known: known.with_run("old", run()))
    path = tmp_path / "status.json"
    path.write_text(path.read_text().replace('"old"', '"odd"'))
    update_figures(str(tmp_path), None, lambda known: known.with_run("new", run()))
    assert [*read_figures(str(tmp_path), None).students] == ["new"]
    assert "status.json is broken" in logged.text


@pytest.fixture
def gateway():
    """An HTTP server that keeps what is put there, by path."""
    kept: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            kept[self.path] = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", kept
        server.shutdown()


def test_what_is_pushed_is_what_is_in_the_store(tmp_path, gateway):
    url, kept = gateway
    config = ScoreConfig(store=str(tmp_path), pushgateway=url, **GIVEN)
    note_run(Run(config), "it broke")
    note_night(config, "n", "1 of 1 students failed", 0.0)
    ((path, pushed),) = kept.items()  # one group for the store, replaced
    assert path.startswith("/metrics/job/rsr_ray/store@base64/")
    assert samples(f"{pushed}# EOF\n") == samples((tmp_path / "status.prom").read_text())
    assert samples(f"{pushed}# EOF\n")["rsr_night_failed", None] == 1


def test_a_gateway_that_is_gone_is_a_warning(tmp_path, logged):
    config = ScoreConfig(store=str(tmp_path), pushgateway="http://127.0.0.1:9", **GIVEN)
    note_run(Run(config), None)
    (record,) = logged.records
    assert "--pushgateway http://127.0.0.1:9: no figures pushed" in record.getMessage()
    assert read_figures(str(tmp_path), None).students["s"].error is None


def test_a_store_that_cannot_be_written_is_a_warning(tmp_path, logged):
    (tmp_path / "file").write_text("")
    note_run(Run(ScoreConfig(store=str(tmp_path / "file"), **GIVEN)), None)
    assert "status.json could not be written; the scores are not affected" in logged.text


@pytest.mark.parametrize("url", ["gateway:9091", "http://me:secret@gateway"])
def test_a_gateway_is_a_url_without_credentials(url):
    with pytest.raises(UserError, match="--pushgateway") as refused:
        ScoreConfig(store="s", pushgateway=url, **GIVEN)
    assert "secret" not in str(refused.value)
