"""Reading ahead: threads that fill buffers, and Ctrl-C while the caller waits for one of them."""

from __future__ import annotations

import threading

import numpy as np

from gpusoftmax.rows.ring import _Reading


def test_ctrl_c_that_comes_when_a_reading_has_just_ended_does_not_block_the_next_wait() -> None:
    reading = _Reading(lambda: np.ones(3))
    reading.ended.get()  # as `wait` does, if Ctrl-C comes before it returns
    thread = threading.Thread(target=reading.wait, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
