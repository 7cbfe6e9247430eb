"""Workers of the session's Ray by a fork: python tests/cluster/poison/forks.py SOCKET

A replica is an actor, whose process ends with it, so that each run starts new ones, and each of
these would import torch and transformers for seconds. Here one process imports them once. Where Ray
starts a worker, `sitecustomize` hands its arguments, environment and outputs over, and this process
forks what becomes the worker. It never imports Ray: Ray's settings are read from the environment
when it is imported, and they are the worker's own.
"""

import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Iterator

SOCKET = (
    "RSR_RAY_TEST_FORKS"  # names the socket in the environment of a Ray whose workers are forked
)
WORKER = "default_worker.py"
# What workers import of the libraries and of the product, as far as it does not import Ray.
MODULES = (
    "torch", "transformers", "transformers.models.qwen3.modeling_qwen3", "tokenizers",
    "safetensors.torch", "pandas", "pyarrow.dataset", "pyarrow.parquet", "rsr_ray.store.store",
    "rsr_ray.encode.encode", "rsr_ray.run.score",
)  # fmt: skip


def hand_over() -> None:
    """In a process that Ray started: what would be a worker waits here until its fork has ended.

    Any other goes on.
    """
    path = os.environ.get(SOCKET)
    scripts = [n for n, word in enumerate(sys.orig_argv) if word.endswith(".py")]
    if not path or not scripts or not sys.orig_argv[scripts[0]].endswith(WORKER):
        return
    if os.environ.get("PYTHONPATH") != os.environ.get(f"{SOCKET}_PYTHONPATH"):
        return  # a job's worker, with a working directory of its own
    told = json.dumps(
        {
            "arguments": sys.orig_argv[scripts[0] :],
            "environment": dict(os.environ),
            "folder": os.getcwd(),
        }
    ).encode()
    with socket.socket(socket.AF_UNIX) as server:
        while server.connect_ex(path):  # it has not started yet
            time.sleep(0.05)
        socket.send_fds(server, [len(told).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(told)
        server.recv(1)  # the fork holds the other end
    os._exit(0)


def become(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """This process is the worker from now on."""
    os.setsid()  # Ray ends the group of a worker's process with it
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def asked(server: socket.socket) -> Iterator[tuple[dict, list[int], socket.socket]]:
    """What processes hand over: what the worker is to be, its outputs, and the connection that
    its end closes.
    """
    while True:
        connection, _ = server.accept()
        head, outputs, _, _ = socket.recv_fds(connection, 8, 3)
        with (
            connection,
            connection.makefile("rb") as file,
            contextlib.suppress(ValueError),
        ):  # ended meanwhile
            yield json.loads(file.read(int.from_bytes(head, "big"))), outputs, connection
        for output in outputs:
            os.close(output)


def serve(path: str) -> None:
    for module in MODULES:
        importlib.import_module(module)
    assert "ray" not in sys.modules
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a fork
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{path}-new")
        server.listen(64)
        os.rename(f"{path}-new", path)
        for worker, outputs, _ in asked(server):
            if os.fork() == 0:
                server.close()
                for at, output in enumerate(outputs):
                    os.dup2(output, at)
                    os.close(output)
                become(**worker)
                os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
