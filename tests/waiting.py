"""Notices what would make the host wait for a GPU, on machines that have none.

On a GPU these wait until all queued work is done: values or shapes that Python looks at, and copies from pageable
memory, a constant made of Python numbers being one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_LOOKS = (
    "item",
    "tolist",
    "numpy",
    "cpu",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "__contains__",
    "__array__",
)
_OPERATORS = (
    "_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive",
    "bincount", "equal", "is_nonzero", "lift_fresh", "repeat_interleave",
)  # fmt: skip


class Waits:
    """While `watching`, what waits is noted in `found`: "item", "aten::nonzero", ..."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._active = False

    @contextmanager
    def watching(self) -> Iterator["Waits"]:
        """Note what waits inside the block, in the backward pass too."""
        before, self._active = self._active, True
        try:
            with _Functions(self), _Operators(self):
                yield self
        finally:
            self._active = before

    def allowed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, in which nothing is noted."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before, self._active = self._active, False
            try:
                return function(*args, **kwargs)
            finally:
                self._active = before

        return wrapped

    def note(self, name: str) -> None:
        """Something that waits was done."""
        if self._active:
            self.found.append(name)


class _Functions(TorchFunctionMode):
    """What the operators do not show: on a CPU, tolist() reads the memory by itself."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _LOOKS:
            self._waits.note(func.__name__)
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if (name in _OPERATORS or by_mask) and any(isinstance(a, Tensor) for a in args):
            self._waits.note(func._schema.name)
        return func(*args, **(kwargs or {}))
