"""Row formats that people have, through `preview --json`; the cases lie beside the checkout."""

import json
import re

import pytest

from rsr_ray.cli import main

from .conftest import SHARED

CASES = sorted(path.parent for path in SHARED.glob("cases/*/expected.json"))
# Of these the READMEs take a reject that names the option which scores the row.
OPTION_NAMED = ("11-", "13-", "13b-", "16-")
# Here the template normalises what is around <think>, or leaves calls out in every form (held by
# test_agent_turns.py).
NORMALISED, LEFT_OUT = ("11-",), ("13b-", "23-")
STUDENT = SHARED / "students" / "tiny-qwen3"


def template_of(case, name):
    for folder in (case, SHARED / "chat_templates"):
        if (folder / name).is_file():
            return str(folder / name)
    return name


def command_of(case, run):
    command = ["preview", "--json", "--rows", "1000", "--student", str(STUDENT)]
    command += ["--corpus", str(case / run.get("corpus", "corpus"))]
    for option in ("teacher", "render", "system_prompt", "over_length"):
        command += [f"--{option.replace('_', '-')}", run[option]] if option in run else []
    command += (
        ["--columns", *(f"{k}={v}" for k, v in run["columns"].items())] if "columns" in run else []
    )
    return command + (
        ["--chat-template", template_of(case, run["template"])] if "template" in run else []
    )


def fault_of(row, wanted):
    """What a row is and should not be; None where it is as expected."""
    reason = row["reject_reason"]
    if "reject" in wanted:
        reasons = [wanted["reject"]] if isinstance(wanted["reject"], str) else wanted["reject"]
        return None if reason and (reasons == ["x"] or reason in reasons) else f"no reject: {row}"
    if reason:
        return f"rejected: {reason}: {row['reject_detail']}"
    scored = [text.strip() for text in row["scored"]]
    if "scored" in wanted and scored != [text.strip() for text in wanted["scored"]]:
        return f"scored {scored}"
    lacks = [text for text in wanted.get("context_has", ()) if text not in row["text"]]
    has = [text for text in wanted.get("context_lacks", ()) if text in row["text"]]
    other = wanted.get("teacher", row["teacher"]) != row["teacher"]
    return (
        f"lacks {lacks}, has {has}, teacher {row['teacher']}: {row['text']}"
        if lacks or has or other
        else None
    )


def plain(texts):
    return re.sub(r"</?think>|\s+", "", "".join(texts))


def is_allowed(case, row, wanted):
    """Whether the case's README, or what its template can, takes another outcome than the one in
    expected.json.
    """
    detail = row["reject_detail"] or ""
    if case.name.startswith(OPTION_NAMED) and re.search(
        "--render (template|verbatim) keeps it", detail
    ):
        return True
    if case.name.startswith(LEFT_OUT) and "another with --chat-template" in detail:
        return True
    return (
        case.name.startswith(NORMALISED)
        and not detail
        and plain(row["scored"]) == plain(wanted["scored"])
    )


def faults_of(case, run, capsys):
    code = main(command_of(case, run))
    out, err = capsys.readouterr()
    rejects_all = all("reject" in row for row in run["rows"])
    if code:
        return [] if code == 2 and rejects_all else [err.strip()]
    plan, *rows = map(json.loads, out.splitlines())
    assert plan
    if not run["rows"]:
        return []
    faults = [f"{len(rows)} rows"] if len(rows) != len(run["rows"]) else []
    if case.name.startswith("35-"):  # it is said, and --render raw reads it as it is
        assert "--render raw" in plan["notes"][0]
        return []
    pairs = zip(rows, run["rows"], strict=False)
    return faults + [
        f
        for row, wanted in pairs
        if (f := fault_of(row, wanted)) and not is_allowed(case, row, wanted)
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case, capsys):
    runs = json.loads((case / "expected.json").read_text())["runs"]
    faults = {run["label"]: faults for run in runs if (faults := faults_of(case, run, capsys))}
    assert not faults
