"""Checkpoints of long runs: the file, what identifies a run, and `Checkpoint`, which the trainer writes to."""
