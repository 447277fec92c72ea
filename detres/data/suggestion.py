"""What to say about a name that nobody knows."""

from collections.abc import Sequence
from difflib import get_close_matches


def suggestion(name: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them when none is near."""
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
