"""What libraries in C++ write on standard error, apart from what Python writes."""

import contextlib
import os
import sys
import tempfile
from typing import TextIO


class Apart:
    """What libraries in C++ write on this process's standard error goes to a file of Ray's logs;
    what Python writes stays.

    The processes that Ray starts inherit the file.
    """

    def __init__(self) -> None:
        self.file, self.path = tempfile.mkstemp(prefix="rsr_ray-", suffix=".err")
        self.python = sys.stderr
        sys.stderr.flush()
        self.saved = os.dup(2)
        os.dup2(self.file, 2)
        if _is_on(self.python, 2):
            sys.stderr = os.fdopen(os.dup(self.saved), "w", buffering=1, errors="backslashreplace")

    def keep_in(self, logs: str) -> None:
        """Have the file lie beside Ray's logs from now on."""
        with contextlib.suppress(OSError):  # on another disk, or not this user's
            os.rename(self.path, os.path.join(logs, os.path.basename(self.path)))
            self.path = ""

    def end(self) -> None:
        if sys.stderr is not self.python:
            sys.stderr.close()
            sys.stderr = self.python
        os.dup2(self.saved, 2)
        os.close(self.saved)
        os.close(self.file)
        if self.path:
            os.unlink(self.path)


def _is_on(stream: TextIO, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError, AttributeError):  # a test's or a notebook's
        return False
