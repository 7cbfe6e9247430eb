"""side_settings: were both sides scored under settings that allow a comparison?"""

from dataclasses import dataclass
from typing import Any

from rsr_ray.decide.sides import Side
from rsr_ray.errors import UserError
from rsr_ray.metrics import Metric

CLIPPED = {"rank_sum", "token_ratio_sum", "token_ratio_top30_sum"}  # columns that depend on r_max


@dataclass(frozen=True)
class SettingsCheck:
    """What the settings of two sides say, once they may be compared."""

    same_student: bool  # whether both sides have the same weights
    notes: list[str]  # a sentence each


def check_settings(a: Side, b: Side, metric: Metric, *, anyway: bool) -> SettingsCheck:
    """Compare the settings behind both sides, by the records of their last runs.

    Raises UserError if settings differ that can change the metric, or if a record is missing and
    the fingerprints differ, unless `anyway`.
    """
    run_a = a.store.find_run(a.fingerprint)
    run_b = b.store.find_run(b.fingerprint)
    if run_a is None or run_b is None:
        if a.fingerprint == b.fingerprint:
            return SettingsCheck(True, [])
        lacking = [side.store.uri for side, run in ((a, run_a), (b, run_b)) if run is None]
        return SettingsCheck(False, _accept([_no_record(lacking)], anyway))
    same_student = run_a["student"]["weights_hash"] == run_b["student"]["weights_hash"]
    notes = _accept(_differences(run_a, run_b, metric, same_student), anyway)
    if not same_student:
        notes.append(
            f"A and B are different students, whose values of {metric.name} are on different "
            "scales. Compare only places and order."
        )
    elif run_a["versions"] != run_b["versions"]:
        notes.append(_other_versions(run_a["versions"], run_b["versions"]))
    return SettingsCheck(same_student, notes)


def settings(run: dict[str, Any], metric: Metric, *, with_student: bool) -> dict[str, Any]:
    """What in a run's record can change this metric's scores, the weights aside.

    `with_student`: include what comes with the weights; two students may differ in it.
    """
    config = run["config"]
    student = run["student"]
    found = {name: config[name] for name in ("render", "system_prompt", "quantize", "over_length")}
    found["dtype"] = run["resources"]["dtype"]
    if run.get("scores_version") is not None:  # runs of earlier versions do not say
        found["scores_version"] = run["scores_version"]
    if config["over_length"] != "reject":  # else it decides which rows there are, not their scores
        found["max_length"] = run["max_length"]
    if CLIPPED & {*metric.columns}:
        found["r_max"] = config["r_max"]
    if metric.name == "local_naturalness":
        found |= {name: config[name] for name in ("steps", "step_window")}
    if with_student:
        hashes = ("template_hash", "tokenizer_hash", "config_hash")
        found |= {name: student[name][:8] for name in hashes}
    return found


def _differences(
    run_a: dict[str, Any], run_b: dict[str, Any], metric: Metric, same_student: bool
) -> list[str]:
    """Settings that both records have with different values, as "name a / b"."""
    of_a = settings(run_a, metric, with_student=same_student)
    of_b = settings(run_b, metric, with_student=same_student)
    shared = [name for name in of_a if name in of_b]
    return [f"{name} {of_a[name]} / {of_b[name]}" for name in shared if of_a[name] != of_b[name]]


def _accept(differ: list[str], anyway: bool) -> list[str]:
    """A note on what differs. Raises UserError unless `anyway`."""
    if not differ:
        return []
    if not anyway:
        raise UserError(
            "A and B were scored under different settings and cannot be compared: "
            f"{', '.join(differ)}. Pass --anyway to compare them regardless."
        )
    return [f"scored under different settings, compared anyway: {', '.join(differ)}"]


def _no_record(stores: list[str]) -> str:
    return (
        f"the record of the run that made them is missing from store {' and '.join(stores)}, so "
        "their settings are unknown"
    )


def _other_versions(of_a: dict[str, str], of_b: dict[str, str]) -> str:
    differ = sorted(name for name in {**of_a, **of_b} if of_a.get(name) != of_b.get(name))
    pairs = [f"{name} {of_a.get(name)} / {of_b.get(name)}" for name in differ]
    return f"last run by different versions: {', '.join(pairs)}"
