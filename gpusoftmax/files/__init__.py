"""Users' files: opening, reading, checking and replacing them."""
