"""Credentials are refused in every setting, and taken out of whatever is printed, logged or kept.

SHAPES are texts with a secret between « and ». What a secret is made of comes from `body`, so that
no text of this file looks like a key that somebody lost.
"""

import dataclasses
import itertools
import json
import logging
import random
import re
import string
import typing
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rsr_ray.cli import main
from rsr_ray.config.choose import ChooseConfig
from rsr_ray.config.race import RaceConfig
from rsr_ray.config.score import ScoreConfig
from rsr_ray.credentials import HIDDEN, refuse_credentials, scrub, scrubbed
from rsr_ray.errors import UserError
from rsr_ray.files.filesystems import endpoint_of
from rsr_ray.store.records import get_record, put_record, warn_once

from .conftest import by_turns, few

PART = 6  # characters of a secret that are too many to show


def body(length: int, alphabet: str = string.ascii_letters + string.digits, seed: int = 0) -> str:
    return "".join(random.Random(f"{length} {seed}").choices(alphabet, k=length))


UPPER, HEX = string.ascii_uppercase + string.digits, "0123456789abcdef"
ID = "AKIA" + body(16, UPPER)
KEY = "wJ/" + body(17) + "+x/" + body(14) + "/9z"  # of AWS: / and + are in it
PLAIN = body(20)
SIGNATURE = body(21) + "+" + body(19) + "/="
JWT = ".".join(["eyJ" + body(17), "eyJ" + body(40), body(43)])
# Tokens that are known by their looks.
LOOKS = {
    "hugging face": "hf_" + body(34),
    "hugging face, of an organisation": "api_org_" + body(34),
    "github": "ghp_" + body(36),
    "github app": "ghs_" + body(36),
    "github, fine-grained": "github_pat_" + body(22) + "_" + body(59),
    "gitlab": "glpat-" + body(20),
    "openai": "sk-" + body(48),
    "openai project": "sk-proj-" + body(24) + "-" + body(24) + "_" + body(20),
    "openai service account": "sk-svcacct-" + body(48),
    "anthropic": "sk-ant-api03-" + body(40) + "-" + body(40) + "AA",
    "openrouter": "sk-or-v1-" + body(64, HEX),
    "aws key id": ID,
    "aws key id, for some time": "ASIA" + body(16, UPPER),
    "json web token": JWT,
    "google api key": "AIza" + body(35),
    "google oauth": "ya29." + body(60),
    "slack": "xoxb-" + body(12, string.digits) + "-" + body(24),
    "npm": "npm_" + body(36),
    "pypi": "pypi-AgEI" + body(60),
    "replicate": "r8_" + body(37),
    "groq": "gsk_" + body(52),
    "nvidia": "nvapi-" + body(64),
    "databricks": "dapi" + body(32, HEX),
    "stripe": "sk_live_" + body(24),
    "vault": "hvs." + body(90),
    "sendgrid": "SG." + body(22) + "." + body(43),
    "digital ocean": "dop_v1_" + body(64, HEX),
}
URIS = [
    f"s3://«{ID}:{KEY}»@bucket/corpus",
    f"s3://«{ID}:{KEY}»@minio.example.org:9000/bucket/corpus/*.parquet",
    f"S3://«{ID}:{KEY}»@bucket/corpus",
    f"s3a://«{ID}:{KEY}»@bucket/x",
    f"s3://«{PLAIN}»@bucket/x",
    f"gs://«{PLAIN}»@bucket/x",
    f"gcs://me:«{PLAIN}»@bucket/x",
    f"r2://«{PLAIN}:{KEY}»@bucket/x",
    f"https://me:«{PLAIN}»@host.example.org/x",
    f"https://me:«{PLAIN}»@host/x?rev=1",
    f"http://me:«{PLAIN}»@10.0.0.7:9000",
    f"http://me:«{PLAIN}»@[::1]:9000/x",
    f"https://«{PLAIN}»@host.example.org/x",
    f"https://:«{PLAIN}»@host/x",
    f"https://x-access-token:«{PLAIN}»@github.com/org/repo",
    f"https://me:«p@ss/{PLAIN}»@host.example.org/x",
    f"https://me:«{PLAIN}?{PLAIN}»@host.example.org/x",
    f"https://me:«{PLAIN}#{PLAIN}»@host.example.org/x",
    f"https://me:«it's{PLAIN}»@host.example.org/x",
    f"https://me:«{PLAIN}»@host.example.org/teacher=a@b/x",
    f"https://me:«{PLAIN}:{PLAIN}»@host/x",
    f"https://me:«{PLAIN}»%40host.example.org/x",
    f"https://me%3A«{PLAIN}»@host.example.org/x",
    f"https%3A%2F%2Fme%3A«{PLAIN}»%40host.example.org%2Fx",
    f"https%253A%252F%252Fme%253A«{PLAIN}»%2540host.example.org",
    f"https://me:«{quote('p@ss/' + PLAIN, safe='')}»@host.example.org",
    f"https://proxy.example.org/fetch?url=https%3A%2F%2Fme%3A«{PLAIN}»%40host%2Fx",
    f"https://proxy.example.org/https://me:«{PLAIN}»@host/x",
    f"hf://«{PLAIN}»@datasets/org/name",
    f"hf://user:«{PLAIN}»@datasets/org/name@main",
    f"git+https://«{PLAIN}»@github.com/org/repo.git",
    f"git+https://me:«{PLAIN}»@github.com/org/repo.git@main",
    f"git+ssh://git:«{PLAIN}»@github.com/org/repo.git",
    f"redis://:«{PLAIN}»@cache:6379/0",
    f"rediss://default:«{PLAIN}»@cache:6379/0",
    f"postgresql://me:«{PLAIN}»@db:5432/scores",
    f"postgresql+psycopg://me:«{PLAIN}»@db/scores",
    f"mysql://root:«{PLAIN}»@localhost/scores",
    f"mongodb+srv://me:«{PLAIN}»@cluster0.example.net/?retryWrites=true",
    f"amqps://me:«{PLAIN}»@queue//vhost",
    f"ray://me:«{PLAIN}»@head:10001",
    f"ray://«{PLAIN}»@head:10001",
    f"grpc://me:«{PLAIN}»@head:50051",
    f"sftp://me:«{PLAIN}»@host/x",
    f"ssh://me:«{PLAIN}»@host:22/x",
    f"ftp://anonymous:«{PLAIN}»@host/x",
    f"smb://me:«{PLAIN}»@host/share",
    f"hdfs://me:«{PLAIN}»@namenode:8020/x",
    f"webhdfs://me:«{PLAIN}»@namenode:9870/x",
    f"abfss://container:«{PLAIN}»@account.dfs.core.windows.net/x",
    f"az://container:«{PLAIN}»@account/x",
    f"wasbs://container:«{PLAIN}»@account.blob.core.windows.net/x",
    f"socks5h://me:«{PLAIN}»@proxy:1080",
    f"simplecache::s3://«{ID}:{KEY}»@bucket/x.parquet",
    f"zip://*.jsonl::https://me:«{PLAIN}»@host/x.zip",
    f"oss://«{PLAIN}:{PLAIN}»@bucket/x",
    f"s3://bucket/ok s3://«{ID}:{KEY}»@bucket/x",
    f"s3://«{ID}:{KEY}»@bucket/x#student@night",
    f"http_proxy=http://me:«{PLAIN}»@proxy:3128",
    f"me:«{PLAIN}»@proxy.example.org:3128",
    f"me:«{PLAIN}»@host.example.org/x",
    f"HTTPS_PROXY=me:«{PLAIN}»@proxy:3128",
]
PARAMETERS = [
    f"https://host/x.parquet?token=«{PLAIN}»",
    f"https://host/x.parquet?v=1&token=«{PLAIN}»&n=2",
    f"https://host/x.parquet?TOKEN=«{PLAIN}»",
    f"https://host/x?access_token=«{PLAIN}»",
    f"https://host/x?private_token=«{PLAIN}»",
    f"https://host/x?auth_token=«{PLAIN}»",
    f"https://host/x?api_key=«{PLAIN}»",
    f"https://host/x?apikey=«{PLAIN}»",
    f"https://host/x?api-key=«{PLAIN}»",
    f"https://host/x?key=«{PLAIN}»",
    f"https://host/x?subscription-key=«{PLAIN}»",
    f"https://host/x?password=«{PLAIN}»",
    f"https://host/x?passphrase=«{PLAIN}»",
    f"https://host/x?user=me&pwd=«{PLAIN}»",
    f"https://host/x?client_secret=«{PLAIN}»",
    f"https://host/x?auth=«{PLAIN}»",
    f"https://host/x#access_token=«{PLAIN}»",
    f"https://host/x;key=«{PLAIN}»",
    f"https://host/x?token%3D«{PLAIN}»",
    f"https://host/x%3Ftoken%3D«{PLAIN}»",
    f"https://host/x%253Ftoken%253D«{PLAIN}»",
    f"https://host/x?token=«{quote(PLAIN + '&' + PLAIN, safe='')}»",
    f"https://host/x?token=«{PLAIN}#{PLAIN}»",
    f"https://host/x?a=1&amp;token=«{PLAIN}»",
    rf"https://host/x?a=1\u0026token=«{PLAIN}»",
    f"az://container/x?sv=2024-11-04&sp=r&sig=«{quote(SIGNATURE, safe='')}»",
    f"https://account.blob.core.windows.net/c/x?sv=2024-11-04&sp=r&sig=«{SIGNATURE}»",
    f"https://b.s3.amazonaws.com/x?X-Amz-Expires=60&X-Amz-Signature=«{body(64, HEX)}»",
    f"https://b.s3.amazonaws.com/x?X-Amz-Credential=«{ID}»%2F20260101%2Fus-east-1%2Fs3",
    f"https://b.s3.amazonaws.com/x?X-Amz-Security-Token=«Fwo{quote(SIGNATURE, safe='')}»",
    f"https://b.s3.amazonaws.com/x?AWSAccessKeyId=«{PLAIN}»&Signature=«{SIGNATURE}»&Expires=1",
    f"https://storage.googleapis.com/b/x?GoogleAccessId=me&Signature=«{SIGNATURE}»",
    f"s3://bucket/x?aws_secret_access_key=«{KEY}»",
    f"s3://bucket/x?secret_key=«{KEY}»&region=eu",
    f"jdbc:postgresql://db/scores?user=me&password=«{PLAIN}»",
    f"s3://bucket/store#key=«{PLAIN}»",
]
TEXTS = [
    f"Bearer «{PLAIN}»",
    f"Authorization: Bearer «{PLAIN}»",
    f"authorization: bearer «{body(12)}»",
    f"{{'Authorization': 'Bearer «{PLAIN}»', 'Accept': '*/*'}}",
    f"Authorization: Basic «{SIGNATURE}»",
    f"Proxy-Authorization: Basic «{SIGNATURE}»",
    f"Authorization: token «{PLAIN}»",
    f"X-Api-Key: «{PLAIN}»",
    f"x-amz-security-token: «{SIGNATURE}»",
    f"Authorization: AWS4-HMAC-SHA256 Credential=«{ID}»/20260101/us-east-1/s3/aws4_request, "
    f"SignedHeaders=host, Signature=«{body(64, HEX)}»",
    f"Cookie: session=«{PLAIN}»",
    f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey=«{SIGNATURE}»;"
    "EndpointSuffix=core.windows.net",
    "BlobEndpoint=https://a.blob.core.windows.net/;"
    f"SharedAccessSignature=sv=2024-11-04&sig=«{quote(SIGNATURE, safe='')}»",
    f"Endpoint=sb://a.example.net/;SharedAccessKeyName=root;SharedAccessKey=«{SIGNATURE}»",
    f"AWS_SECRET_ACCESS_KEY=«{KEY}»",
    f"export AWS_SESSION_TOKEN=«{SIGNATURE}» && rsr-ray score",
    f"HF_TOKEN=«{PLAIN}»",
    f"aws_secret_access_key = «{KEY}»",
    f"aws_secret_access_key: «{KEY}»",
    f"host=db user=me password=«{PLAIN}» dbname=scores",
    f"Server=db;User Id=me;Password=«{PLAIN}»;",
    f'{{"password": "«{PLAIN}»", "user": "me"}}',
    f'{{"aws_secret_access_key":"«{KEY}»"}}',
    f"S3FileSystem(access_key='me', secret_key='«{KEY}»')",
    f"storage_options={{'account_key': '«{SIGNATURE}»'}}",
    f"rsr-ray: unrecognized arguments: --hf-token «{PLAIN}»",
    f"rsr-ray: unrecognized arguments: --password=«{PLAIN}»",
    "-----BEGIN " + f"PRIVATE KEY-----\n«{SIGNATURE * 3}»\n-----END PRIVATE KEY-----",
    "-----BEGIN RSA " + f"PRIVATE KEY-----\\n«{SIGNATURE * 3}»\\n-----END RSA PRIVATE KEY-----\\n",
]
TOKENS = [
    text.format(f"«{token}»")
    for text in (
        "{}",
        "hub/name@{}",
        "s3://bucket/{}/x.parquet",
        "cannot open 'https://host/x' with {}: 401.",
    )
    for token in LOOKS.values()
]
KINDS = {"URIs": URIS, "parameters": PARAMETERS, "texts": TEXTS, "tokens": TOKENS}
SHAPES = [shape for shapes in KINDS.values() for shape in shapes]

