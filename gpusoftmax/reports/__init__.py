"""Reports on models, trainings and the machine, as data for JSON and as text."""
