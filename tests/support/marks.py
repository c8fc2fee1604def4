"""Decorators for tests that run with what "auto" takes, on each kind of device; see the fixture `device`."""

from __future__ import annotations

import pytest

on_each_device = pytest.mark.usefixtures("device")  # on the CPU and on a GPU
cpu_only = pytest.mark.parametrize("device", ["CPU"], indirect=True)  # what is the CPU's own, and long trainings
