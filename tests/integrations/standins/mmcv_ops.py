"""A stand-in for mmcv.ops, the compiled half of mmcv, which the package registry offers only as source.

mmdet's modules import their operators by name when they are imported themselves. Here every name is a module class
that can be made and not be called, so that detectors can be built: enough to see their backbones work.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import nn


class _Operator(nn.Module):
    """Takes any arguments; has no forward."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()


class _Operators(ModuleType):
    """A module in which every name is an operator."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, type(name, (_Operator,), {}))
        return getattr(self, name)


class _Finder:
    """Finds mmcv.ops and what lies in it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """A specification for our names only."""
        return ModuleSpec(name, self, is_package=True) if f"{name}.".startswith("mmcv.ops.") else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself."""
        module = _Operators(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do."""


def make_importable() -> None:
    """Let `import mmcv.ops` find the stand-in where mmcv was installed without it, for the rest of the process.

    mmdet keeps what it imported, so this is not undone.
    """
    try:
        importlib.import_module("mmcv.ops")
    except ImportError:  # its Python half is there, its compiled half is not
        for name in [name for name in sys.modules if f"{name}.".startswith("mmcv.ops.")]:
            del sys.modules[name]
        sys.meta_path.insert(0, _Finder())
