"""A row -> its canonical form: names, identity, conversation and tools, or its reject."""

import hashlib
import json
from typing import Any

from rsr_ray.corpus.endings import is_complete
from rsr_ray.corpus.identity import name_of, sample_of
from rsr_ray.corpus.images import (
    MAX_ROW_BYTES,
    PLACEHOLDER,
    digest_of,
    read_image,
    references_of,
)
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.row_faults import ReadRow, Row, Unreadable, check_json, check_size, row_boundary
from rsr_ray.corpus.shapes import ID_COLUMNS, conversation
from rsr_ray.corpus.strata import strata_of
from rsr_ray.corpus.turns import is_scored, without_nulls
from rsr_ray.errors import BadRow
from rsr_ray.files.objects import InputObject
from rsr_ray.unit_rows import READ_ROWS

NEEDS_EYES = "only a vision-language student can score it"


def canonical(
    row: ReadRow, obj: InputObject, index: int, reading: Reading, endpoint: str | None = None
) -> Row:
    """One input row as a READ_ROWS value: scorable, or with reject_reason and reject_detail set.

    Images are read from where `reading` allows. Raises RunError if the store does not give them.
    """
    out: Row = dict.fromkeys(field.name for field in READ_ROWS)
    out |= {"trajectory_id": _digest([obj.uri, index]), "source": obj.uri, "source_row": index}
    try:
        with row_boundary("reading the row"):
            _fill(out, row, reading, obj, endpoint)
    except BadRow as e:
        out |= {
            "messages": None,
            "tools": None,
            "images": None,
            "reject_reason": e.reason,
            "reject_detail": e.detail,
        }
    return out


def _fill(out: Row, row: ReadRow, reading: Reading, obj: InputObject, endpoint: str | None) -> None:
    """Set what a row says of itself, its names first, so that a reject has them. Raises BadRow."""
    fields = {} if isinstance(row, Unreadable) else row
    name = out["teacher"] = reading.teacher or name_of(
        reading.teacher_of(obj.uri), "the teacher in the path"
    )
    if not reading.is_explicit:
        name = out["teacher"] = name_of(fields.get("teacher"), "teacher") or name
    given_id = next(
        (found for column in ID_COLUMNS if (found := name_of(fields.get(column), column))), None
    )
    out["trajectory_id"] = given_id or out["trajectory_id"]
    out["prompt_id"] = name_of(fields.get("prompt_id"), "prompt_id")
    out["sample"] = sample_of(fields.get("sample"))
    if isinstance(row, Unreadable):
        raise BadRow("unreadable_shard" if row.shard else row.reason, row.detail)
    messages, tools = _conversation(row, reading), _tools(row.get("tools"))
    _check_calls(messages)
    images = _read_images(messages, reading, endpoint)
    out["content"], out["complete"] = _digest([messages, tools])[:16], is_complete(row)
    out["strata"] = strata_of(row, reading.strata)
    if not name:
        raise BadRow(
            "no_teacher",
            "pass --teacher or --teacher-from, add a teacher column, or put the shard in a "
            "teacher=NAME/ folder",
        )
    first_answer = next((i for i, m in enumerate(messages) if is_scored(m)), len(messages))
    prompt = messages[:first_answer]
    out["prompt_id"] = out["prompt_id"] or _digest(
        [{**turn, "content": " ".join(turn["content"].split())} for turn in prompt]
    )
    if not given_id:
        out["trajectory_id"] = _digest([name, prompt, messages[first_answer:], out["sample"]])
    _check_answers(messages)
    if reading.sees and not images:
        _check_unplaced(row)
    text = json.dumps(messages)
    check_size(text, tools)
    out["messages"], out["tools"], out["images"] = text, tools, images or None


def _conversation(row: Row, reading: Reading) -> list[Row]:
    """The turns of a row. Raises BadRow."""
    try:
        return conversation(row)
    except BadRow as e:
        if e.reason == "media" and reading.sees is False:  # whatever is wrong with its images
            raise BadRow("not_text", f"the row has images; {NEEDS_EYES}") from e
        raise


def _read_images(messages: list[Row], reading: Reading, endpoint: str | None) -> list[bytes]:
    """The images of the turns, in their order; in the turns they are their digests from then on."""
    found: list[bytes] = []
    n_bytes = 0
    for turn in messages:
        if not turn.get("images"):
            continue
        if reading.sees is False:
            raise BadRow("not_text", f"a {turn['role']} turn has an image; {NEEDS_EYES}")
        digests = []
        for image in turn["images"]:
            found.append(read_image(image, reading.media, endpoint))
            n_bytes += len(found[-1])
            if n_bytes > MAX_ROW_BYTES:  # before the next one is read
                raise BadRow("media", f"the row's images have more than {MAX_ROW_BYTES >> 20} MiB")
            digests.append(digest_of(found[-1]))
        turn["images"] = digests
    return found


def _check_unplaced(row: Row) -> None:
    """Raise BadRow where the columns of a row without images in its turns have some."""
    if unplaced := references_of(row):
        what = f"{len(unplaced)} images in the row's columns, 0 places for them in its turns"
        raise BadRow("media", f"{what}; write {PLACEHOLDER} where one belongs")


def _check_answers(messages: list[Row]) -> None:
    """Raise BadRow where no assistant turn can be scored."""
    answers = [m for m in messages if is_scored(m)]
    if not answers:
        roles = ", ".join(m["role"] for m in messages) or "none"
        raise BadRow("no_assistant_turn", f"roles: {roles}")
    if not any(m["content"].strip() or m.get("tool_calls") for m in answers):
        raise BadRow("empty_response", "every assistant turn is empty")


def _check_calls(messages: list[Row]) -> None:
    """Raise BadRow where the arguments of a call are not JSON's."""
    for turn in messages:
        for call in turn.get("tool_calls", ()):
            function = call["function"]
            check_json(function["arguments"], f"the arguments of {function['name']:.60}")


def _tools(given: Any) -> str | None:
    """The functions that a row declares, as JSON."""
    try:
        tools = json.loads(given) if isinstance(given, str) else without_nulls(given)
    except (ValueError, RecursionError) as e:
        raise BadRow("tool_calls", f"column tools is not JSON: {given!r:.100}") from e
    check_json(tools, "column tools")
    return json.dumps(tools) if tools else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
