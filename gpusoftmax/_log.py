"""The logger of the package, "gpusoftmax". It prints nothing unless a program sets up logging."""

from __future__ import annotations

import logging

log = logging.getLogger("gpusoftmax")
log.addHandler(logging.NullHandler())  # without a handler, Python itself would print warnings to stderr
