"""cluster.yaml and jobs/kubernetes say what Ray, KubeRay and the command line understand.

No cluster is started.
"""

import copy
import re
import shlex
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

from rsr_ray import __version__
from rsr_ray.cli.parser import parse
from rsr_ray.config.load import load_nightly
from rsr_ray.errors import UserError
from rsr_ray.run.resources import REPLICA_CPUS

from .conftest import REPOSITORY, SHARED

CRDS = SHARED.parent / "reference" / "kuberay"
KUBERNETES = REPOSITORY / "jobs" / "kubernetes"
LAUNCHER = (REPOSITORY / "cluster.yaml").read_text()
DOCKERFILE = (KUBERNETES / "Dockerfile").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
DOCUMENTS = [
    document
    for path in sorted(KUBERNETES.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """One that holds a token for Ray, which the launcher hands to every machine."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    monkeypatch.setenv("HOME", str(tmp_path))


def documents(kind):
    return copy.deepcopy([document for document in DOCUMENTS if document["kind"] == kind])


def cluster_specs():
    """The Ray clusters in the manifests."""
    return [job["spec"]["rayClusterSpec"] for job in documents("RayJob")] + [
        cron["spec"]["jobTemplate"]["rayClusterSpec"] for cron in documents("RayCronJob")
    ]


def pods(spec):
    return [
        spec["headGroupSpec"]["template"]["spec"],
        *(group["template"]["spec"] for group in spec["workerGroupSpecs"]),
    ]


def submitter():
    """The pod of the plain CronJob."""
    (cron,) = documents("CronJob")
    return cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]


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
    assert {str(spec["rayVersion"]) for spec in cluster_specs()} == {ray}


def test_every_pod_runs_the_image_that_the_dockerfile_builds():
    image = f"REGISTRY/rsr_ray:{__version__}"
    assert f"-t {image} " in DOCKERFILE
    for pod in [pod for spec in cluster_specs() for pod in pods(spec)] + [submitter()]:
        assert {
            container["image"] for container in pod["containers"] + pod.get("initContainers", [])
        } == {image}


def test_the_dockerfile_copies_what_the_package_is_built_from():
    copied = {
        name
        for line in re.findall(r"^COPY --\S+ (.+) /\S+$", DOCKERFILE, re.MULTILINE)
        for name in line.split()
    }
    assert copied == {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "rsr_ray"}
    assert all((REPOSITORY / name).exists() for name in copied)


# KubeRay's definitions


def strict(schema):
    """The schema with unknown fields refused, as the API server does for kubectl."""
    if isinstance(schema, list):
        return [strict(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


@pytest.fixture(scope="module")
def faults_of():
    """The complaints of KubeRay's definition about a manifest."""
    if not CRDS.is_dir():
        pytest.skip("KubeRay's custom resource definitions are not beside this checkout")
    validators = {}
    for path in CRDS.glob("*.yaml"):
        crd = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]
        (version,) = [v for v in crd["versions"] if v["name"] == "v1"]
        validators[crd["names"]["kind"]] = jsonschema.Draft7Validator(
            strict(version["schema"]["openAPIV3Schema"])
        )
    return lambda manifest: [
        error.message for error in validators[manifest["kind"]].iter_errors(manifest)
    ]


@pytest.mark.parametrize("kind", ["RayJob", "RayCronJob"])
def test_kuberay_accepts_the_manifest(faults_of, kind):
    (manifest,) = documents(kind)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert faults_of(manifest) == []


def misspell(mapping, key):
    mapping[key[:-1]] = mapping.pop(key)


def test_kuberay_refuses_a_misspelt_schedule(faults_of):
    (cron,) = documents("RayCronJob")
    misspell(cron["spec"], "schedule")
    assert sorted(faults_of(cron)) == [
        "'schedule' is a required property",
        "Additional properties are not allowed ('schedul' was unexpected)",
    ]


def test_kuberay_refuses_an_unknown_autoscaler(faults_of):
    (job,) = documents("RayJob")
    job["spec"]["rayClusterSpec"]["autoscalerOptions"]["version"] = "v3"
    assert faults_of(job) == ["'v3' is not one of ['v1', 'v2']"]


@pytest.mark.parametrize("field", ["groupName", "maxReplicas", "rayStartParams"])
def test_kuberay_refuses_a_misspelt_field_of_a_worker_group(faults_of, field):
    (job,) = documents("RayJob")
    misspell(job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0], field)
    assert any(f"'{field[:-1]}' was unexpected" in fault for fault in faults_of(job))


def test_kuberay_refuses_a_misspelt_field_deep_in_a_pod(faults_of):
    (job,) = documents("RayJob")
    misspell(pods(job["spec"]["rayClusterSpec"])[0]["containers"][0], "volumeMounts")
    assert any("'volumeMount' was unexpected" in fault for fault in faults_of(job))


# What KubeRay and Kubernetes demand beyond the definitions


def test_a_ray_job_ends_and_may_be_tried_again():
    for job in [job["spec"] for job in documents("RayJob")] + [
        cron["spec"]["jobTemplate"] for cron in documents("RayCronJob")
    ]:
        assert job["shutdownAfterJobFinishes"] is True
        assert job["ttlSecondsAfterFinished"] > 0
        assert 0 < job["activeDeadlineSeconds"] <= 24 * 3600
        assert job["backoffLimit"] > 0


