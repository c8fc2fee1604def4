"""The report on a model or a sweep as one HTML file that needs no network."""

from gpusoftmax.reports.html.compose import report

__all__ = ["report"]
