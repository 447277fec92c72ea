"""Train a classifier: the same as `detres pretrain`."""

from detres.cli import run_tool

if __name__ == "__main__":
    raise SystemExit(run_tool("pretrain"))
