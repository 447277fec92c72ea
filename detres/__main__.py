"""`python -m detres`: the same as `detres`."""

from detres.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
