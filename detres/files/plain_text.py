"""Text from outside (names of classes and files, messages about them) made fit for a terminal, a picture, a table."""


def printable(text: str, most: int | None = None) -> str:
    """The text in one line: what cannot be shown in it (line breaks, control characters) becomes "?".

    most: what is longer than so many characters is cut.
    """
    if most is not None and len(text) > most:
        text = f"{text[: most - 3]}..."
    return "".join(c if c.isprintable() else "?" for c in text)


def printable_lines(text: str) -> str:
    """The same, line by line: escape codes of a terminal, which could rewrite what stands on it, become "?"."""
    return "\n".join(map(printable, text.split("\n")))


def cell(text: str) -> str:
    """Text for a table that spreadsheets read: they would carry out what begins like a formula, so it is quoted."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
