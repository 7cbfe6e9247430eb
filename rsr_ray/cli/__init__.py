"""The command line, `rsr-ray`.

Exit codes: 0 done, 1 the run broke or is not whole, 2 a mistake the user can mend.
"""

import argparse
import contextlib
import os
import select
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

from rsr_ray.cli.commands import Command
from rsr_ray.cli.parser import parse
from rsr_ray.credentials import scrub
from rsr_ray.errors import RunError, Terminated, UserError, safe

LAST_SECONDS = 5.0  # to leave in an orderly way, once told to end
RELEASE_SECONDS = 3.0  # for a store to take note that leases are let go
_told: list[int] = []  # the signals that came


def main(argv: list[str] | None = None) -> int:
    """Do what a command line says; returns the exit code."""
    command, args = parse(argv)
    import pyarrow as pa

    # Arrow's handlers may turn a SIGTERM that comes while it reads into a SIGINT.
    pa.enable_signal_handlers(False)
    try:
        return command.run(_config(command, args), getattr(args, "json", False))
    except (UserError, RunError, OSError) as e:
        if _told:  # it is how a library says that it was interrupted
            return _told_to_end()
        if isinstance(e, BrokenPipeError) and _reader_left():
            return 0
        print(f"rsr-ray: {safe(scrub(str(e)))}", file=sys.stderr)
        return 2 if isinstance(e, UserError) else 1
    except KeyboardInterrupt:
        return _told_to_end()


def run(argv: list[str] | None = None) -> NoReturn:
    """`main` as a process of its own."""
    # Ray reads it when it is imported. It would put handlers of its own over these, and leave none
    # once it is shut down: a SIGTERM while a night draws its report would end it, lease and all.
    os.environ["RAY_DISABLE_FAILURE_SIGNAL_HANDLER"] = "1"
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:  # as SIGINT is in a shell's background
            signal.signal(number, _end)
    code = main(argv)
    _reader_left()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Taking down what was imported costs a second, and threads of Ray's may crash it.
    os._exit(code)


def _config(command: Command, args: argparse.Namespace) -> Any:
    """The settings that a command line and the file that --config names give."""
    from rsr_ray.config.load import has_students, load_config, load_nightly
    from rsr_ray.config.nightly import NightlyConfig
    from rsr_ray.config.options import called
    from rsr_ray.config.settings import check_text, kinds_of, settled

    kinds = kinds_of(command.config)
    given = {
        field.name: settled(called(field), field.name, getattr(args, field.name), kinds[field.name])
        for field in command.settings
        if hasattr(args, field.name)
    }
    if args.config is not None:
        check_text("--config", "config", args.config)
    if command.config is NightlyConfig:
        return load_nightly(args.config, given)
    if command.name == "doctor" and args.config is not None and has_students(args.config):
        return load_nightly(args.config, {}, given)
    return load_config(command.config, args.config, given)


def _reader_left() -> bool:
    """Whether nobody reads the output any more, as behind `| head`; what is still printed then
    goes nowhere.
    """
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Work is broken off where it is, and what is held is let go on the way out.

    That may take too long: code that was interrupted while it held a lock leaves others waiting
    for it for ever, as the import of a module does.
    """
    # Ctrl-C a second time ends it at once; a second SIGTERM may be the first, sent on by a library.
    signal.signal(number, signal.SIG_DFL if number == signal.SIGINT else signal.SIG_IGN)
    _told.append(number)
    last = threading.Timer(LAST_SECONDS, lambda: os._exit(_told_to_end()))
    last.daemon = True
    last.start()
    if _is_importing(frame):  # a native module aborts the process if it is broken off in its start
        os._exit(_told_to_end())
    sys.unraisablehook = _tell_unraisable
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    """Whether code that is interrupted there runs because a module is imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _tell_unraisable(what: "sys.UnraisableHookArgs") -> None:
    """What Python cannot raise where it is, such as in the callback of a weak reference, it
    prints. An end that is lost there needs no traceback: the timer of `_end` ends the command.
    """
    if not isinstance(what.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(what)


def _told_to_end() -> int:
    """Let go what is held, say so, and return the exit code."""
    # Ray raises an exception of its own where it was waiting: what came is not in its class.
    is_terminated = signal.SIGTERM in _told
    if "rsr_ray.store.lease" in sys.modules:
        releasing = threading.Thread(target=sys.modules["rsr_ray.store.lease"].release_held)
        releasing.daemon = True
        releasing.start()
        releasing.join(RELEASE_SECONDS)  # the store may not answer
    what = "terminated" if is_terminated else "interrupted"
    print(
        f"rsr-ray: {what}; finished units are kept; rerun the same command to resume",
        file=sys.stderr,
    )
    return 143 if is_terminated else 130
