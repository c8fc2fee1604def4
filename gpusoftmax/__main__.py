"""The entry point of `gpusoftmax` and `python -m gpusoftmax`. Imports happen where Ctrl-C is already handled."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C prints one line and exits with code 130, even while modules are being imported."""
    try:
        from gpusoftmax.cli import main as run

        run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