def test_a_ray_cluster_scales_from_no_gpu_and_wants_a_token():
    for spec in cluster_specs():
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["enableInTreeAutoscaling"] is True
        assert spec["autoscalerOptions"]["version"] == "v2"
        # the autoscaler's v2 wants it so
        assert all(pod.get("restartPolicy", "Never") == "Never" for pod in pods(spec))
        (workers,) = spec["workerGroupSpecs"]
        assert (workers["minReplicas"], workers["replicas"], workers["maxReplicas"]) == (0, 0, 4)
        head, worker = (pod["containers"][0]["resources"]["limits"] for pod in pods(spec))
        assert int(head["cpu"]) >= 1
        assert "nvidia.com/gpu" not in head
        assert worker["nvidia.com/gpu"] == "1"


def test_every_ray_pod_has_its_ports_its_volumes_and_the_right_to_the_bucket():
    for pod in (pod for spec in cluster_specs() for pod in pods(spec)):
        (container,) = pod["containers"]
        assert {"name": "metrics", "containerPort": 8080} in container["ports"]
        assert pod["serviceAccountName"] == "rsr"
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(volumes) == set(mounts)
        assert mounts["shm"] == "/dev/shm"
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
        assert volumes["huggingface"]["hostPath"]["type"] == "DirectoryOrCreate"
        assert {"name": "HF_HOME", "value": mounts["huggingface"]} in container["env"]


def test_both_manifests_describe_the_same_cluster():
    once, nightly = cluster_specs()
    (head, _) = pods(nightly)
    head["volumes"] = [volume for volume in head["volumes"] if volume["name"] != "nightly"]
    head["containers"][0]["volumeMounts"] = [
        mount for mount in head["containers"][0]["volumeMounts"] if mount["name"] != "nightly"
    ]
    assert once == nightly


def test_the_plain_cron_job_has_what_kubernetes_needs():
    (cron,) = documents("CronJob")
    assert cron["apiVersion"] == "batch/v1"
    assert len(cron["spec"]["schedule"].split()) == 5
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    pod = submitter()
    assert pod["restartPolicy"] == "Never"  # a Job's pod has no default that is allowed
    (account,) = documents("ServiceAccount")
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    (container,) = pod["containers"]
    assert container["name"]
    env = {variable["name"]: variable for variable in container["env"]}
    assert env["RAY_AUTH_MODE"]["value"] == "token"
    assert env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {
        "name": "rsr",
        "key": "auth_token",
    }


# The commands


def score_commands():
    return [job["spec"]["entrypoint"] for job in documents("RayJob")]


def nightly_commands():
    (cron,) = documents("RayCronJob")
    command = submitter()["containers"][0]["command"]
    assert command[:3] == ["ray", "job", "submit"]
    return [
        cron["spec"]["jobTemplate"]["entrypoint"],
        shlex.join(command[command.index("--") + 1 :]),
    ]


def parsed(text):
    """The settings that a command line gives its command, and its --config."""
    program, *arguments = shlex.split(text)
    assert program == "rsr-ray"
    command, args = parse(arguments)
    return command.name, vars(args)


def test_the_score_command_parses():
    for text in score_commands():
        name, options = parsed(text)
        assert name == "score"
        assert options["gpus_per_replica"] == 1
        assert options["replicas"] == cluster_specs()[0]["workerGroupSpecs"][0]["maxReplicas"]


def test_the_nightly_commands_parse_and_find_their_config():
    (cron,), (config,) = documents("RayCronJob"), documents("ConfigMap")
    head, _ = pods(cron["spec"]["jobTemplate"]["rayClusterSpec"])
    for command, pod in zip(nightly_commands(), [head, submitter()], strict=True):
        called, options = parsed(command)
        assert called == "nightly"
        folder, _, name = options["config"].rpartition("/")
        assert name in config["data"]
        (volume,) = [
            v for v in pod["volumes"] if v.get("configMap") == {"name": config["metadata"]["name"]}
        ]
        (mount,) = [
            m["mountPath"]
            for m in pod["containers"][0]["volumeMounts"]
            if m["name"] == volume["name"]
        ]
        arguments = pod["containers"][0].get("command", [])
        # a job's working folder is a copy of that one
        assert mount == (folder or arguments[arguments.index("--working-dir") + 1])


def test_the_nightly_config_is_one_run_of_score_for_each_student(tmp_path):
    (document,) = documents("ConfigMap")
    path = tmp_path / "nightly.yaml"
    path.write_text(document["data"]["nightly.yaml"])
    students = load_nightly(str(path), {}).students
    assert [student.student_name for student in students] == [
        "Qwen2.5-7B-Instruct",
        "Llama-3.1-8B-Instruct",
    ]
    for student in students:
        assert student.gpus_per_replica == 1
        assert student.replicas == cluster_specs()[1]["workerGroupSpecs"][0]["maxReplicas"]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("gpus_per_replica:", "gpu_per_replica:"),
        ("max_length:", "max_lenght:"),
        ("students:", "student_list:"),
    ],
)
def test_a_misspelt_key_of_the_nightly_config_is_refused(tmp_path, right, wrong):
    (document,) = documents("ConfigMap")
    path = tmp_path / "nightly.yaml"
    path.write_text(document["data"]["nightly.yaml"].replace(right, wrong))
    with pytest.raises(UserError):
        load_nightly(str(path), {})
