"""cluster.yaml says what Ray understands, and images have what the package wants.

No cluster is started.
"""

import re
import tomllib

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from rsr_ray.run.resources import REPLICA_CPUS

from .conftest import REPOSITORY

KUBERNETES = REPOSITORY / "jobs" / "kubernetes"
LAUNCHER = (REPOSITORY / "cluster.yaml").read_text()
DOCKERFILE = (KUBERNETES / "Dockerfile").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """One that holds a token for Ray, which the launcher hands to every machine."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    monkeypatch.setenv("HOME", str(tmp_path))


# cluster.yaml


def checked(config):
    config = prepare_config(config)
    validate_config(config)
    return config


def to_launch(config, replicas):
    """The machines that the autoscaler starts for so many replicas of one GPU."""
    replica = ResourceRequestUtil.make({"CPU": REPLICA_CPUS, "GPU": 1})
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=AutoscalingConfig(checked(config)).get_node_type_configs(),
        max_num_nodes=config["max_workers"] + 1,
        resource_requests=ResourceRequestUtil.group_by_count([replica] * replicas),
    )
    return {
        launch.instance_type: launch.count
        for launch in ResourceDemandScheduler().schedule(request).to_launch
    }


def test_the_launcher_accepts_cluster_yaml():
    checked(yaml.safe_load(LAUNCHER))


FAULTS = [
    ("max_workers: 4\n", "max_worker: 4\n"),
    ("{ CPU: 8, GPU: 1 }", "{ CPU: 8, GPU: 0.5 }"),
    ("  run_options:", "  run_option:"),
]


@pytest.mark.parametrize(
    ("right", "wrong"), FAULTS, ids=["top-level typo", "fractional GPU", "unknown docker key"]
)
def test_the_launcher_refuses_a_planted_fault(right, wrong):
    assert LAUNCHER.count(right) == 1
    with pytest.raises(jsonschema.ValidationError):
        checked(yaml.safe_load(LAUNCHER.replace(right, wrong)))


def test_spot_comes_first_and_a_machine_on_demand_goes_with_it():
    assert to_launch(yaml.safe_load(LAUNCHER), 2) == {"spot": 2}
    assert to_launch(yaml.safe_load(LAUNCHER), 4) == {"spot": 3, "on_demand": 1}


def test_swapped_priorities_turn_to_on_demand():
    config = yaml.safe_load(LAUNCHER)
    types = config["available_node_types"]
    types["spot"]["priority"], types["on_demand"]["priority"] = (
        types["on_demand"]["priority"],
        types["spot"]["priority"],
    )
    types["on_demand"]["max_workers"] = 4
    assert to_launch(config, 4) == {"on_demand": 4}


def test_no_replica_fits_on_the_head_but_a_run_can_start_there():
    config = yaml.safe_load(LAUNCHER)
    head = config["available_node_types"].pop(config["head_node_type"])["resources"]
    assert head["CPU"] >= 1
    assert head["GPU"] == 0
    assert all(
        node["resources"]["GPU"] == 1 and node["min_workers"] == 0
        for node in config["available_node_types"].values()
    )


def test_the_head_runs_the_cpu_image_and_workers_the_gpu_one():
    config = AutoscalingConfig(checked(yaml.safe_load(LAUNCHER)))
    images = {
        name: config.get_docker_config(name)["image"].split("-")[-1]
        for name in ("head", "spot", "on_demand")
    }
    assert images == {"head": "cpu", "spot": "cu128", "on_demand": "cu128"}


def test_every_process_of_the_launched_cluster_has_the_token_and_the_dashboard_stays_on_the_head():
    config = checked(yaml.safe_load(LAUNCHER))
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "ulimit -n 65536; ray start" in commands[-1]
        assert "--metrics-export-port=8080" in commands[-1]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "0.0.0.0" not in str(config)


def test_setup_installs_the_checkout_and_nothing_of_rays_defaults():
    config = checked(yaml.safe_load(LAUNCHER))
    assert config["file_mounts"]["/home/ray/rsr_ray"] == "."
    for commands in (config["head_setup_commands"], config["worker_setup_commands"]):
        assert any(re.search(r"pip install .*/home/ray/rsr_ray\b", command) for command in commands)
        assert "ray-wheels" not in str(commands)


# Images


def requirement(name):
    (found,) = [r for r in map(Requirement, PROJECT["dependencies"]) if r.name == name]
    return found


def test_images_have_the_ray_and_the_python_that_the_package_wants():
    tags = re.findall(r"rayproject/ray:(\S+)", LAUNCHER + DOCKERFILE)
    assert len(tags) == 3
    parts = [re.fullmatch(r"(\d+\.\d+\.\d+)-py(\d)(\d+)-(cpu|cu\d+)", tag).groups() for tag in tags]
    ((ray, major, minor),) = {part[:3] for part in parts}
    assert requirement("ray").specifier.contains(ray)
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{major}.{minor}")
    cluster = yaml.safe_load((KUBERNETES / "base" / "cluster.yaml").read_text())
    assert cluster["spec"]["rayVersion"] == ray


def test_the_dockerfile_copies_what_the_package_is_built_from():
    copied = {
        name
        for line in re.findall(r"^COPY --\S+ (.+) /\S+$", DOCKERFILE, re.MULTILINE)
        for name in line.split()
    }
    assert copied == {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "rsr_ray"}
    assert all((REPOSITORY / name).exists() for name in copied)
