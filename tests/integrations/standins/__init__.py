"""Stand-ins: as little of a library that cannot be installed here as an adapter of ours touches.

They are written from the library's published interface. A test that uses one shows that our adapter keeps to that
interface, not that the library itself runs it.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def library_or_standin(library: str) -> Iterator[None]:
    """`import library` finds the library itself where it is installed, else, until the block ends, its stand-in."""
    if importlib.util.find_spec(library) is not None:
        yield
        return
    folder = str(Path(__file__).parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        for name in [name for name in sys.modules if name.split(".")[0] == library]:
            del sys.modules[name]
        sys.modules.pop(f"detres.integrations.{library}", None)  # it has bound classes of the stand-in
