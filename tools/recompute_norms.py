"""Recompute a checkpoint's batch norm statistics over its training set: the same as `detres recompute-norms`."""

from detres.cli import run_tool

if __name__ == "__main__":
    raise SystemExit(run_tool("recompute-norms"))
