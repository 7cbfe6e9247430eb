"""The rights to a bucket that jobs/policies grants: with them every command does its work, and
without any one of them it names the one that is missing, and writes nothing.

What a key wrote itself it may read whatever its policies grant, because Ceph keeps the rights of
writers with each object: a right is taken away by a denial.
"""

import json

import boto3
import pytest

from ..conftest import DEMO_STUDENT, REPOSITORY
from .conftest import OWNER, in_a_process, rsr_ray
from .test_nights import config_file, write_shard

pytestmark = [pytest.mark.ceph, pytest.mark.usefixtures("brief_doctor")]
BUCKET = "shared"
CORPUS, STORE = f"s3://{BUCKET}/corpus", f"s3://{BUCKET}/store"
SCORE = ["--corpus", CORPUS, "--student", DEMO_STUDENT, "--student-name", "one", "--replicas", 1]
READ, WRITE = ["s3:ListBucket", "s3:GetObject"], ["s3:PutObject", "s3:DeleteObject"]
LACKING = [("corpus", right) for right in READ] + [("store", right) for right in READ + WRITE]


def policy(name: str, prefix: str) -> list[dict]:
    """The statements of a file of jobs/policies."""
    text = (REPOSITORY / "jobs" / "policies" / f"{name}.json").read_text()
    return json.loads(text.replace("BUCKET", BUCKET).replace("PREFIX", prefix))["Statement"]


def deny(action: str, path: str) -> dict:
    """A statement that takes an action away."""
    denied = {"Effect": "Deny", "Action": action}
    if action == "s3:ListBucket":
        where = {"StringLike": {"s3:prefix": path}}
        return denied | {"Resource": f"arn:aws:s3:::{BUCKET}", "Condition": where}
    return denied | {"Resource": f"arn:aws:s3:::{BUCKET}/{path}"}


class Owner:
    """The owner of a bucket, who says what the key of the tests may do there."""

    def __init__(self, port: int):
        keys = {"aws_access_key_id": OWNER[0], "aws_secret_access_key": OWNER[1]}
        where = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-east-1"}
        self.s3 = boto3.client("s3", **where, **keys)
        self.iam = boto3.client("iam", **where, **keys)
        self.s3.create_bucket(Bucket=BUCKET)

    def allow(self, *statements: dict) -> None:
        document = {"Version": "2012-10-17", "Statement": statements}
        self.iam.put_user_policy(
            UserName="test", PolicyName="jobs", PolicyDocument=json.dumps(document)
        )

    def allow_a_run(self, *denied: dict, store: str = "store") -> None:
        """What jobs/README.md gives those who score, but for what is denied."""
        self.allow(*policy("read", "corpus"), *policy("write", store), *denied)

    def objects(self) -> dict[str, str]:
        """All that is in the bucket."""
        found = self.s3.list_objects_v2(Bucket=BUCKET)
        return {one["Key"]: one["ETag"] for one in found["Contents"]}


