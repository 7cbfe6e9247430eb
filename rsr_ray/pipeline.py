"""The whole path on one screen: read -> encode -> score -> reduce."""

import sys
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy

from rsr_ray.cluster import REPLICA_CPUS, TASK_CPUS, Resources, connect, one_block_a_row, take
from rsr_ray.config import ScoreConfig
from rsr_ray.encode import Encode, How
from rsr_ray.lease import alone, at_work
from rsr_ray.plan import make_plan
from rsr_ray.read import find_corpus, list_corpus, read_units
from rsr_ray.reduce import reduce_scores
from rsr_ray.run import Run
from rsr_ray.score import Score, Wanted
from rsr_ray.store import Store
from rsr_ray.student import StudentFacts, inspect_student
from rsr_ray.units import n_rows


def score_corpus(config: ScoreConfig) -> Run:
    """Score what is new in a corpus and rank its teachers. When it returns, the row equation holds.

    Raises UserError for what the user can mend and RunError for a broken run; either way what was finished is kept.
    """
    run = Run(config)
    files, skipped = find_corpus(config.corpus, config.s3_endpoint, config.store)
    if skipped:
        run.log("part of the corpus skipped", skipped=skipped)
        if config.log == "text":
            print(skipped, file=sys.stderr)
    run.reading = make_plan(files, config.s3_endpoint, config.reading)
    run.shape = run.reading.shape
    student = inspect_student(config.student, config.trust_remote_code, config.template_text)
    store = Store(config.store, str(config.student_name), config.s3_endpoint)
    store.check_writable(run.run_id)

    with connect(config.ray_address, config.log):
        resources = take(config)
        run.settle(student, resources)
        with at_work(store, run.fingerprint):
            objects = run.find(store, files)
            todo = run.plan(objects)
            if todo.num_rows:
                with one_block_a_row():
                    units = build_scores(todo, run, student, resources, store)
                for unit in units.iter_rows():
                    run.count(unit)
                files = list_corpus(config.corpus, config.s3_endpoint, config.store)
            run.check_equation()
            run.tidy(store, objects, files)
            run.teachers = make_teachers(store, run.fingerprint)
            store.write_run(run.finish())
    return run


def make_teachers(store: Store, fingerprint: str) -> pa.Table:
    """The TEACHERS table of all units that are there: the stored one if it is of them as they are, else made anew and stored.

    Of runs that end together each makes it in its turn, so that the last has what all of them wrote.
    """
    teachers = store.current_teachers(store.counted(fingerprint))
    if teachers is not None:
        return teachers
    with alone(store):
        units = store.counted(fingerprint)  # before they are read: one that is replaced meanwhile has another version
        teachers = store.current_teachers(units)
        if teachers is None:
            teachers = reduce_scores(store, fingerprint, list(units), n_rows(units))
            store.write_teachers(teachers, units)
    return teachers


def build_scores(todo: pa.Table, run: Run, student: StudentFacts, resources: Resources, store: Store) -> ray.data.Dataset:
    """The lazy dataset that scores input objects and writes their units; its rows are bookkeeping.

    A row between the stages is one work unit, so a block, a task, a retry and a file are one unit each. A replica writes
    a unit before it takes the next: what a killed run does again is at most one unit a replica.
    """
    config = run.config
    task: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "num_cpus": TASK_CPUS}
    objects = ray.data.from_arrow([todo.slice(i, 1) for i in range(todo.num_rows)])
    units = objects.map_batches(read_units, fn_args=(config.s3_endpoint, config.unit_rows, config.reading), **task)
    how = How.of(config, student)
    encoded = units.map_batches(Encode(student.source, how), **task)
    load = {
        "source": student.source,
        "dtype": resources.dtype,
        "trust_remote_code": config.trust_remote_code,
        "spread": resources.gpus_per_replica > 1,
        "quantize": config.quantize,
        "expected": student,
    }
    return encoded.map_batches(
        Score,
        fn_constructor_args=(load, Wanted.of(config, how.max_length), resources.batch_tokens, run.fingerprint, run.run_id, store),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=resources.replicas, max_tasks_in_flight_per_actor=2),
        num_cpus=REPLICA_CPUS,
        num_gpus=resources.gpus_per_replica,
    )
