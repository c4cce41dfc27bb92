"""The mathematics of diffusion over a callable: processes, spacings, samplers and guidance."""

from latentia.diffusion.denoise import Denoise, denoise_with, initial_noise, training_loss
from latentia.diffusion.editing import invert, posterior, repaint, sdedit, slerp
from latentia.diffusion.guidance import ConditionalDenoise, Guidance, Values, classifier_free, guide
from latentia.diffusion.objectives import Denoising, Objective, SelfConditioned
from latentia.diffusion.processes import EDM, PROCESSES, VP, RectifiedFlow, process_config, process_from_config
from latentia.diffusion.protocol import Process, expand
from latentia.diffusion.samplers import EVALUATIONS_PER_STEP, SAMPLERS, Sampler, heun
from latentia.diffusion.sampling import Sampling
from latentia.diffusion.times import SPACINGS, cut_times, uniform

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
    "denoise_with",
    "expand",
    "guide",
    "heun",
    "initial_noise",
    "invert",
    "posterior",
    "process_config",
    "process_from_config",
    "repaint",
    "sdedit",
    "slerp",
    "training_loss",
    "uniform",
]
