"""Draw the ResNet paper's figures from runs and checkpoints: the same as `detres figure`."""

from detres.cli import run_tool

if __name__ == "__main__":
    raise SystemExit(run_tool("figure"))
