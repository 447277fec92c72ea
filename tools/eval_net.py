"""Evaluate a model or a results file: the same as `detres eval`."""

from detres.cli import run_tool

if __name__ == "__main__":
    raise SystemExit(run_tool("eval"))
