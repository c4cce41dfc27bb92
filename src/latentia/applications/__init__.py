"""What a trained model is good for: repairing and varying pictures, and writing, continuing and mixing texts."""

from latentia.applications.augment import Judge, Synthetic, Verdict, balancing_counts, synthesise
from latentia.applications.degrade import (
    Degradation,
    blur,
    gaussian_kernel,
    grey,
    hide,
    keep_all,
    motion_kernel,
    shrink,
)
from latentia.applications.repair import inpaint, restore
from latentia.applications.vary import Way, between, invert_pictures, vary
from latentia.applications.write import Completion, complete, interpolate, slerp

__all__ = [
    "Completion",
    "Degradation",
    "Judge",
    "Synthetic",
    "Verdict",
    "Way",
    "balancing_counts",
    "between",
    "blur",
    "complete",
    "gaussian_kernel",
    "grey",
    "hide",
    "inpaint",
    "interpolate",
    "invert_pictures",
    "keep_all",
    "motion_kernel",
    "restore",
    "shrink",
    "slerp",
    "synthesise",
    "vary",
]
