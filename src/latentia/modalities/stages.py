"""First stages by name."""

from collections.abc import Callable

from latentia.latents.first_stage import FirstStage
from latentia.modalities.image.first_stage import AutoencoderKL, AutoencoderVQ, DiffusersKL
from latentia.modalities.text.autoencoder import TextAutoencoder

FIRST_STAGES: dict[str, Callable[..., FirstStage]] = {
    kind.__name__: kind for kind in (AutoencoderKL, AutoencoderVQ, DiffusersKL, TextAutoencoder)
}
