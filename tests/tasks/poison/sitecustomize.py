"""Makes readers do to marked structures what C libraries have done: hang, crash, eat memory.

On PYTHONPATH of the processes that start children to encode. A mark is a comment at the end of a CIF.
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def _misbehave(text: str) -> None:
    if text.endswith("# hang\n"):
        import re

        re.match(r"(a+)+$", "a" * 60 + "b")  # in C, with the interpreter's lock held
    if text.endswith("# sleep\n"):
        import time

        time.sleep(3600)  # other threads go on
    if text.endswith("# segfault\n"):
        import ctypes

        ctypes.string_at(0)
    if text.endswith("# abort\n"):
        import os

        os.write(2, b"lattice: assertion failed\n")
        os.abort()
    if text.endswith("# raise\n"):
        raise ZeroDivisionError("a lattice without volume")
    if text.endswith("# eat memory\n"):
        hoard = []
        while True:
            hoard.append(bytearray(64 << 20))


class _Formats(importlib.abc.MetaPathFinder):
    """Wraps `read` and `read_quickly` of cloud_core.structures.formats once that module is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "cloud_core.structures.formats":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            for function in ("read", "read_quickly"):
                setattr(module, function, _wrapped(getattr(module, function)))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _wrapped(function):  # type: ignore[no-untyped-def]
    def wrapper(payload, *arguments, **options):  # type: ignore[no-untyped-def]
        if isinstance(payload, str):
            _misbehave(payload)
        return function(payload, *arguments, **options)

    return wrapper


sys.meta_path.insert(0, _Formats())
