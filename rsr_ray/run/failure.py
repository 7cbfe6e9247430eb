"""What an error on the cluster means: the one a user can act on, behind Ray's wrappers."""

import re
import sys

from rsr_ray.errors import RunError, StoreError, UserError, one_line

OURS = ("UserError", "DeniedError", "StoreError", "RunError")
# What Ray Data adds to the message of an error that it may have tried again.
TRIED = re.compile(r"\nFailed to [^\n]* after \d+/\d+ attempts [\s\S]*")
ANSI = re.compile(r"\x1b\[[0-9;]*m")
# Between an exception and the one that was raised over it.
NEXT = re.compile(r"\n(?:The above exception was|During handling of)[^\n]*")
NAMED = re.compile(
    r"^(?:\w+\.)*(\w+(?:Error|Exception|Interrupt|Exit))(?:: ([\s\S]*))?", re.MULTILINE
)


def is_rays(error: BaseException) -> bool:
    """Whether Ray raised it."""
    if "ray" not in sys.modules:
        return False
    from ray.exceptions import RayError

    return isinstance(error, RayError)


def cause_of(e: BaseException, after_failure: str) -> Exception:
    """The error a user can act on, behind Ray's wrappers.

    What a worker raised is kept by Ray as text only.
    """
    from ray.exceptions import RayActorError, RayTaskError

    raised = raised_in(str(e)) if isinstance(e, RayTaskError | RayActorError) else []
    ours = [error for error in raised if error[0] in OURS]
    if ours:
        kind, message = ours[-1]
    elif raised:
        kind, message = raised[0]
    else:
        kind, message = type(e).__name__, one_line(str(e), 500)
    if kind in ("UserError", "DeniedError"):
        return UserError(message)
    if kind == "StoreError":
        return StoreError(message)
    said = message if kind == "RunError" else f"{kind}: {message}"
    return RunError(f"{said.rstrip('.')}. {after_failure}")


def raised_in(text: str) -> list[tuple[str, str]]:
    """Kind and message of each exception in the text of a trace, the first cause first.

    A message is what follows the last frame: neither a frame, nor its source, nor the carets below
    it.
    """
    found = []
    for whole in NEXT.split(ANSI.sub("", text)):
        # Of what is not indented the trace's own lines begin with its title, a frame with two
        # spaces.
        part = TRIED.sub("", whole)
        _, _, rest = part.rpartition('\n  File "')
        last = rest or part
        match = re.search(r"^(?:\w+\.)*(\w+)(?:: (.*))?$", last, re.MULTILINE)
        named = NAMED.search(last)
        if best := named or match:
            found.append((best[1], one_line(best[2], 500) if best[2] else ""))
    return found
