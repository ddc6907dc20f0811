"""Make `python -m senna` the same as `senna`."""

from senna.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
