"""The commands that answer from a store: teachers, compare, choose, arms, report,
correlate.

What a command needs is imported when it runs, because --help may not wait for it.
"""

import dataclasses
import json
from typing import TYPE_CHECKING

from rsr_ray.cli.next_step import print_next
from rsr_ray.config.answers import (
    CompareConfig,
    CorrelateConfig,
    ReportConfig,
    TeachersConfig,
    weights_of,
)
from rsr_ray.config.arms import ArmsConfig
from rsr_ray.config.choose import ChooseConfig, PoolConfig
from rsr_ray.config.command_line import command_line
from rsr_ray.errors import safe

if TYPE_CHECKING:
    from rsr_ray.decide.outcome import Outcome
    from rsr_ray.decide.scored import Scored
    from rsr_ray.decide.strata_ranking import StrataRanking
    from rsr_ray.metrics import Metric
    from rsr_ray.store.store import Store


def teachers(config: TeachersConfig, as_json: bool) -> int:
    from rsr_ray.decide.loading import load_scored
    from rsr_ray.decide.naturalness import LOCAL, naturalness
    from rsr_ray.decide.ranking import rank_teachers
    from rsr_ray.metrics import find_metric
    from rsr_ray.report.terminal.console import console
    from rsr_ray.report.terminal.naturalness import print_naturalness
    from rsr_ray.report.terminal.outcome import print_outcome
    from rsr_ray.report.terminal.ranking import print_ranking
    from rsr_ray.report.terminal.strata import print_strata
    from rsr_ray.store.store import Store

    metric = find_metric(config.by, config.segment)
    store = Store(config.store, config.student, config.s3_endpoint)
    table = store.read_teacher_rows()
    scored = load_scored(
        store, [metric], stratum=config.by_stratum, teachers=config.teachers
    ).valued(metric)
    ranking = rank_teachers(scored, metric, confidence=config.confidence, seed=config.seed)
    beside = naturalness(scored) if metric is LOCAL else None
    by_verdict = _outcome(store, scored, metric, config) if config.verified else None
    strata = _strata(scored, metric, config) if config.by_stratum else None
    if as_json:
        answer = {"student": config.student, **ranking.to_json()}
        parts = {"naturalness": beside, "outcome": by_verdict, "strata": strata}
        answer |= {name: part.to_json() for name, part in parts.items() if part}
        print(json.dumps({**answer, "table": [row.to_json() for row in table]}))
        return 0
    if strata:
        print_strata(strata, config.student, console())
    else:
        print_ranking(ranking, table, config.student, console())
    if beside and not strata:
        # the ranking's own notes hold them
        print_naturalness(dataclasses.replace(beside, notes=[]), console())
    if by_verdict:
        print_outcome(by_verdict, ranking, console())
    print_next(_choose_line(config, config.student, config.verified, config.segment))
    return 0


def _choose_line(
    config: TeachersConfig | ReportConfig,
    student: str,
    verified: str | None = None,
    segment: str | None = None,
    out: str = "sft",
) -> str:
    """The choice of training data from what was ranked."""
    return command_line(
        "choose",
        store=config.store,
        student=student,
        by=None if config.by == ChooseConfig.by else config.by,
        segment=segment,
        teachers=config.teachers,
        verified=verified,
        out=out,
        s3_endpoint=config.s3_endpoint,
    )


def _outcome(
    store: "Store", scored: "Scored", metric: "Metric", config: TeachersConfig
) -> "Outcome":
    """The metric beside the verdicts of the corpus, and the ranking on right answers."""
    from rsr_ray.decide.outcome import outcome
    from rsr_ray.decide.verified import read_verdicts

    column = str(config.verified)
    return outcome(
        scored,
        metric,
        column,
        read_verdicts(store, scored, column),
        confidence=config.confidence,
        seed=config.seed,
    )


def _strata(scored: "Scored", metric: "Metric", config: TeachersConfig) -> "StrataRanking":
    from rsr_ray.decide.strata_ranking import rank_strata

    return rank_strata(
        scored,
        metric,
        str(config.by_stratum),
        weights=weights_of(config),
        confidence=config.confidence,
        seed=config.seed,
    )


