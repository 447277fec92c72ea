"""Find the learning rate of a configuration: the same as `detres find-lr`."""

from detres.cli import run_tool

if __name__ == "__main__":
    raise SystemExit(run_tool("find-lr"))
