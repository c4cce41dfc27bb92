"""What the program asks of a first stage, whatever it encodes."""

from typing import Any, NamedTuple

from torch import Tensor, nn


class Reconstruction(NamedTuple):
    """What a first stage gives for training: `x`, what comes back, a scalar `regulariser`, scalar `stats`."""

    x: Tensor
    regulariser: Tensor
    stats: dict[str, Tensor]


class FirstStage(nn.Module):
    """An autoencoder between items, as tensors, and normalised latents (B, channels, *grid).

    A first stage has these methods, its JSON constructor arguments in `config`, and the buffers `latent_mean` and
    `latent_std` (channels,), by which latents are normalised to mean 0 and standard deviation 1.
    """

    config: dict[str, Any]
    latent_mean: Tensor
    latent_std: Tensor
    at_once = 256  # items that are encoded at a time

    def latent_shape(self, size: Any) -> tuple[int, ...]:
        """(channels, *grid) for items of that size. Raises LatentiaError for a size that does not fit."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        """Items as tensors → normalised latents."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents → items as tensors."""
        raise NotImplementedError
