"""First stages of pictures."""

from latentia.modalities.image.first_stage.autoencoder import PictureStage
from latentia.modalities.image.first_stage.kl import AutoencoderKL, DiffusersKL
from latentia.modalities.image.first_stage.vq import AutoencoderVQ

__all__ = ["STAGES", "PictureStage"]

STAGES: dict[str, type[PictureStage]] = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderVQ, DiffusersKL)}
