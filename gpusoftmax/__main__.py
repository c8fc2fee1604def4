"""The entry point of the command line, `gpusoftmax` and `python -m gpusoftmax`; it imports nothing before it can say
that it was interrupted."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is imported ends it as later on: with one line, and exit code 130."""
    try:
        from gpusoftmax.cli import main as run

        run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
