"""Detect objects in images and videos, or label them: the same as `detres predict`."""

from detres.cli import run_tool

if __name__ == "__main__":
    raise SystemExit(run_tool("predict"))
