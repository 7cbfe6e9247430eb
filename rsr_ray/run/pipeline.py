"""The whole path on one screen: read -> encode -> score -> reduce."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.config.score import ScoreConfig
from rsr_ray.corpus.plan import make_plan
from rsr_ray.corpus.shards import find_corpus, list_corpus
from rsr_ray.corpus.units import read_units
from rsr_ray.encode.encode import Encode
from rsr_ray.encode.how import How
from rsr_ray.errors import RunError, UserError, one_line
from rsr_ray.files.objects import InputObject
from rsr_ray.run.cluster import KEPT, Cluster
from rsr_ray.run.counts import WrittenUnit
from rsr_ray.run.datasets import one_block_a_row, shared_out
from rsr_ray.run.display import shown
from rsr_ray.run.figures import note_run
from rsr_ray.run.here import Encoder, fits_here, resources_here
from rsr_ray.run.ledger import Run
from rsr_ray.run.reduce import reduce_scores
from rsr_ray.run.resources import (
    AUTO_DTYPES,
    REPLICA_CPUS,
    TASK_CPUS,
    flops_of,
    suited_dtype,
    take,
)
from rsr_ray.run.score import Replica, Score, Wanted
from rsr_ray.store.compaction import compact
from rsr_ray.store.lease import alone, at_work
from rsr_ray.store.run_record import RunRecord
from rsr_ray.store.store import Store
from rsr_ray.student.facts import StudentFacts, identify, inspect_identified

if TYPE_CHECKING:
    import ray.data


def score_corpus(config: ScoreConfig, cluster: Cluster | None = None, label: str = "") -> Run:
    """Score what is new in a corpus and rank its teachers. When it returns, the row equation holds.

    Starts Ray, or connects to `cluster`, only if there is something to score. `label` names the run
    in its progress if there are several. Raises UserError for what the user can fix, and RunError
    if the run fails; finished work is kept in both cases.
    """
    run = Run(config)
    try:
        run_through(run, cluster, label)
    except UserError:  # a mistake in the settings: nothing was run
        raise
    except Exception as e:
        note_run(run, str(e))
        raise
    note_run(run, run.problem)
    return run


def run_through(run: Run, cluster: Cluster | None = None, label: str = "") -> None:
    """What `score_corpus` does, but for the figures that outlive a run."""
    config = run.config
    files = read_plan(run)
    store = Store(config.store, str(config.student_name), config.s3_endpoint)
    store.check_access(run.run_id)
    run.identity = identify(config.student, config.trust_remote_code, config.template_text)
    cluster = cluster or Cluster(config.ray_address, config.log, verbose=config.verbose)
    with cluster, Encoder() as encoder:
        is_here = fits_here(config, cluster, [f.uri for f in files], sum(f.size for f in files))
        student, dtype = find_student(run, store, encoder if is_here else cluster)
        run.settle(store, student, dtype)
        with at_work(store, run.fingerprint):
            objects = run.units.find(store, run.generation, files)
            todo = run.plan(objects)
            if todo.num_rows:
                units = scored_units(todo, run, student, store, cluster, encoder)
                with shown(run.follow(label).state, config.log):
                    for unit in units:
                        run.count(unit)
                files = list_corpus(config.corpus, config.s3_endpoint, config.store)
            run.check_equation()
            run.units.tidy(store, run.fingerprint, objects, files)
            run.teachers = make_teachers(store, run.fingerprint, run.units.marks)
            store.write_run(run.finish())
            compact(store, run.fingerprint)


def read_plan(run: Run) -> list[InputObject]:
    """The files of the corpus, once it is known how they are read. Raises UserError."""
    config = run.config
    files, skipped = find_corpus(config.corpus, config.s3_endpoint, config.store)
    if skipped:
        run.log("part of the corpus skipped", skipped=skipped)
        if config.log == "text":
            print(skipped, file=sys.stderr)
    run.reading = make_plan(files, config.s3_endpoint, config.reading)
    run.shape = run.reading.shape
    return files


def find_student(run: Run, store: Store, place: Cluster | Encoder) -> tuple[StudentFacts, str]:
    """The facts of the student, and the dtype it is scored in; `place` is where: a cluster, or
    this process and its encoder.
    """
    config = run.config
    last = store.last_run()
    if last is not None and last.identity == run.identity:
        student = last.student
    else:
        student = meet_student(config, run.identity, place)
    return student, find_dtype(config, student, last, place)


def meet_student(config: ScoreConfig, identity: str, place: Cluster | Encoder) -> StudentFacts:
    """Inspect a student that the store does not know.

    It has something to score: meanwhile the cluster connects, or the encoder starts.
    """
    pool = ThreadPoolExecutor(1)
    how = (config.student, config.trust_remote_code, config.template_text)
    inspected = pool.submit(inspect_identified, identity, *how)
    pool.shutdown(wait=False)  # a command that is told to end does not wait for it
    if isinstance(place, Cluster):
        place.connect()
    else:
        place.start(config.student)
    return inspected.result()


def find_dtype(
    config: ScoreConfig, student: StudentFacts, last: RunRecord | None, place: Cluster | Encoder
) -> str:
    """What --dtype says; for auto that of the last run, if it was of these settings, else what
    suits the cluster, or this machine's CPUs.
    """
    if config.dtype != "auto":
        return config.dtype
    was = last.resources.dtype if last else ""
    if (
        last
        and was in AUTO_DTYPES.values()
        and config.has_made(last, student, was, config.length_limit(student))
    ):
        return was
    if isinstance(place, Encoder):
        return AUTO_DTYPES["cpu"]
    place.connect()
    return suited_dtype(config)


def scored_units(
    todo: pa.Table,
    run: Run,
    student: StudentFacts,
    store: Store,
    cluster: Cluster,
    encoder: Encoder,
) -> Iterable[WrittenUnit]:
    """Bookkeeping of the units of these objects, as they are written: here, or on the cluster."""
    config = run.config
    n_bytes = pc.sum(todo["size"]).as_py()
    if fits_here(config, cluster, todo["uri"].to_pylist(), n_bytes):
        run.use(resources_here(config))
        return score_here(todo, run, student, store, encoder)
    cluster.connect()
    run.use(take(config, flops_of(student.source, n_bytes)))
    with one_block_a_row():
        written: Iterable[Any] = build_scores(todo, run, student, store).iter_batches(
            batch_size=None,
            batch_format="pyarrow",
            prefetch_batches=0,  # else a unit is heard of when the next one is written
        )
        return (WrittenUnit.of(row) for table in written for row in table.to_pylist())


def make_teachers(
    store: Store, fingerprint: str, marks: Mapping[str, str] | None = None
) -> pa.Table:
    """The TEACHERS table of all units that are there: the stored one if it is of them as they are,
    else made anew and stored. `marks` are what a run knows of what they have beside their scores.

    Of runs that end together each makes it in its turn, so that the last has what all of them
    wrote.
    """
    teachers = store.current_teachers(store.counted(fingerprint), marks)
    if teachers is not None:
        return teachers
    with alone(store):
        # before they are read: one that is replaced meanwhile has another version
        units = store.counted(fingerprint)
        teachers = store.current_teachers(units)
        if teachers is None:
            teachers = reduce_scores(store, fingerprint, units)
        store.write_teachers(
            teachers, units, {**store.made_of().known_marks(units), **(marks or {})}
        )
    return teachers


def build_scores(
    todo: pa.Table, run: Run, student: StudentFacts, store: Store
) -> "ray.data.Dataset":
    """The lazy dataset that scores input objects and writes their units; its rows are bookkeeping.

    A row between the stages is one work unit: a block and a file are one unit each. A replica
    writes a unit before it takes the next: what a killed run does again is at most one unit a
    replica.
    """
    import ray.data
    from ray.data import ActorPoolStrategy

    config, resources = run.config, run.resources
    task: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "num_cpus": TASK_CPUS}
    objects = ray.data.from_arrow(shared_out(todo, resources.replicas))
    units = objects.map_batches(
        read_units,
        fn_args=(config.s3_endpoint, config.unit_rows, config.reading_for(student)),
        **task,
    )
    encoded = units.map_batches(Encode(student.source, How.of(config, student)), **task)
    return encoded.map_batches(
        Score,
        fn_constructor_args=(replica(run, student, store),),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=resources.replicas, max_tasks_in_flight_per_actor=2),
        num_cpus=REPLICA_CPUS,
        num_gpus=resources.gpus_per_replica,
    )


def score_here(
    todo: pa.Table, run: Run, student: StudentFacts, store: Store, encoder: Encoder
) -> Iterator[WrittenUnit]:
    """What `build_scores` does, in this process: bookkeeping of the units, as they are written.

    Raises RunError where it breaks, as a run on Ray does.
    """
    config, how = run.config, How.of(run.config, student)
    try:
        encoder.start(student.source)
        score = Score(replica(run, student, store))
        reading = config.reading_for(student)
        units = read_units(todo, config.s3_endpoint, config.unit_rows, reading)
        for unit in encoder.encoded(units, student.source, how):
            yield from map(WrittenUnit.of, score(unit).to_pylist())
    except (UserError, RunError):
        raise
    except Exception as e:
        raise RunError(f"{type(e).__name__}: {one_line(e)}. {KEPT}") from e


def replica(run: Run, student: StudentFacts, store: Store) -> Replica:
    """What each replica of a run is made of."""
    config, resources = run.config, run.resources
    return Replica(
        student=student,
        dtype=resources.dtype,
        trust_remote_code=config.trust_remote_code,
        spread=resources.gpus_per_replica > 1,
        quantize=config.quantize,
        wanted=Wanted.of(config, config.length_limit(student)),
        batch_tokens=resources.batch_tokens,
        generation=run.generation,
        beside=config.beside,
        loads=run.needs_student,
        run_id=run.run_id,
        store=store,
    )
