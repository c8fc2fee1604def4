"""Tables whose columns are numbers, categories and text: their columns, and their encoding as features."""
