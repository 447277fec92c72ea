"""Runs the examples of a page in docs/integrations: what stands on the page is what is tested."""

import re
from pathlib import Path
from typing import Any

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "integrations"
_BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"# (?P<name>[\w-]+\.ya?ml)\b")


def run_examples(page_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the ```python blocks of docs/integrations/{page_name}.md one after another; the names they leave behind.

    They share one namespace and run in `tmp_path`. A ```yaml block that begins with a comment of the form
    `# name.yaml` lies there under that name before the first of them runs. Lines in tracebacks are the page's.
    """
    page = PAGES / f"{page_name}.md"
    text = page.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": f"{page_name}_example"}
    for block in _blocks(text, "yaml"):
        if name := _FILE_NAME.match(block["text"]):
            (tmp_path / name["name"]).write_text(block["text"], encoding="utf-8")
    examples = _blocks(text, "python")
    assert examples, f"{page} has no ```python block"
    for block in examples:
        lines_above = "\n" * text.count("\n", 0, block.start("text"))
        exec(compile(lines_above + block["text"], str(page), "exec"), namespace)
    return namespace


def _blocks(text: str, language: str) -> list[re.Match[str]]:
    return [block for block in _BLOCK.finditer(text) if block["language"] == language]
