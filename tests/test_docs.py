"""What README and docs name is there: pictures, configurations, tools."""

import re
from pathlib import Path

import pytest

from detres.config.files import find_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "datasets" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
USERS_OWN = {"mine.yaml", "convnext.yaml"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_configurations_and_tools_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / link).exists(), link
    for name in set(re.findall(r"--config ([\w/.]+\.yaml)", text)) - USERS_OWN:
        assert find_config(name).is_file()
    for script in re.findall(r"(?:tools|datasets)/\w+\.py", text):
        assert (ROOT / script).is_file(), script
    assert "@@" not in text


def test_the_configurations_name_commands_that_exist() -> None:
    for path in (ROOT / "configs").rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"--config ([\w/.]+\.yaml)", text):
            assert find_config(name).is_file(), (path, name)
        assert "EXPECTED" not in text, path