HARMLESS = [
    "s3://bucket/corpus/teacher=a@b/part-0.parquet",
    "s3://bucket/teacher=a%40b/part-0.parquet",
    "s3://bucket/teacher=a%2540b:c/part-0.parquet",
    "/data/teacher=QwQ@2026-11-01/x.jsonl",
    "/data/run 12:30@night/x.jsonl",
    "data/a@b.org/x:y@z.org",
    "file:///data/me:you@host.org/x.parquet",
    r"C:\data\a@b.org",
    "C:/data/a@b.org",
    "org/name",
    "org/name@main",
    "org/name@refs/pr/1",
    "org/name@v1.0",
    "hf://datasets/org/name@main/data/*.parquet",
    "hf://datasets/org/name@refs%2Fpr%2F1/x.parquet",
    "hf://org/name@6f3c1b2a9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a/model.safetensors",
    "abfss://container@account.dfs.core.windows.net/corpus",
    "abfs://container@account.dfs.core.windows.net/teacher=a@b/x",
    "wasbs://container@account.blob.core.windows.net/x",
    "az://container@account/x",
    "adl://container@account/x",
    "github://org:repo@main/x.jsonl",
    "ssh://git@github.com/org/repo",
    "git+ssh://git@github.com/org/repo.git",
    "git@github.com:org/repo.git",
    "sftp://me@host:22/corpus",
    "hdfs://me@namenode:8020/corpus",
    "hdfs://namenode:8020/teacher=a@b/x",
    "https://host:8443/teacher=a@b/x",
    "https://host.example.org/x.parquet?v=1&n=2",
    "https://host/x?monkey=banana&turkey=dinner&keyboard=qwerty",
    "https://host/x?tokens=5&max_tokens=100&tokenizer=fast",
    "https://host/x?author=me&passage=long&signal=low",
    "http://localhost:9000",
    "http://[::1]:9000",
    "ray://head:10001",
    "10.0.0.7:6379",
    "auto",
    "memory://a@b/x.parquet",
    "zip://teacher@x.parquet::s3://bucket/all.zip",
    "simplecache::s3://bucket/teacher=a@b/x.parquet",
    "s3://bucket/store#student@2026-11-24",
    "store#@2026-11-24",
    "night#3",
    "monkey=banana",
    "response=completion",
    "s3://bucket/token_counts/token=7/tokens.parquet",
    "/data/secret-garden/password-puzzles.jsonl",
    "/data/api_keys_explained.jsonl",
    "qwen2.5:7b@v1.0",
    "deepseek-r1:32b@night",
    "task-" + "disk-" * 12,
    "hf_transfer",
    "hf_internal_testing_tiny_random_model",
    "sk-learn-pipeline",
    "AKIARA",
    "sha256:" + body(64, HEX),
    body(40, HEX),
    "You are a careful assistant. Bearer of good news, keep the key idea: think, then answer.",
    "Basic arithmetic and Basic internationalization; the token= of a text, its key = its subject.",
    "Reply to someone@example.org, or mailto:someone@example.org, at 12:30@noon.",
    "password: must be given; secret: none",
    "tokenizer.pad_token = tokenizer.eos_token, pad_token=<|endoftext|>, max_token=5",
    "got an unexpected keyword argument 'token'; password=None",
    '{"key": "corpus/a.parquet", "token": "Hello", "teacher": "a@b"}',
    "--batch-tokens 4096 --token-scores --tokens-from org/name",
    "100% of a@b, 50%25 of c:d@e",
    "<|im_start|>system\nYou are me@here: 1@2:3@4.<|im_end|>",
]  # fmt: skip

