"""The mathematics of diffusion over a callable: processes, spacings, samplers and guidance."""

from latentia.diffusion.denoise import (
    Denoise,
    denoise_with,
    eps_from_denoised,
    initial_noise,
    score,
    training_loss,
)
from latentia.diffusion.editing import invert, posterior, repaint, sdedit, slerp
from latentia.diffusion.guidance import ConditionalDenoise, Guidance, Values, classifier_free, guide
from latentia.diffusion.objectives import Denoising, Objective, SelfConditioned
from latentia.diffusion.processes import EDM, PROCESSES, RectifiedFlow, process_config, process_from_config
from latentia.diffusion.protocol import Process, expand
from latentia.diffusion.samplers import (
    EVALUATIONS_PER_STEP,
    SAMPLERS,
    Sampler,
    ddim,
    ddpm,
    dpm_solver_2m,
    euler,
    heun,
    unipc_2,
)
from latentia.diffusion.sampling import Sampling
from latentia.diffusion.times import SPACINGS, cut_times, karras, trailing, uniform
from latentia.diffusion.vp import VP

__all__ = [
    "EDM",
    "EVALUATIONS_PER_STEP",
    "PROCESSES",
    "SAMPLERS",
    "SPACINGS",
    "VP",
    "ConditionalDenoise",
    "Denoise",
    "Denoising",
    "Guidance",
    "Objective",
    "Process",
    "RectifiedFlow",
    "Sampler",
    "Sampling",
    "SelfConditioned",
    "Values",
    "classifier_free",
    "cut_times",
    "ddim",
    "ddpm",
    "denoise_with",
    "dpm_solver_2m",
    "eps_from_denoised",
    "euler",
    "expand",
    "guide",
    "heun",
    "initial_noise",
    "invert",
    "karras",
    "posterior",
    "process_config",
    "process_from_config",
    "repaint",
    "score",
    "sdedit",
    "slerp",
    "trailing",
    "training_loss",
    "uniform",
    "unipc_2",
]
