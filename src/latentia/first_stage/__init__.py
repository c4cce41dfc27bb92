"""First stages: autoencoders between pictures or texts and latents."""

from collections.abc import Callable

from latentia.first_stage.autoencoder import Reconstruction
from latentia.first_stage.cache import JoinedCache, LatentCache, build_latent_cache
from latentia.first_stage.diffusers_kl import DiffusersKL
from latentia.first_stage.kl import AutoencoderKL, kl_divergence
from latentia.first_stage.losses import (
    PatchDiscriminator,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    perceptual_loss,
    reconstruction_loss,
)
from latentia.first_stage.pretrained import (
    MINILM,
    FrozenEncoder,
    encoder_config,
    encoder_folder,
    encoder_tokenizer,
    minilm_folder,
)
from latentia.first_stage.statistics import FirstStage, PictureStage, measure_latent_statistics, set_latent_statistics
from latentia.first_stage.text import TextAutoencoder, token_loss
from latentia.first_stage.vq import AutoencoderVQ

FIRST_STAGES: dict[str, Callable[..., FirstStage]] = {
    kind.__name__: kind for kind in (AutoencoderKL, AutoencoderVQ, DiffusersKL, TextAutoencoder)
}

__all__ = [
    "FIRST_STAGES",
    "MINILM",
    "AutoencoderKL",
    "AutoencoderVQ",
    "DiffusersKL",
    "FirstStage",
    "FrozenEncoder",
    "JoinedCache",
    "LatentCache",
    "PatchDiscriminator",
    "PictureStage",
    "Reconstruction",
    "TextAutoencoder",
    "adaptive_weight",
    "build_latent_cache",
    "encoder_config",
    "encoder_folder",
    "encoder_tokenizer",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "kl_divergence",
    "measure_latent_statistics",
    "minilm_folder",
    "perceptual_loss",
    "reconstruction_loss",
    "set_latent_statistics",
    "token_loss",
]
