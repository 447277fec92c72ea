"""Train a detector: the same as `detres train`."""

from detres.cli import run_tool

if __name__ == "__main__":
    raise SystemExit(run_tool("train"))
