"""Row formats that people have, through `preview --json`, where the cases lie beside this checkout."""

import json

import pytest

from rsr_ray.cli import main

from .conftest import SHARED

CASES = sorted(path.parent for path in SHARED.glob("cases/*/expected.json"))
# Not as expected, or refused with the option that reads it.
OPEN = {
    "11-think-newlines-on-qwen3": "the template drops it, and the reject names --render verbatim",
    "13-agent-traces-qwen3": "reasoning of earlier turns with calls",
    "13b-reasoning-then-call": "reasoning and a call in one turn",
    "16-orphan-closing-think": "the template drops it, and the reject names --render verbatim",
    "23-tool-call-content-none": "templates that leave calls out are refused",
    "35-prompt-already-rendered": "a prompt that is rendered already",
}
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
    command += ["--columns", *(f"{k}={v}" for k, v in run["columns"].items())] if "columns" in run else []
    return command + (["--chat-template", template_of(case, run["template"])] if "template" in run else [])


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
    return f"lacks {lacks}, has {has}, teacher {row['teacher']}: {row['text']}" if lacks or has or other else None


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
    return faults + [f for row, wanted in zip(rows, run["rows"], strict=False) if (f := fault_of(row, wanted))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case, capsys, request):
    if why := OPEN.get(case.name):
        request.applymarker(pytest.mark.xfail(reason=why, strict=True))
    runs = json.loads((case / "expected.json").read_text())["runs"]
    faults = {run["label"]: faults for run in runs if (faults := faults_of(case, run, capsys))}
    assert not faults
