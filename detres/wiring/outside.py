"""Classes of the user's own, by name."""

import importlib
from typing import Any


def outside_class(name: str, key: str) -> type[Any]:
    """The class that `package.module:Class` names."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{key}: cannot import {name!r} ({error}); expected package.module:Class") from error
    if not isinstance(found, type):
        raise ValueError(f"{key}: {name!r} is a {type(found).__name__}, expected a class")
    return found
