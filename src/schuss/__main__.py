"""``python -m schuss``: the command line."""

from schuss.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
