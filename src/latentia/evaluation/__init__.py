"""Models and metrics together: generates, measures, reports."""
