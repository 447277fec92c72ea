"""Other libraries are imported by the integrations alone, and only when one of their functions runs."""

import ast
from collections.abc import Iterator
from pathlib import Path

import detres

OTHERS = {"detectron2", "fvcore", "huggingface_hub", "mmcv", "mmdet", "mmengine", "omegaconf", "timm", "transformers"}
ROOT = Path(detres.__file__).parent


def _imports(tree: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """(library, whether inside a function) of every import below a node."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0], inside
        yield from _imports(node, inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))


def test_third_party_imports() -> None:
    strange = []
    for path in ROOT.rglob("*.py"):
        for library, inside in _imports(ast.parse(path.read_text(encoding="utf-8"))):
            if library in OTHERS and not (inside and path.parent == ROOT / "integrations"):
                strange.append(f"{path.relative_to(ROOT)}: {library}")
    assert not strange
