"""loading: the score rows of a store -> the trajectories of a student, or of very many a sample
and what all of them come to.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.codes import sorted_codes_of
from rsr_ray.decide.buckets import Buckets, values_of
from rsr_ray.decide.kept import NUMBERS, find_kept
from rsr_ray.decide.scored import Scored
from rsr_ray.decide.views import Asked
from rsr_ray.decide.whole import Whole, columns_of, sum_up
from rsr_ray.errors import UserError
from rsr_ray.guard import JUDGED_BY, as_numbers
from rsr_ray.metrics import REGISTRY, RSR, Metric
from rsr_ray.store.score_files import ScoreFile, units_of
from rsr_ray.store.store import Store
from rsr_ray.store.teacher_rows import TeacherRow

LOCAL, SURPRISAL = REGISTRY["local_naturalness"], REGISTRY["mean_surprisal"]
MOST_ROWS = 1_000_000  # of more, those of a sample of prompts are kept, and sums over all
ROW = ["trajectory_id", "content", "sample", "source", "source_row"]
READERS = 8  # files read at once


def load_scored(
    store: Store,
    metrics: Iterable[Metric] = REGISTRY.values(),
    more: Iterable[str] = (),
    stratum: str | None = None,
    teachers: Iterable[str] = (),
) -> Scored:
    """The score rows that the store's teachers table was made of; `teachers` are the only ones, if
    any are given.

    They have the guard's columns; `more` names further number columns of SCORES, `stratum` a column
    that --stratum kept. A trajectory_id and content that a teacher has twice count once, the first
    by source and row. Of more than MOST_ROWS rows there are sums of all and a sample: they are for
    a ranking by the first of the metrics. If the store's rows are no longer those of the table,
    `notes` say so. Raises UserError if there are none, or --stratum did not keep `stratum`, or a
    teacher is not there, and StoreError for a broken file.
    """
    fingerprint = store.generation()
    files = store.score_files(fingerprint)
    metrics, more = list(metrics), [*more, *JUDGED_BY]
    scored = load_files(store, fingerprint, files, [*metrics, RSR], more, stratum, teachers)
    said = store.notes(fingerprint)
    if store.made_of().units and not gives(scored, store.read_teacher_rows()):
        said.append(
            f"{store.teachers_uri} does not match the scores in the store: the next run of "
            "rsr-ray score recreates it"
        )
    if teachers and not scored.told:
        scored = scored.only(teachers)
    return dataclasses.replace(scored, notes=(*said, *scored.notes))


def gives(scored: Scored, table: list[TeacherRow]) -> bool:
    """Whether rows give these TEACHERS rows: the same teachers, trajectories and rsr."""
    made_of = {t.teacher: t for t in table if t.n_trajectories}
    if scored.whole:
        return _are(scored.whole.every, made_of)
    every = scored.matrices(RSR)
    totals = zip(every.n.sum(0).tolist(), every.values().tolist(), strict=True)
    return _are(dict(zip(scored.teachers, totals, strict=True)), made_of)


def _are(every: dict[str, tuple[int, float]], made_of: dict[str, TeacherRow]) -> bool:
    """Whether teachers with so many trajectories and such an rsr are those of a table."""
    if [*every] != sorted(made_of):
        return False
    if any(n != made_of[name].n_trajectories for name, (n, _) in every.items()):
        return False
    values = np.array([made_of[name].rsr for name in every], np.float64)
    return np.allclose([rsr for _, rsr in every.values()], values, rtol=1e-9, atol=0)


def load_files(
    store: Store,
    fingerprint: str,
    files: list[ScoreFile],
    metrics: list[Metric],
    more: Iterable[str] = (),
    stratum: str | None = None,
    teachers: Iterable[str] = (),
    share: float = 1.0,
) -> Scored:
    """The score rows of these files, as `load_scored` has them; `teachers` count for sums only.

    With a `share` below 1, all answers to that share of the prompts: those with the least hashes,
    the same in every store. Raises UserError where there are none, or they were scored without
    --stratum `stratum`.
    """
    if not files:
        raise UserError(
            f"store {store.uri}: no scores of student {store.student_name}: run rsr-ray score"
        )
    metrics = list(dict.fromkeys([*metrics, *([SURPRISAL] if LOCAL in metrics else [])]))
    numbers = columns_of(metrics, more)
    n_rows = sum(file.n_rows for file in files)
    if share == 1 and n_rows > MOST_ROWS:
        asked = Asked(metrics, tuple(teachers), sample_share=MOST_ROWS / n_rows)
        return _load_very_many(store, fingerprint, files, asked, numbers, stratum)
    prompts = None if share == 1 else (-(2**63), -(2**63) + int(share * 2**64))

    def read(file: ScoreFile) -> pa.Table:
        return _read_rows(store, fingerprint, file, numbers, stratum, prompts)

    with ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(read, files))
    if sum(table.num_rows for table in tables):
        return _each_once(pa.concat_tables(tables).unify_dictionaries().combine_chunks(), numbers)
    raise _all_rejected(store)


def _load_very_many(
    store: Store,
    fingerprint: str,
    files: list[ScoreFile],
    asked: Asked,
    numbers: list[str],
    stratum: str | None,
) -> Scored:
    """A sample, and what all rows come to: what is kept of them, or in a pass over them."""
    is_kept = numbers == NUMBERS and asked.metrics == [RSR] and not asked.teachers
    kept = find_kept(store, fingerprint, units_of(files)) if is_kept and not stratum else None
    if kept and len(kept.ends):
        return _sampled(kept.whole(store, files, asked.sample_share))
    with Buckets(store, fingerprint, numbers, stratum=stratum) as buckets:
        buckets.fill(files)
        if buckets.names["teacher"]:
            return _sampled(sum_up(buckets, asked))
        raise _all_rejected(store)


def _all_rejected(store: Store) -> UserError:
    return UserError(
        f"store {store.uri}: no row of student {store.student_name} was scored: every row was "
        "rejected; rsr-ray rejects lists them"
    )


def _sampled(whole: Whole) -> Scored:
    """The sample of very many rows, and what all of them come to."""
    sample, names, told = whole.sample, whole.names, whole.told
    place = {name: t for t, name in enumerate(told.teachers)}
    teacher = np.array([place.get(name, -1) for name in names["teacher"]])[sample.rows["teacher"]]
    scored = Scored(
        told.teachers,
        pa.array(sample.prompts),
        teacher,
        sample.prompt,
        {name: sample.rows[name].copy() for name in whole.numbers},
        pa.table(
            {"source_row": sample.rows["source_row"]}
            | {name: _named(sample.rows[name], names[name]) for name in ("source", "unit")}
        ),
        told=told,
        whole=whole,
    )
    if "stratum" in names:
        of_rows = _named(sample.rows["stratum"], names["stratum"])
        scored = dataclasses.replace(scored, stratum=of_rows.cast(pa.string()))
    return dataclasses.replace(scored, notes=(*_notes_on(scored, whole),))


def _notes_on(scored: Scored, whole: Whole) -> Iterator[str]:
    if n := whole.n_without_value:
        note = f"{n:,} trajectories have no {whole.told.by} and are left out"
        if gone := sorted({*whole.ranked} - {*scored.teachers}):
            note += f", and so are the teachers {', '.join(gone)}"
        yield note
    yield (
        "quartiles, rank correlations, verdicts and the test of degenerate trajectories are of "
        f"{len(scored.teacher):,} of the {scored.n_trajectories:,} trajectories: all answers to "
        f"{len(scored.prompts):,} prompts, drawn at random"
    )


def load_ends(store: Store, scored: Scored, values: np.ndarray) -> tuple[Scored, np.ndarray]:
    """Trajectories with their values [N] of the metric that they are ranked by: of a sample, the
    best and the worst ones of all (ends.py), with their ids.
    """
    if not scored.whole:
        return scored, values
    fingerprint, whole = store.generation(), scored.whole
    file_of = {name: file for file in store.score_files(fingerprint) for name in file.units}

    def read(row: np.void) -> pa.Table:
        unit, source = (whole.names[n][row[n]] for n in ("unit", "source"))
        file, prompt = file_of[unit], int(row["prompt_hash"])
        wanted = ["prompt_id", *ROW, "unit"]
        some = (prompt, prompt + 1) if file.is_part else None  # others are not sorted by it
        found = store.read_score_file(fingerprint, file, wanted, some)
        is_it = pc.and_(pc.equal(found["source"], source), pc.equal(found["unit"], unit))
        is_row = pc.equal(found["source_row"], int(row["source_row"]))
        return found.filter(pc.and_(is_it, is_row)).slice(0, 1)

    with ThreadPoolExecutor(READERS) as pool:
        rows = pa.concat_tables(pool.map(read, whole.ends)).unify_dictionaries().combine_chunks()
    place = {name: t for t, name in enumerate(scored.teachers)}
    ends = Scored(
        scored.teachers,
        _text(rows["prompt_id"]),
        np.array([place[whole.names["teacher"][t]] for t in whole.ends["teacher"]]),
        np.arange(len(rows)),
        {name: whole.ends[name] for name in whole.numbers},
        rows.select([*ROW, "unit"]),
    )
    return ends, whole.ends_values


def _named(numbers: np.ndarray, names: list[str]) -> pa.DictionaryArray:
    """Names of rows [N] by number; null for -1."""
    codes = pa.array(numbers, pa.int32(), mask=numbers < 0)
    return pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string()))


def _read_rows(
    store: Store,
    fingerprint: str,
    file: ScoreFile,
    numbers: list[str],
    stratum: str | None,
    prompts: tuple[int, int] | None,
) -> pa.Table:
    """The scored rows of a file, without its rejects; names are dictionary-encoded."""
    columns = ["teacher", "prompt_id", "reject_reason", *ROW, "unit", *numbers]
    columns += ["strata"] if stratum else []
    table = store.read_score_file(fingerprint, file, columns, prompts)
    table = table.filter(table["reject_reason"].is_null()).drop_columns(["reject_reason"])
    if stratum:
        strata = values_of(table["strata"], stratum)
        table = table.drop_columns(["strata"]).append_column("stratum", strata)
    for column in ("teacher", "source", *(["stratum"] if stratum else [])):
        place = table.schema.get_field_index(column)
        table = table.set_column(place, column, table[column].dictionary_encode())
    return table


def _each_once(rows: pa.Table, numbers: list[str]) -> Scored:
    """Rows with trajectories that a teacher has twice, each trajectory once: its first row by
    source and row.
    """
    teacher, teachers = sorted_codes_of(rows["teacher"])
    trajectory, _ = sorted_codes_of(rows["trajectory_id"])
    content, _ = sorted_codes_of(pc.fill_null(rows["content"], ""))
    source, _ = sorted_codes_of(rows["source"])
    order = np.lexsort((rows["source_row"].to_numpy(), source, content, trajectory, teacher))
    first = np.ones(len(order), bool)
    first[1:] = np.logical_or.reduce(
        [np.diff(code[order]) != 0 for code in (teacher, trajectory, content)]
    )
    order = order[first]
    prompt, prompts = sorted_codes_of(rows["prompt_id"].take(pa.array(order)))
    return Scored(
        teachers.to_pylist(),
        prompts,
        teacher[order],
        prompt,
        {name: as_numbers(rows[name])[order] for name in numbers},
        rows.select([*ROW, "unit"]).take(pa.array(order)),
        stratum=_text(rows["stratum"].take(pa.array(order)))
        if "stratum" in rows.column_names
        else None,
    )


def _text(column: pa.ChunkedArray) -> pa.Array:
    whole = pc.cast(column, pa.string()).combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
