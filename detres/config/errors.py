"""The one error of the configuration: every mistake found, a line each."""

from collections.abc import Sequence
from typing import NamedTuple


class Mistake(NamedTuple):
    """One mistake: where it stands ("file:line", "override"), the dotted key ("" for a whole file), what is wrong."""

    where: str
    key: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in self if part)


class ConfigError(ValueError):
    """A configuration that cannot be used; `mistakes` holds every one that was found."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        assert mistakes, "a ConfigError needs a mistake"
        self.mistakes = tuple(mistakes)
        lines = [str(mistake) for mistake in self.mistakes]
        if len(lines) > 1:
            lines = [f"{len(lines)} mistakes in the configuration:", *(f"  {line}" for line in lines)]
        super().__init__("\n".join(lines))


def show_value(value: object, limit: int = 60) -> str:
    """A value for a message: as YAML would write it, text in quotes, cut to about `limit` characters."""
    names = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return names[value]
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
