"""Trainings that others described."""
