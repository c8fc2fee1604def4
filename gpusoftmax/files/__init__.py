"""Users' files: opened, read, checked, replaced."""