def compare(config: CompareConfig, as_json: bool) -> int:
    from rsr_ray.decide.comparison import compare_sides
    from rsr_ray.decide.sides import open_side
    from rsr_ray.metrics import find_metric
    from rsr_ray.report.terminal.comparison import print_comparison
    from rsr_ray.report.terminal.console import console

    metric = find_metric(config.by)
    a, b = (open_side(text, config.s3_endpoint) for text in (config.a, config.b))
    comparison = compare_sides(
        a, b, metric, confidence=config.confidence, seed=config.seed, anyway=config.anyway
    )
    if as_json:
        print(json.dumps(comparison.to_json()))
    else:
        print_comparison(comparison, console())
    return 0


def choose(config: ChooseConfig, as_json: bool) -> int:
    from rsr_ray.choose.choose import choose_trajectories
    from rsr_ray.report.terminal.choice import print_choice
    from rsr_ray.report.terminal.console import console

    manifest = choose_trajectories(config)
    if as_json:
        print(json.dumps(manifest.to_json()))
    else:
        print_choice(manifest, console())
        print_next(_load_line(config, config.out))
    return 0


def arms(config: ArmsConfig, as_json: bool) -> int:
    from rsr_ray.arms.arms import make_arms
    from rsr_ray.report.terminal.arms import print_arms
    from rsr_ray.report.terminal.console import console

    manifest = make_arms(config)
    if as_json:
        print(json.dumps(manifest.to_json()))
    else:
        print_arms(manifest, console())
        print_next(_load_line(config, manifest.arms[0].folder))
    return 0


def _load_line(config: PoolConfig, folder: str) -> str:
    """How Python loads what was written to a folder: a local one with the types of its card."""
    what = json.dumps(folder)
    if "://" in folder:
        kind = "json" if config.format == "jsonl" else config.format
        what = f"{json.dumps(kind)}, data_files={json.dumps(f'{folder}/train-*')}"
    return f"load_dataset({what})  # in Python, from datasets"


def report(config: ReportConfig, as_json: bool) -> int:
    from rsr_ray.metrics import find_metric
    from rsr_ray.report.page.report import make_report, students_of
    from rsr_ray.report.page.write import write_files

    report = make_report(
        students_of(config.store, list(config.student), config.s3_endpoint),
        find_metric(config.by),
        confidence=config.confidence,
        seed=config.seed,
        teachers=config.teachers,
        tokens_from=config.tokens_from,
        by_stratum=config.by_stratum,
        stratum_weights=weights_of(config),
    )
    for student in report.students:
        print(safe(f"{student.student}: {student.answer}"))
    for uri in write_files(report, config.out, config.s3_endpoint):
        print(uri)
    names = [student.student for student in report.students]
    for name in names:
        print_next(_choose_line(config, name, out="sft" if len(names) == 1 else f"sft-{name}"))
    return 0


def correlate(config: CorrelateConfig, as_json: bool) -> int:
    from rsr_ray.decide.agreement import agreement
    from rsr_ray.decide.correlation import correlate
    from rsr_ray.decide.evidence import from_store, from_table, set_cells, without
    from rsr_ray.decide.paper import compare_with_paper

    if config.table:
        evidence = from_table(config.table, config.s3_endpoint)
    else:
        evidence = from_store(str(config.store), str(config.accuracies), config.s3_endpoint)
    evidence = without(set_cells(evidence, list(config.set)), list(config.without))
    found = correlate(evidence, list(config.by) or None, config.permutations)
    paper = compare_with_paper(evidence, found.metrics)
    on_prompts = agreement(evidence, list(config.by) or None)
    if as_json:
        beside = {
            "paper": paper and paper.to_json(),
            "agreement": on_prompts and on_prompts.to_json(),
        }
        print(json.dumps(found.to_json() | beside))
        return 0
    from rsr_ray.report.terminal.agreement import print_agreement
    from rsr_ray.report.terminal.console import console
    from rsr_ray.report.terminal.correlation import print_correlations
    from rsr_ray.report.terminal.paper import print_paper

    out = console()
    print_correlations(found, out)
    if on_prompts:
        print_agreement(on_prompts, out)
    if paper:
        print_paper(paper, out)
    return 0
