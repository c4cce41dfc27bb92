"""Distances between features and the table of a report, for items of any modality."""