EVERY = pytest.mark.parametrize("shapes", KINDS.values(), ids=KINDS)


def plain(shape: str) -> str:
    return shape.replace("«", "").replace("»", "")


def secrets_of(shape: str) -> list[str]:
    return [part.partition("»")[0] for part in shape.split("«")[1:]]


def shown_of(secret: str, text: str) -> list[str]:
    """The parts of a secret that a text shows."""
    parts = [secret[i : i + PART] for i in range(max(1, len(secret) - PART + 1))]
    return [part for part in parts if part in text]


def check_gone(shape: str, text: str) -> None:
    around = re.sub("«.*?»", " ", shape)
    for secret in secrets_of(shape):
        assert not [part for part in shown_of(secret, text) if part not in around]


# --- every shape, at every way in and out----------------------------------------------------------


def test_there_are_many_of_both_kinds():
    assert len({*SHAPES}) == len(SHAPES) >= 230
    assert len({*HARMLESS}) == len(HARMLESS) >= 65
    assert all(
        secrets_of(shape) and all(len(s) >= PART for s in secrets_of(shape)) for shape in SHAPES
    )


@EVERY
def test_it_is_refused_without_being_quoted(shapes):
    for shape in shapes:
        with pytest.raises(UserError, match="^--store: contains what looks like credentials") as e:
            refuse_credentials("--store", plain(shape))
        check_gone(shape, str(e.value))
        with pytest.raises(UserError):
            refuse_credentials("--corpus", ("s3://bucket/x", plain(shape)))


