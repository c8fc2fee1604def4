"""Value and gradient of the objective, and what is built on them."""
