"""Fits on a cluster: the rows stay on the workers, and a pass sends weights there and sums of gradients back."""
