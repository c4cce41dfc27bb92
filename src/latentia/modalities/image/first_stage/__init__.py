"""First stages of pictures."""

from latentia.modalities.image.first_stage.diffusers_kl import DiffusersKL
from latentia.modalities.image.first_stage.kl import AutoencoderKL
from latentia.modalities.image.first_stage.vq import AutoencoderVQ

__all__ = ["AutoencoderKL", "AutoencoderVQ", "DiffusersKL", "PictureStage"]

PictureStage = AutoencoderKL | AutoencoderVQ | DiffusersKL
