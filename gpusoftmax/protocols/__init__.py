"""Published trainings and evaluation protocols."""
