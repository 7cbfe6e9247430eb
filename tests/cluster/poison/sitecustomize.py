"""For processes with this folder on their PYTHONPATH, encoding a conversation with POISON in it is a segmentation fault.

This stands for a bug in native code (tokenizers, the regular expressions below them), which ends the process without an exception.
"""

import ctypes
import importlib.machinery
import sys

POISON = "POISON: this text ends the process that encodes it"


class Finder:
    def find_spec(self, name, path=None, target=None):  # noqa: ARG002
        if name != "rsr_ray.encode":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            render = module.render

            def poisoned(turns, *more, **named):
                if any(POISON in turn["content"] for turn in turns):
                    ctypes.string_at(0)
                return render(turns, *more, **named)

            module.render = poisoned

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
