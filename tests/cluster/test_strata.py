"""Strata by the commands: the demo's problems from two sources, in one of which two teachers have
changed roles.
"""

import json
import random

import pandas as pd
import pytest

from rsr_ray.demo.corpus import conversation, make_problem
from rsr_ray.store.store import Store

from .conftest import rsr_ray
from .test_here import command, last_record

pytestmark = pytest.mark.usefixtures("here")

ROLES = {"doubtful-32b-think": "flowery-8b", "flowery-8b": "doubtful-32b-think"}
TEACHERS = (*ROLES, "looping-3b")
N = 40  # problems


def write_corpus(folder) -> None:
    """Problems by turns from the sources school and street; in street the first two teachers
    answer as each other.
    """
    rng = random.Random(3)
    problems = [make_problem(rng) for _ in range(N)]
    for teacher in TEACHERS:
        shard = folder / f"teacher={teacher}" / "part.jsonl"
        shard.parent.mkdir(parents=True)
        lines = []
        for i, problem in enumerate(problems):
            source = "street" if i % 2 else "school"
            writer = ROLES.get(teacher, teacher) if source == "street" else teacher
            row = {"id": f"{teacher}/{i}", "prompt_id": f"p{i}", "meta": {"source": source}}
            lines.append(json.dumps(row | {"messages": conversation(writer, problem, rng)}))
        shard.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def scored(here, tmp_path_factory):
    """Corpus, store and options of a run with --stratum."""
    folder = tmp_path_factory.mktemp("strata")
    write_corpus(folder / "corpus")
    options = command(folder / "corpus", folder / "store", "--stratum", "meta.source")
    done = rsr_ray(*options)
    assert done.returncode == 0, done.stderr
    return folder / "store", options


def test_an_order_that_flips_by_source_is_found(scored):
    store, _ = scored
    student = next(iter(Store.students(str(store), None)))
    options = ("teachers", "--store", str(store), "--student", student)
    done = rsr_ray(*options, "--by-stratum", "meta.source", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["strata"]
    found_values = {
        (one["stratum"], t["teacher"]): t["value"]
        for one in found["strata"]
        for t in one["ranking"]["teachers"]
    }
    units = Store(str(store), student)
    ((fingerprint, names),) = units.units().items()
    rows = pd.DataFrame(
        [
            row
            for name in names
            for row in units.read_unit(fingerprint, name).to_pylist(maps_as_pydicts="strict")
        ]
    )
    rows["stratum"] = rows.strata.map(lambda strata: strata["meta.source"])
    means = rows.groupby(["stratum", "teacher"])[["mean_rank", "mean_surprisal"]].mean()
    values = (means.mean_rank / means.mean_surprisal).to_dict()
    assert found_values == pytest.approx(values)
    (change,) = (one for one in found["changes"] if one["more_than_noise"])
    assert {change["a"], change["b"]} == {*ROLES}
    assert {*change["a_surely"], *change["b_surely"]} == {"school", "street"}
    assert found["sentence"].startswith("The order of teachers depends on meta.source: ")
    shown = rsr_ray(*options, "--by-stratum", "meta.source")
    assert found["sentence"] in " ".join(shown.stdout.split())


def test_the_same_command_goes_on_and_one_without_it_is_refused(scored):
    store, options = scored
    assert rsr_ray(*options).returncode == 0
    assert last_record(store)["equation"]["already_scored"] == N * len(TEACHERS)
    refused = rsr_ray(*options[:-2])
    assert refused.returncode == 2
    assert "--new-generation" in refused.stderr
