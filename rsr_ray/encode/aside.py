"""A process aside, for work that may end the process it runs in, or never end."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe
from typing import Any

from rsr_ray.corpus.row_faults import one_line
from rsr_ray.errors import RunError

SECONDS = 10.0  # of processor time that the rendering of a row may take


class Ended(Exception):
    """The process aside ended over a question: `code` is the exit code, or minus the signal."""

    def __init__(self, code: int):
        super().__init__(f"the separate process ended with {code}")
        self.code = code

    @property
    def over_time(self) -> bool:
        return self.code == -signal.SIGPROF


@contextmanager
def time_limit() -> Iterator[None]:
    """Limit what is inside to `SECONDS` of processor time; beyond, the kernel ends the process.

    Nothing less ends a loop in foreign code. It is processor time, so that a busy machine changes
    no result.
    """
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class Aside:
    """Answers questions in another process.

    `prepare(*args)` is called there, and gives the function that answers.
    """

    def __init__(self, prepare: Callable[..., Callable[[Any], Any]], *args: Any):
        self.prepare = prepare
        self.args = args
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
        """The answer. Raises what answering raised, or Ended.

        After Ended the next question is asked in a new process.
        """
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
        # Not by multiprocessing, which imports the caller's own script again: one without
        # `if __name__ == "__main__":` would score once more in there.
        self._connection, theirs = Pipe()
        said = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import answer"
        self._process: Any = subprocess.Popen(
            [sys.executable, "-c", f"{said}; answer({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is its parent's to hear
        )
        theirs.close()
        try:
            self._connection.send((self.prepare, self.args))
            raised, answer = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise RunError(
                f"a separate process for encoding rows ended with {self._end()} before it had "
                "encoded one"
            ) from None
        if raised:
            raise answer

    def _end(self) -> int:
        self._connection.close()
        code = self._process.wait()
        self._process = None
        return code


def answer(file: int) -> None:
    """Answer, in a process aside, what is asked over a connection; `file` is its descriptor."""
    with contextlib.suppress(EOFError, ConnectionError):  # nobody asks any more
        connection = Connection(file)
        prepare, args = connection.recv()
        raised, found = _attempt(prepare, *args)
        _send(connection, raised, found if raised else None)
        while not raised:
            _send(connection, *_attempt(found, connection.recv()))


def _attempt(work: Callable[..., Any], *given: Any) -> tuple[bool, Any]:
    try:
        return False, work(*given)
    except Exception as e:
        return True, e


def _send(connection: Connection, raised: bool, answer: Any) -> None:
    try:
        connection.send((raised, answer))
    except Exception as e:  # an exception that cannot be sent from one process to another
        problem = answer if raised else e
        connection.send((True, RunError(one_line(problem))))
