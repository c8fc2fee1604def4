"""What X is."""
