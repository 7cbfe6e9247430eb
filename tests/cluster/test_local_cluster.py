"""The one command that brings up a cluster of Ray, S3, a Pushgateway and Prometheus."""

import shutil
import subprocess
import sys

import pytest

from ..conftest import REPOSITORY
from ..test_monitoring import ALERTS, DASHBOARD

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("prometheus-pushgateway")),
    reason="no Prometheus: apt-get install prometheus prometheus-pushgateway",
)


def test_two_nights_after_which_every_query_of_the_dashboard_has_a_number():
    done = subprocess.run(
        [sys.executable, "jobs/local_cluster.py"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    asked = sum(len(panel.get("targets", [])) for panel in DASHBOARD["panels"])
    asked += sum(variable["type"] == "query" for variable in DASHBOARD["templating"]["list"])
    n_rules = sum(len(group["rules"]) for group in ALERTS["groups"])
    assert f"{asked} of {asked} queries of the dashboard have numbers" in done.stdout
    assert f"{n_rules} of {n_rules} alerts are evaluated and silent" in done.stdout
    for night in ("1", "2"):
        assert f"night {night}: exit code 0" in done.stdout
