"""race: which teacher is best, from as few trajectories as the confidence allows.

    <store>/races/<race id>/round-<nn>/teacher=<name>/part-<hash>.jsonl   what a round had to score,
                                                                          as shards like any other
    <store>/races/<race id>/scores/, runs/, teachers/                     their scores: the race is
                                                                          itself a store
    <store>/races/<race id>/race.json                                     the answer

A pass over the corpus finds the matched prompts, those with an answer of every teacher. What the
store holds of a round's share of them is taken from there, and the rest is written as shards and
scored like any corpus into the race's own store: copies of a few columns are not what the store is
to hold, and would stay in it for good. What is scored is scored, so the same command goes on with
the same race. Who is still in after a round is elimination.py's to say.
"""

from collections.abc import Callable

from rsr_ray.config.race import RaceConfig
from rsr_ray.corpus.first_rows import check_readable
from rsr_ray.corpus.shards import list_corpus
from rsr_ray.files.objects import InputObject
from rsr_ray.race.answer import RaceAnswer, Round
from rsr_ray.race.course import Course
from rsr_ray.race.matched import Matched, build_index, digest
from rsr_ray.run.cluster import Cluster
from rsr_ray.run.resources import take
from rsr_ray.store.beside import NOTHING, HashOf
from rsr_ray.store.records import put_record
from rsr_ray.store.store import Store
from rsr_ray.student.facts import inspect_student

# Raised whenever the same settings would give another course of a race than before.
RACE_VERSION = 4
# The settings that a race is known by.
DECISIVE = (
    "teacher",
    "teacher_from",
    "columns",
    "roles",
    "teachers",
    "by",
    "confidence",
    "margin",
    "first_round",
    "keep_degenerate",
    "seed",
    "student_name",
)


def race(config: RaceConfig, say: Callable[[Round], None]) -> RaceAnswer:
    """Find the best teacher; the answer is also stored. `say` gets each round.

    Raises UserError and RunError as score_corpus does.
    """
    objects = list_corpus(config.corpus, config.s3_endpoint, config.store)
    check_readable(objects, config.s3_endpoint, config.reading.columns, config.stratum)
    student = inspect_student(config.student, config.trust_remote_code, config.template_text)
    store = Store(config.store, str(config.student_name), config.s3_endpoint)
    with Cluster(config.ray_address, config.log, verbose=config.verbose) as cluster:
        cluster.connect()
        resources = take(config)
        hash_of = config.hash_of(student, resources.dtype, config.length_limit(student))
        generation = store.find_generation(hash_of, config.beside)
        units = store.find_under(generation, new_generation=config.new_generation)
        own, fingerprint = _find_race(config, store, objects, hash_of)
        name = own.uri.rpartition("/")[2]
        own.check_access(name)
        matched = Matched.of(build_index(config, objects), config.teachers, config.seed)
        course = Course(config, objects, matched, own, fingerprint, resources.replicas, cluster)
        course.take_from(store, generation.fingerprint, list(units))
        while not course.state.finished and course.affordable:
            say(course.run_round())
    answer = course.answer(name)
    put_record(own.uri, "race.json", answer.to_json(), config.s3_endpoint)
    return answer


def _find_race(
    config: RaceConfig, store: Store, objects: list[InputObject], hash_of: HashOf
) -> tuple[Store, str]:
    """The race's own store, and the fingerprint of its scores.

    Earlier versions knew a race by what it kept beside the scores too: one that was begun so goes
    on.
    """
    of_earlier, of_now = hash_of(config.beside), hash_of(NOTHING)
    for fingerprint in dict.fromkeys([of_earlier, of_now]):
        name = race_id(config, objects, fingerprint)
        own = Store(f"{store.uri}/races/{name}", store.student_name, store.endpoint)
        if own.units().get(fingerprint):
            break
    return own, fingerprint


def race_id(config: RaceConfig, objects: list[InputObject], fingerprint: str) -> str:
    """The same for the same corpus and settings, whatever the budget, so that a race goes on."""
    settings = {name: getattr(config, name) for name in DECISIVE}
    settings["teachers"] = sorted({*config.teachers})
    corpus = [[obj.uri, obj.version] for obj in objects]
    return digest([RACE_VERSION, fingerprint, settings, corpus])[:16]