@pytest.fixture(scope="module")
def owner(gateway, tmp_path_factory):
    owner, path = Owner(gateway), tmp_path_factory.mktemp("corpus") / "part.jsonl"
    for n in range(20):
        teacher, style = ("A", "terse-7b") if n % 2 else ("B", "flowery-8b")
        first = 2 * (n // 2)
        write_shard(path, teacher, range(first, first + 2), style)
        if n == 0:
            path.write_text(path.read_text() + "no JSON\n")
        owner.s3.upload_file(str(path), BUCKET, f"corpus/part-{n:02}.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{gateway}")
        yield owner


@pytest.fixture
def night(tmp_path):
    """A nightly.yaml of one student."""
    students = [{"student": str(DEMO_STUDENT), "student_name": "one", "replicas": 1}]
    return config_file(tmp_path, CORPUS, STORE, students=students)


def check_denied(done, *said: str) -> None:
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    for words in (*said, "denied on s3://shared/", "grant this", "jobs/policies"):
        assert words in done.stderr


def check_whole(store: str) -> None:
    (student,) = json.loads(rsr_ray("status", "--store", store, "--json").stdout)["students"]
    assert (student["trajectories"], student["rejected"]) == (40, 1)
    assert rsr_ray("check", "--store", store).returncode == 0


@pytest.mark.parametrize(("prefix", "right"), LACKING)
def test_without_a_right_nothing_starts(owner, night, prefix, right):
    owner.allow_a_run(deny(right, f"{prefix}/*"))
    before = owner.objects()
    check_denied(rsr_ray("score", *SCORE, "--store", STORE), right, f"s3://shared/{prefix}")
    assert owner.objects() == before
    check_denied(rsr_ray("nightly", "--config", night), right, f"s3://shared/{prefix}")
    after = {key for key, tag in owner.objects().items() if before.get(key) != tag}
    kept = ("store/status.", "store/nightly/lease/", "store/claims/status/")  # that it failed
    assert [key for key in after if prefix == "store" or not key.startswith(kept)] == []


def test_the_check_of_a_night_names_every_right_that_is_missing(owner, night):
    owner.allow_a_run(
        deny("s3:GetObject", "corpus/*"),
        *(deny(right, "store/*") for right in ("s3:ListBucket", "s3:PutObject")),
    )
    before = owner.objects()
    done = rsr_ray("nightly", "--config", night, "--check", "--json")
    assert done.returncode == 1
    findings = json.loads(done.stdout)["students"]["one"]["findings"]
    failures = {one["check"]: one["says"] for one in findings if one["level"] == "failure"}
    assert failures.keys() == {"corpus", "store"}
    assert "s3:GetObject is denied on s3://shared/corpus/" in failures["corpus"]
    assert "s3:ListBucket, s3:PutObject are denied on s3://shared/store:" in failures["store"]
    assert owner.objects() == before


@pytest.mark.usefixtures("local_ray")
def test_a_right_that_is_missing_on_the_way(owner):
    store = f"s3://{BUCKET}/lost"
    for right, path in (("s3:PutObject", "lost/scores/"), ("s3:GetObject", "corpus/part-01.jsonl")):
        owner.allow_a_run(deny(right, f"{path}*"), store="lost")
        done = rsr_ray("score", *SCORE, "--store", store)
        assert done.returncode == 2
        said = done.stderr.splitlines()[-1]
        assert said.startswith(f"rsr-ray: {right} is denied on s3://{BUCKET}/{path}")
        assert said.endswith("or use another")
        assert not any(key.endswith(".parquet") for key in owner.objects() if right in WRITE)
    owner.allow_a_run(store="lost")
    assert rsr_ray("score", *SCORE, "--store", store).returncode == 0
    check_whole(store)


@pytest.mark.usefixtures("local_ray")
def test_with_the_rights_of_the_files_every_command_does_its_work(owner, night, tmp_path):
    owner.allow_a_run()
    done = rsr_ray("nightly", "--config", night)
    assert done.returncode == 0, done
    of_student = ["--store", STORE, "--student", "one"]
    look = {
        "teachers": of_student,
        "report": [*of_student, "--out", tmp_path / "report"],
        "compare": [STORE, STORE],
        "rejects": of_student,
        "status": ["--store", STORE],
        "check": ["--store", STORE],
    }
    before = owner.objects()
    owner.allow(*policy("read", "store"))
    for command, options in look.items():
        assert rsr_ray(command, *options).returncode == 0
    check_denied(rsr_ray("rejects", *of_student, "--retry"), "s3:DeleteObject", STORE)
    choose = ["choose", *of_student, "--out", tmp_path / "sft"]
    check_denied(rsr_ray(*choose), "s3:ListBucket", CORPUS)
    for right in READ:
        owner.allow(*policy("read", "store"), deny(right, "store/*"))
        for command, options in look.items():
            check_denied(rsr_ray(command, *options), right, STORE)
    owner.allow(*policy("read", "store"), *policy("read", "corpus"))
    assert rsr_ray(*choose).returncode == 0
    assert owner.objects() == before
    owner.allow_a_run()
    assert rsr_ray("rejects", *of_student, "--retry").returncode == 0
    gone = before.keys() - owner.objects().keys()
    assert any(key.startswith("store/scores/") for key in gone)


def test_credentials_that_the_store_does_not_know(owner):
    done = in_a_process("status", "--store", STORE, AWS_ACCESS_KEY_ID="nobody")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "refuses the credentials in use (InvalidAccessKeyId)" in done.stderr
