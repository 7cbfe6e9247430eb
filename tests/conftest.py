import copy
import gc
import logging
import os
import re
import sys
from pathlib import Path

import hypothesis
import pytest

gc.disable()  # until all is imported: see pytest_collection_finish
# Hundreds of processes import the package and its tests: only the first of them compiles each file.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.pop("COLUMNS", None)  # tables are as wide as they are by default, whoever runs the tests
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# One thread for each process, as replicas have: the threads of matrix libraries wait for each other
# by spinning, which costs up to five times the work on the small matrices of tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault(
        "TRITON_INTERPRET", "1"
    )  # kernels run on the CPU; read on Triton's import
# The keys of the tests' own servers, there before any Ray worker starts; no test can reach a real
# account.
S3_KEYS = {
    "AWS_ACCESS_KEY_ID": "rsr-ray-test",
    "AWS_SECRET_ACCESS_KEY": "rsr-ray-test-secret",
    "AWS_REGION": "us-east-1",
}
os.environ.update(S3_KEYS, AWS_REQUEST_CHECKSUM_CALCULATION="when_required")

REPOSITORY = Path(__file__).resolve().parents[1]
# real trajectories, where this checkout has them beside it
SHARED = REPOSITORY.parent / "shared" / "data"
DEMO_STUDENT = REPOSITORY / "rsr_ray" / "demo" / "student"

WHOLE = os.environ.get("RSR_RAY_WHOLE") == "1"
# No test is about the time that it takes: a busy machine fails none. Every day they try the same
# examples, so that a change fails for what it changes; others are tried with RSR_RAY_WHOLE=1.
hypothesis.settings.register_profile(
    "tests", deadline=None, derandomize=not WHOLE, max_examples=100 if WHOLE else 40
)
hypothesis.settings.load_profile("tests")


def few(n: int, every_day: int) -> int:
    """How often a random test is repeated: fewer times every day than with RSR_RAY_WHOLE=1."""
    return n if WHOLE else every_day


def by_turns(many: list, turn: int) -> list:
    """Every day a third of them for each of many cases, so that each is met; all with
    RSR_RAY_WHOLE=1.
    """
    return many if WHOLE else many[turn % 3 :: 3]


needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real corpus is not beside this checkout"
)


FOLDERS = ("browser", "cluster")  # whose tests have the folder's name as their mark


def pytest_ignore_collect(collection_path, config) -> bool | None:
    """Files of which -m wants no test are not imported."""
    wanted = config.option.markexpr
    if re.fullmatch(r"not \w+( and not \w+)*( or simulation)?", wanted):
        left_out = re.findall(r"not (\w+)", wanted)
        return (collection_path.name in FOLDERS and collection_path.name in left_out) or None
    is_own = collection_path.parent == Path(__file__).parent and collection_path.suffix == ".py"
    return (is_own and {*wanted.split(" or ")} <= {*FOLDERS}) or None


def pytest_xdist_auto_num_workers(config) -> int:
    """Tests without Ray and servers share out the processors; those with them take all of them."""
    alone = "not cluster" not in config.option.markexpr or config.option.capture == "no"
    return 0 if alone else os.cpu_count() or 1


def pytest_collection_modifyitems(config, items):
    """What is `slow` runs where -m speaks of it or the command line names it. A `simulation` is
    left out only where -m chooses among the others.
    """
    wanted = config.option.markexpr
    left_out = {"slow"} if not wanted else {"slow", "simulation"}
    left_out -= set(re.findall(r"\w+", wanted))
    if any("::" in argument for argument in config.args):
        left_out.clear()
    out = [item for item in items if any(map(item.get_closest_marker, left_out))]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


def pytest_collection_finish(session):
    """What importing made lives to the end: it is not looked through again and again."""
    gc.freeze()
    gc.enable()


class Logged(logging.Handler):
    """What is logged during a test. pytest's own plugin is off: before and after each test it looks
    at every logger there is, and there are 800.
    """

    def __init__(self):
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    @property
    def text(self) -> str:
        return "\n".join(self.messages)


@pytest.fixture
def logged(monkeypatch):
    handler, root = Logged(), logging.getLogger()
    monkeypatch.setattr(root, "handlers", [*root.handlers, handler])
    for logger in (root, logging.getLogger("rsr_ray")):
        monkeypatch.setattr(logger, "level", logging.INFO)
        monkeypatch.setattr(logger, "disabled", False)
    logging.getLogger("rsr_ray").manager._clear_cache()
    return handler


@pytest.fixture(scope="session")
def tokenizer():
    from rsr_ray.student.tokenizer import load_tokenizer

    return load_tokenizer(str(DEMO_STUDENT))


@pytest.fixture(scope="session")
def student():
    from rsr_ray.student.model import Student

    return Student(str(DEMO_STUDENT), "float32", "cpu")


@pytest.fixture
def templated(tokenizer):
    """The demo student's tokenizer with another chat template."""

    def with_template(template: str):
        other = copy.deepcopy(tokenizer)
        other.chat_template = template
        return other

    return with_template
