"""Per-channel normalisation of latents, with the two statistics kept as buffers of the first stage."""

import torch
from torch import Tensor, nn


def register_statistics(module: nn.Module, channels: int) -> None:
    """Gives `module` the buffers `latent_mean` (C,) of zeros and `latent_std` (C,) of ones."""
    module.register_buffer("latent_mean", torch.zeros(channels))
    module.register_buffer("latent_std", torch.ones(channels))


def normalise(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(z − mean) / std for z (B, C, h, w), mean and std (C,)."""
    return (z - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


def denormalise(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """z · std + mean, the inverse of `normalise`."""
    return z * std.view(-1, 1, 1) + mean.view(-1, 1, 1)