@EVERY
def test_it_is_gone_after_scrub_and_nothing_else_comes_of_a_second_scrub(shapes):
    for shape in shapes:
        for text in (
            plain(shape),
            f"cannot open {plain(shape)}",
            f"OSError('{plain(shape)}')",
            json.dumps([plain(shape)]),
        ):
            once = scrub(text)
            check_gone(shape, once)
            assert HIDDEN in once, shape
            assert scrub(once) == once, shape


@EVERY
def test_it_is_gone_when_it_is_spelt_with_percent_signs(shapes):
    for shape, times in itertools.product(shapes, (1, 2)):
        text = plain(shape)
        for _ in range(times):
            text = quote(text, safe="")
        check_gone(shape, scrub(text))
        with pytest.raises(UserError):
            refuse_credentials("--store", text)


@EVERY
def test_it_is_gone_from_a_record_its_keys_and_its_lists(shapes):
    for shape in shapes:
        record = {
            "uri": plain(shape),
            plain(shape): 1,
            "n": [1, 2.5, None, True, (plain(shape), {"a": plain(shape)})],
        }
        kept = scrubbed(record)
        check_gone(shape, json.dumps(kept))
        assert kept["n"][:4] == [1, 2.5, None, True]


TEXT_SETTINGS = [
    (config, field.name)
    for config in (ScoreConfig, RaceConfig, ChooseConfig)
    for field in dataclasses.fields(config)
    if {str, tuple[str, ...]}
    & {kind := typing.get_type_hints(config)[field.name], *typing.get_args(kind)}
]
GIVEN = {"corpus": ("c",), "student": "hub/student-1", "store": "s", "out": "o"}


