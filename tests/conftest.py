import os
from pathlib import Path

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The keys of the tests' own servers, there before any Ray worker starts; no test can reach a real account.
S3_KEYS = {"AWS_ACCESS_KEY_ID": "rsr-ray-test", "AWS_SECRET_ACCESS_KEY": "rsr-ray-test-secret", "AWS_REGION": "us-east-1"}
os.environ.update(S3_KEYS, AWS_REQUEST_CHECKSUM_CALCULATION="when_required")

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared" / "data"  # real trajectories, where this checkout has them beside it
DEMO_STUDENT = REPOSITORY / "rsr_ray" / "demo" / "student"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real corpus is not beside this checkout")


def pytest_collection_modifyitems(config, items):
    """What is `slow` runs where the expression of -m speaks of it, and not for any other expression."""
    if "slow" in config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


@pytest.fixture(scope="session")
def tokenizer():
    from rsr_ray.student import load_tokenizer

    return load_tokenizer(str(DEMO_STUDENT))


@pytest.fixture(scope="session")
def student():
    from rsr_ray.student import Student

    return Student(str(DEMO_STUDENT), "float32", "cpu")
