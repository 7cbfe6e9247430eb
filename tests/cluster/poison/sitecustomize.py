"""For processes with this folder on their PYTHONPATH: a poisonous text, and little patience.

Encoding a conversation with POISON in it is a segmentation fault: this stands for a bug in native
code (tokenizers, the regular expressions below them), which ends the process without an exception.
A template that does not end is ended after LIMIT seconds in place of ten. A worker of a Ray that is
told so is forked (`forks.py`).
"""

import ctypes
import importlib.machinery
import sys

sys.path.insert(0, __file__.rpartition("/")[0])
from forks import hand_over

POISON = "POISON: this text ends the process that encodes it"
LIMIT = 2.0


def poison(rendering):
    render = rendering.render

    def poisoned(turns, *more, **named):
        if any(POISON in turn["content"] for turn in turns):
            ctypes.string_at(0)
        return render(turns, *more, **named)

    rendering.render = poisoned


def hurry(aside):
    aside.SECONDS = LIMIT


CHANGES = {"rsr_ray.encode.rendering": poison, "rsr_ray.encode.aside": hurry}


class Finder:
    def find_spec(self, name, path=None, target=None):  # noqa: ARG002
        if name not in CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            CHANGES[name](module)

        spec.loader.exec_module = exec_module
        return spec


hand_over()
sys.meta_path.insert(0, Finder())
