"""What a trained model is good for: repairing and varying pictures, and writing, continuing and mixing texts."""

from latentia.applications.augment import (
    Judge,
    Synthetic,
    Verdict,
    balancing_counts,
    check_nameless,
    name_clusters,
    synthesise,
)
from latentia.applications.repair import enlarge, inpaint, most_typical, restore
from latentia.applications.variation import Way, between, invert_pictures, vary
from latentia.applications.write import Completion, complete, interpolate

__all__ = [
    "Completion",
    "Judge",
    "Synthetic",
    "Verdict",
    "Way",
    "balancing_counts",
    "between",
    "check_nameless",
    "complete",
    "enlarge",
    "inpaint",
    "interpolate",
    "invert_pictures",
    "most_typical",
    "name_clusters",
    "restore",
    "synthesise",
    "vary",
]
