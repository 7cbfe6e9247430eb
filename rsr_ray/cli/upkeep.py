"""The commands that look after a store: rejects, check, status, rescore; and metrics.

What a command needs is imported when it runs, because --help may not wait for it.
"""

import dataclasses
import json

from rsr_ray.cli.next_step import print_next
from rsr_ray.config.command_line import command_line
from rsr_ray.config.demo import MetricsConfig
from rsr_ray.config.upkeep import CheckConfig, RejectsConfig, RescoreConfig, StatusConfig
from rsr_ray.errors import RunError, counted


def rejects(config: RejectsConfig, as_json: bool) -> int:
    from rsr_ray.report.terminal.console import console
    from rsr_ray.report.terminal.rejects import print_rejects
    from rsr_ray.store.store import Store

    store = Store(config.store, config.student, config.s3_endpoint)
    found = store.find_rejects(config.reason)
    if config.retry:
        for fingerprint in {fingerprint for fingerprint, _ in found}:
            store.drop(fingerprint, [name for of, name in found if of == fingerprint])
        print(
            f"Deleted {counted(len(found), 'work unit')} with "
            f"{counted(sum(map(len, found.values())), 'rejected row')}; "
            "the next run scores them again"
        )
        return 0
    rows = [row for some in found.values() for row in some]
    if as_json:
        for row in rows:
            print(json.dumps(row.to_json()))
    else:
        print_rejects(rows, console())
    return 0


def check(config: CheckConfig, as_json: bool) -> int:
    from rsr_ray.report.terminal.check import print_check
    from rsr_ray.report.terminal.console import console
    from rsr_ray.run.check import check_store

    checked = check_store(config.store, config.s3_endpoint, config.student, repair=config.repair)
    if as_json:
        print(json.dumps(checked.to_json()))
    else:
        print_check(checked, console())
    return int(not checked.is_well)


def status(config: StatusConfig, as_json: bool) -> int:
    from rsr_ray.report.terminal.console import console
    from rsr_ray.report.terminal.status import print_status
    from rsr_ray.store.status import read_status

    found = read_status(config.store, config.s3_endpoint)
    if as_json:
        print(json.dumps(found.to_json()))
        return 0
    print_status(found, console())
    ranked = [student.name for student in found.students if student.trajectories]
    if ranked:
        where = {"store": config.store, "student": ranked[0], "s3_endpoint": config.s3_endpoint}
        print()
        print_next(command_line("teachers", **where))
    return 0


def metrics(_: MetricsConfig, as_json: bool) -> int:
    from rsr_ray.metrics import REGISTRY
    from rsr_ray.report.terminal.console import console
    from rsr_ray.report.terminal.metrics import print_metrics

    if as_json:
        print(json.dumps([dataclasses.asdict(metric) for metric in REGISTRY.values()]))
    else:
        print_metrics(list(REGISTRY.values()), console())
    return 0


def rescore(config: RescoreConfig, as_json: bool) -> int:
    from rsr_ray.report.terminal.console import console
    from rsr_ray.report.terminal.teachers import print_teachers
    from rsr_ray.run.rescore import rescore
    from rsr_ray.store.store import Store

    store = Store(config.store, config.student, config.s3_endpoint)
    out = Store(config.out, config.student, store.endpoint) if config.out else None
    result = rescore(store, config.r_max, out, config.ray_address)
    later = result.difference > 0
    if as_json:
        print(json.dumps(result.to_json()))
    elif out and result.teachers is not None:
        print_teachers(result.teachers, config.student, console())
        print(
            f"Rescored {counted(result.n_rows, 'row')} from their token scores with r_max "
            f"{result.r_max} into {out.uri}"
        )
    else:
        print(
            f"Rescored {counted(result.n_rows, 'row')} from their token scores; largest relative "
            f"difference from the stored scores: {result.difference:.3g} {result.column}"
            f"{', as the run measured that added them' * (result.is_expected and later)}"
        )
    if not out and not result.is_expected:
        raise RunError(
            f"store {store.uri}: unit {result.unit} does not match its token scores: "
            f"{result.column} differs by {result.difference:.3g}; rescore with --out FOLDER, or "
            "score again with --new-generation"
        )
    return 0
