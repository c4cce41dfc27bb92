"""Per-channel normalisation of latents, with the two statistics kept as buffers of the first stage."""

import torch
from torch import Tensor, nn


def register_statistics(module: nn.Module, channels: int) -> None:
    """Gives `module` the buffers `latent_mean` (C,) of zeros and `latent_std` (C,) of ones."""
    module.register_buffer("latent_mean", torch.zeros(channels))
    module.register_buffer("latent_std", torch.ones(channels))


def normalise(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(z − mean) / std for z (B, C, *grid), mean and std (C,)."""
    return (z - over_grid(mean, z)) / over_grid(std, z)


def denormalise(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """z · std + mean, the inverse of `normalise`."""
    return z * over_grid(std, z) + over_grid(mean, z)


def over_grid(values: Tensor, z: Tensor) -> Tensor:
    """One value a channel (C,) in a shape that broadcasts over z (B, C, *grid)."""
    return values.view(-1, *[1] * (z.ndim - 2))