@pytest.mark.parametrize(("config", "name"), TEXT_SETTINGS)
def test_no_setting_takes_it(config, name):
    given = {f.name: GIVEN[f.name] for f in dataclasses.fields(config) if f.name in GIVEN}
    many = typing.get_type_hints(config)[name] == tuple[str, ...]
    for shape in by_turns(SHAPES, TEXT_SETTINGS.index((config, name))):
        with pytest.raises(UserError) as refused:
            config(**(given | {name: ("x", plain(shape)) if many else plain(shape)}))
        assert str(refused.value).startswith(
            f"--{name.replace('_', '-')}: contains what looks like credentials"
        )
        check_gone(shape, str(refused.value))


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_no_endpoint_of_the_environment_has_it(variable, monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for shape in [
        *SHAPES,
        f"me:«{PLAIN}»@minio:9000",
        f"«{ID}:{KEY}»@minio:9000",
        f"«{PLAIN}»@minio",
    ]:
        monkeypatch.setenv(variable, plain(shape))
        for ask in (
            lambda: endpoint_of(None),
            lambda: ScoreConfig(corpus=("c",), student="m", store="s"),
        ):
            with pytest.raises(UserError, match=f"^{variable}: contains") as refused:
                ask()
            check_gone(shape, str(refused.value))
    monkeypatch.setenv(variable, "http://localhost:9000")
    assert endpoint_of(None) == "http://localhost:9000"


def test_no_record_of_a_store_keeps_it(tmp_path):
    record = {
        "run_id": "r",
        "said": [plain(shape) for shape in SHAPES],
        "by": {plain(shape): n for n, shape in enumerate(SHAPES)},
    }
    put_record(str(tmp_path), "runs/r.json", record, None)
    kept = get_record(str(tmp_path), "runs/r.json", ("run_id",), None)
    assert kept["run_id"] == "r"
    for shape, said in zip(SHAPES, kept["said"], strict=True):
        check_gone(shape, said)
    assert {*kept["by"]} <= {*kept["said"]}


def test_no_log_line_shows_it(logged):
    log = logging.getLogger("rsr_ray")
    for shape in SHAPES:
        warn_once(f"cannot read {plain(shape)}")
        log.warning("the lease %s could not be written: %s", "s", OSError(plain(shape)))
    for shape, said, more in zip(SHAPES, logged.messages[::2], logged.messages[1::2], strict=True):
        check_gone(shape, said + more)


OPTIONS = (
    ["teachers", "--student", "m", "--store"],
    ["report", "--store", "s", "--out"],
    ["compare", "a"],
    ["check", "--store"],
)


@pytest.mark.parametrize("command", OPTIONS, ids=lambda command: command[0])
def test_the_command_line_refuses_it_in_one_line(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for shape in SHAPES[OPTIONS.index(command) :: 6 * len(OPTIONS)]:
        if plain(shape).startswith("-"):
            continue  # argparse takes it for an option
        assert main([*command, plain(shape)]) == 2
        out, err = capsys.readouterr()
        check_gone(shape, out + err)
        assert err.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_an_option_that_is_not_known_is_not_quoted(capsys):
    for shape in SHAPES[::20]:
        with pytest.raises(SystemExit):
            main(["score", f"--no-such={plain(shape)}"])
        check_gone(shape, capsys.readouterr().err)


# --- what is no credential-------------------------------------------------------------------------


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_harmless_is_taken_and_never_altered(text):
    refuse_credentials("--corpus", text)
    assert scrub(text) == text
    assert scrubbed({text: [text]}) == {text: [text]}


def test_harmless_settings_are_taken(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for text in HARMLESS:
        config = ScoreConfig(
            corpus=(text,), student="org/name@main", store="s", teacher=text, system_prompt=text
        )
        assert (config.teacher, config.system_prompt) == (text, text)


# --- any secret------------------------------------------------------------------------------------

IN_LOGIN = st.text(
    string.ascii_letters + string.digits + "+/=_-.~!$*(),&%:?#@", min_size=8, max_size=60
)
IN_PARAMETER = st.text(
    string.ascii_letters + string.digits + "+/=_-.~!$*(),:@", min_size=8, max_size=60
)
LOGINS = [
    shape.replace(PLAIN, "{}")
    for shape in URIS
    if shape.count(PLAIN) == 1 and f"me:«{PLAIN}»@" in shape and "://me" in shape
]
QUERIES = [
    shape.replace(PLAIN, "{}")
    for shape in PARAMETERS
    if shape.count(PLAIN) == 1 and "%" not in shape
]


@settings(max_examples=few(300, 25), deadline=None)
@given(st.sampled_from(LOGINS), IN_LOGIN)
@example(LOGINS[0], "12345678/abcdefgh")
@example(LOGINS[0], "00@0.AA?")
def test_any_password_is_gone(template, secret):
    secret = f"x{secret}"  # a port and a path may look like a password that begins with a number
    shape = template.replace("{}", secret.replace("%", "%25"))
    check_refused_and_gone(shape)


@settings(max_examples=few(300, 25), deadline=None)
@given(st.sampled_from(QUERIES), IN_PARAMETER)
def test_any_value_of_a_parameter_that_is_secret_is_gone(template, secret):
    check_refused_and_gone(template.replace("{}", secret))
    check_refused_and_gone(template.replace("{}", quote(secret, safe="")))


@settings(max_examples=few(100, 40), deadline=None)
@given(
    st.text(string.ascii_letters + string.digits, min_size=40, max_size=80),
    st.sampled_from(["hf_", "ghp_", "sk-", "npm_", "gsk_", "r8_"]),
)
def test_any_token_of_known_looks_is_gone(secret, prefix):
    check_refused_and_gone(f"see «{prefix}{secret}» there")


def check_refused_and_gone(shape: str) -> None:
    with pytest.raises(UserError):
        refuse_credentials("--store", plain(shape))
    check_gone(shape, scrub(f"cannot open {plain(shape)}: 403"))


@settings(max_examples=few(300, 25), deadline=None)
@given(st.text(st.sampled_from(":/@?&;#=%'\" \naA1.-_4025"), max_size=60) | st.text(max_size=60))
def test_scrubbing_ends_and_a_second_time_changes_nothing(text):
    once = scrub(text)
    assert scrub(once) == once


def test_what_the_environment_holds_as_secret_is_gone_however_it_is_spelt(monkeypatch):
    monkeypatch.setenv("SOME_SECRET", KEY)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/identity/file-of-it")
    for text in (
        f"said {KEY}.",
        f"said {quote(KEY, safe='')}.",
        f"said {quote(quote(KEY, safe=''), safe='')}.",
    ):
        assert scrub(text) == f"said {HIDDEN}."
    assert scrub("no /var/run/identity/file-of-it") == "no /var/run/identity/file-of-it"


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "a:",
        "a@",
        "a.b:c@",
        "a%25",
        "s3://a",
        "s3://a:b/",
        "?token=",
        "eyJ",
        "-eyJ",
        "%",
        "a=",
        " a",
        "/a:b@c",
    ],
)
@pytest.mark.timeout(60)
def test_long_texts_take_time_in_proportion(piece):
    # a square of it would take longer than the test may
    scrub(piece * (few(200_000, 50_000) // len(piece)))
