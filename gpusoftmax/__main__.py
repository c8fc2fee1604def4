"""`python -m gpusoftmax` is the command line."""

from gpusoftmax.cli import main

main()
