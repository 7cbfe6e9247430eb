"""A process aside, for work that may end the process it runs in, or never end."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from rsr_ray.errors import RunError
from rsr_ray.row_faults import one_line

SECONDS = 10.0  # of processor time that the rendering of a row may take


class Ended(Exception):
    """The process aside ended over a question: `code` is the exit code, or minus the signal."""

    def __init__(self, code: int):
        super().__init__(f"the process aside ended with {code}")
        self.code = code

    @property
    def over_time(self) -> bool:
        return self.code == -signal.SIGPROF


@contextmanager
def time_limit() -> Iterator[None]:
    """What is inside takes at most `SECONDS` of processor time, or the kernel ends the whole process.

    Nothing less ends a loop in foreign code. It is processor time, so that a busy machine changes no result.
    """
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class Aside:
    """Answers questions in a process of its own: `prepare(*args)` is called there, and gives the function that answers."""

    def __init__(self, prepare: Callable[..., Callable[[Any], Any]], *args: Any):
        self.prepare, self.args = prepare, args
        self._start()

    def __enter__(self) -> "Aside":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it is at."""
        if self._process is not None:
            self._process.terminate()
            self._end()

    def ask(self, question: Any) -> Any:
        """The answer. Raises what answering raised, or Ended; the next question is asked in a new process then."""
        if self._process is None:
            self._start()
        try:
            self._connection.send(question)
            raised, answer = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise Ended(self._end()) from None
        if raised:
            raise answer
        return answer

    def _start(self) -> None:
        spawn = get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process: Any = spawn.Process(target=_answer, args=(theirs, self.prepare, self.args), daemon=True)
        self._process.start()
        theirs.close()
        try:
            raised, answer = self._connection.recv()
        except EOFError:
            raise RunError(f"a process to encode rows in ended with {self._end()} before it had one") from None
        if raised:
            raise answer

    def _end(self) -> int:
        self._connection.close()
        self._process.join()
        code, self._process = self._process.exitcode, None
        return code


def _answer(connection: Connection, prepare: Callable[..., Callable[[Any], Any]], args: tuple[Any, ...]) -> None:
    def attempt(work: Callable[..., Any], *given: Any) -> tuple[bool, Any]:
        try:
            return False, work(*given)
        except Exception as e:
            return True, e

    raised, answer = attempt(prepare, *args)
    _send(connection, raised, None if not raised else answer)
    while not raised:
        try:
            question = connection.recv()
        except EOFError:
            return
        _send(connection, *attempt(answer, question))


def _send(connection: Connection, raised: bool, answer: Any) -> None:
    try:
        connection.send((raised, answer))
    except Exception as e:  # an exception that cannot be sent from one process to another
        problem = answer if raised else e
        connection.send((True, RunError(one_line(problem))))
