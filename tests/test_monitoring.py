"""The files under jobs/monitoring say what Prometheus understands, of series that are there."""

import datetime
import json
import re
import shutil
import subprocess

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from rsr_ray.store.exposition import openmetrics
from rsr_ray.store.figures import Figures, NightFigures, RunFigures

from .conftest import REPOSITORY

MONITORING = REPOSITORY / "jobs" / "monitoring"
ALERTS = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
NIGHTLY = 24 * 60  # minutes
STEP = 5  # minutes between samples
needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="no promtool: apt-get install prometheus"
)


def queries() -> list[str]:
    """Those of the dashboard and of the alerts."""
    shown = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    shown += [one["query"] for one in DASHBOARD["templating"]["list"]]
    return shown + [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]


def series_in(texts: list[str]) -> set[str]:
    return {name for text in texts for name in re.findall(r"\b(?:ray_)?rsr_\w+", text)}


def figures(minute: int, **of_run) -> Figures:
    """After a night that ended so many minutes after 1970, with figures for every series."""
    ended = datetime.datetime.fromtimestamp(60 * minute, datetime.UTC).isoformat()
    run = {"error": None, "seconds": 700.0, "new_trajectories": 9, "rejected": 0}
    run |= {"reject_share": 0.0, "tokens_per_second": 500.0, "gpu_hours": 1.5}
    run |= {"trajectories": 90, "place_changes": 0} | of_run
    after = Figures().with_run("s", RunFigures(run_id="r", ended=ended, **run))
    night = NightFigures(night="n", ended=ended, error=run["error"], seconds=800.0)
    return after.with_night(night)


def test_every_series_of_the_store_is_asked_for_and_no_other():
    families = text_string_to_metric_families(openmetrics(figures(1), "s").decode())
    exposed = {sample.name for family in families for sample in family.samples}
    asked = {name for name in series_in(queries()) if not name.startswith("ray_")}
    assert asked == exposed


@needs_promtool
def test_promtool_accepts_the_rules_and_refuses_a_planted_fault(tmp_path):
    rules = (MONITORING / "alerts.yaml").read_text()
    assert rules.count("rsr_night_failed == 1") == 1
    for name, text, accepted in (
        ("right", rules, True),
        ("wrong", rules.replace("rsr_night_failed == 1", "rsr_night_failed == = 1"), False),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        checked = subprocess.run(["promtool", "check", "rules", path], capture_output=True)
        assert (checked.returncode == 0) == accepted, checked.stderr


def over(nights: list[Figures], until: int) -> list[dict]:
    """The series of a Pushgateway that is told of a night every day from minute 0 on."""
    told: dict[str, list[str]] = {}
    for n, after in enumerate(nights):
        lasts = until - n * NIGHTLY if n == len(nights) - 1 else NIGHTLY
        for family in text_string_to_metric_families(openmetrics(after, "store").decode()):
            for sample in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
                values = told.setdefault(f"{sample.name}{{{labels}}}", [])
                values.append(f"{sample.value:.10g}x{lasts // STEP - 1}")
    return [{"series": series, "values": " ".join(values)} for series, values in told.items()]


def fired(tmp_path, nights: list[Figures], at: int) -> set[str]:
    """The alerts that fire so many minutes after the first of these nights: those of which
    promtool says that they do not stay silent.
    """
    names = [rule["alert"] for group in ALERTS["groups"] for rule in group["rules"]]
    silent = [{"eval_time": f"{at}m", "alertname": name, "exp_alerts": []} for name in names]
    test = {
        "interval": f"{STEP}m",
        "input_series": over(nights, at + STEP),
        "alert_rule_test": silent,
    }
    settings = {
        "rule_files": [str(MONITORING / "alerts.yaml")],
        "evaluation_interval": f"{STEP}m",
        "tests": [test],
    }
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(settings))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True)
    said = done.stdout + done.stderr
    firing = set(re.findall(r"alertname: *(\w+)", said))
    assert done.returncode == bool(firing), said
    return firing


@needs_promtool
@pytest.mark.parametrize(
    ("nights", "at", "alerts"),
    [
        ([figures(0), figures(NIGHTLY)], NIGHTLY + 120, set()),
        ([figures(0)], NIGHTLY + 60, set()),
        ([figures(0)], NIGHTLY + 130, {"RsrNightDidNotRun"}),
        ([], 27 * 60, {"RsrNoNightKnown"}),
        (
            [figures(0), figures(NIGHTLY, error="no GPU")],
            NIGHTLY + 5,
            {"RsrNightFailed", "RsrRunFailed"},
        ),
        ([figures(0, reject_share=0.2)], 5, {"RsrManyRejects"}),
        ([figures(0), figures(NIGHTLY, tokens_per_second=240.0)], NIGHTLY + 5, {"RsrSlow"}),
        (
            [figures(0), figures(NIGHTLY, tokens_per_second=240.0, seconds=60.0)],
            NIGHTLY + 5,
            set(),
        ),
    ],
    ids=[
        "every night",
        "not yet late",
        "the second night held back",
        "never a night",
        "failed",
        "rejects",
        "slow",
        "slow because it is short",
    ],
)
def test_the_alerts_that_fire(tmp_path, nights, at, alerts):
    assert fired(tmp_path, nights, at) == alerts
