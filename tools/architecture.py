"""Print the layers, output sizes, parameters and multiply-adds of a network: the same as `detres architecture`."""

from detres.cli import run_tool

if __name__ == "__main__":
    raise SystemExit(run_tool("architecture"))
