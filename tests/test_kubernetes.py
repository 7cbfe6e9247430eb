"""The overlays of jobs/kubernetes, as kustomize renders them, say what Kubernetes, KubeRay and the
command line understand.

No cluster is started.
"""

import functools
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from rsr_ray import __version__
from rsr_ray.cli.parser import parse
from rsr_ray.config.load import load_nightly
from rsr_ray.errors import UserError

from .conftest import REPOSITORY, SHARED

CRDS = SHARED.parent / "reference" / "kuberay"
KUBERNETES = REPOSITORY / "jobs" / "kubernetes"
OVERLAYS = ("once", "nightly", "standing")
pytestmark = pytest.mark.skipif(
    not shutil.which("kubectl"), reason="no kubectl, which renders the overlays"
)


@functools.cache
def rendered(folder: Path) -> dict[str, str]:
    """What kustomize makes of each overlay."""
    return {
        name: subprocess.run(
            ["kubectl", "kustomize", folder / name], capture_output=True, text=True, check=True
        ).stdout
        for name in OVERLAYS
    }


def documents(kind, folder=KUBERNETES):
    """The resources of a kind in all overlays."""
    everything = [one for text in rendered(folder).values() for one in yaml.safe_load_all(text)]
    return [document for document in everything if document["kind"] == kind]


def cluster_specs(folder=KUBERNETES):
    """The Ray clusters, one of each overlay."""
    (job,), (cron,) = documents("RayJob", folder), documents("RayCronJob", folder)
    (standing,) = documents("RayCluster", folder)
    return [
        job["spec"]["rayClusterSpec"],
        cron["spec"]["jobTemplate"]["rayClusterSpec"],
        standing["spec"],
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


def nightly_config():
    """The ConfigMap of nightly.yaml, the same in all overlays."""
    found = [one for one in documents("ConfigMap") if one["metadata"]["name"] == "rsr-nightly"]
    assert found[0] == found[1] == found[2]
    return found[0]


# The site


def test_every_pod_runs_the_image_that_the_dockerfile_builds():
    image = f"REGISTRY/rsr_ray:{__version__}"
    assert f"-t {image} " in (KUBERNETES / "Dockerfile").read_text()
    for pod in [pod for spec in cluster_specs() for pod in pods(spec)] + [submitter()]:
        containers = pod["containers"] + pod.get("initContainers", [])
        assert {container["image"] for container in containers} == {image}


def test_the_folder_of_the_site_is_all_there_is_to_edit(tmp_path):
    words = {"REGISTRY": "ghcr.io/us", "BUCKET": "ours", "ACCOUNT": "1234", "ENDPOINT": "s3.ours"}
    copy = Path(shutil.copytree(KUBERNETES, tmp_path / "kubernetes"))
    for path in (copy / "site").iterdir():
        text = path.read_text().replace("# - AWS_ENDPOINT", "- AWS_ENDPOINT")
        for word, name in words.items():
            text = re.sub(rf"\b{word}\b", name, text)
        path.write_text(text)
    for overlay, text in rendered(copy).items():
        assert not [word for word in words if re.search(rf"\b{word}\b", text)], overlay
        assert text.count("AWS_ENDPOINT_URL: https://s3.ours") == 1
        assert "store: s3://ours/rsr" in text
    for spec in cluster_specs(copy):
        for pod in pods(spec):
            names = [
                one.get("configMapRef", {}).get("name") for one in pod["containers"][0]["envFrom"]
            ]
            assert "rsr-environment" in names
            assert pod["containers"][0]["image"].startswith("ghcr.io/us/rsr_ray:")


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
def test_kuberay_accepts_the_resource(faults_of, kind):
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


def test_all_overlays_have_the_same_cluster():
    once, nightly, standing = cluster_specs()
    assert once == nightly == standing
    assert len(documents("RayCluster")) == 1  # in the others it is part of the job


def test_the_plain_cron_job_has_what_kubernetes_needs():
    (cron,) = documents("CronJob")
    assert cron["apiVersion"] == "batch/v1"
    assert len(cron["spec"]["schedule"].split()) == 5
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    pod = submitter()
    assert pod["restartPolicy"] == "Never"  # a Job's pod has no default that is allowed
    accounts = [one["metadata"]["name"] for one in documents("ServiceAccount")]
    assert pod["serviceAccountName"] in accounts
    (container,) = pod["containers"]
    assert container["name"]
    env = {variable["name"]: variable for variable in container["env"]}
    assert env["RAY_AUTH_MODE"]["value"] == "token"
    assert env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {
        "name": "rsr",
        "key": "auth_token",
    }


# The commands


def nightly_commands():
    """As they are run, and the pods that they run on."""
    (job,), (cron,) = documents("RayJob"), documents("RayCronJob")
    command = submitter()["containers"][0]["command"]
    assert command[:3] == ["ray", "job", "submit"]
    head, _ = pods(cluster_specs()[0])
    return [
        (job["spec"]["entrypoint"], head),
        (cron["spec"]["jobTemplate"]["entrypoint"], head),
        (shlex.join(command[command.index("--") + 1 :]), submitter()),
    ]


def parsed(text):
    """The settings that a command line gives its command, and its --config."""
    program, *arguments = shlex.split(text)
    assert program == "rsr-ray"
    command, args = parse(arguments)
    return command.name, vars(args)


def test_the_nightly_commands_parse_and_find_their_config():
    config = nightly_config()
    for command, pod in nightly_commands():
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
    document = nightly_config()
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
    document = nightly_config()
    path = tmp_path / "nightly.yaml"
    path.write_text(document["data"]["nightly.yaml"].replace(right, wrong))
    with pytest.raises(UserError):
        load_nightly(str(path), {})
