"""Per-channel normalisation of latents: their mean and standard deviation, measured and kept in the first stage."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from latentia.errors import LatentiaError
from latentia.latents.first_stage import FirstStage


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


def set_latent_statistics(first_stage: FirstStage, mean: Tensor, std: Tensor) -> None:
    """Stores `mean` and `std` (C,) of the latents before normalisation.

    Raises LatentiaError where a shape is wrong, a value is not finite or a standard deviation is not positive.
    """
    shape = first_stage.latent_mean.shape
    if mean.shape != shape or std.shape != shape:
        raise LatentiaError(
            f"latent statistics are {tuple(mean.shape)} and {tuple(std.shape)}, expected {tuple(shape)}"
        )
    if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
        raise LatentiaError(
            f"latent mean {mean.tolist()} and std {std.tolist()} must be finite and the std positive; "
            "the first stage has diverged: train it again with a lower learning rate"
        )
    first_stage.latent_mean.copy_(mean)
    first_stage.latent_std.copy_(std)


@torch.no_grad()
def measure_latent_statistics(first_stage: FirstStage, batches: Iterable[Tensor]) -> None:
    """Sets the statistics so that the latents of `batches` have mean 0 and std 1 in each channel.

    A batch is what `encode` takes: (B, C, H, W) in [-1, 1], or ids (B, T). Moments are merged in float64 by Chan et al.
    1983, eq. 2.1, so that a large mean costs no digits.
    Raises LatentiaError where there are no data, or a channel is constant or not finite.
    """
    count = 0
    mean = torch.zeros_like(first_stage.latent_mean, dtype=torch.float64)
    squares = torch.zeros_like(mean)  # Σ (z − mean)²
    for batch in batches:
        z = first_stage.encode(batch.to(mean.device)).double().transpose(0, 1).flatten(1)  # (C, B · cells)
        new, part = z.shape[1], z.mean(1)
        if new == 0:
            continue
        shift = part - mean
        squares += (z - part[:, None]).square().sum(1) + shift.square() * (count * new / (count + new))
        mean += shift * (new / (count + new))
        count += new
    if count == 0:
        raise LatentiaError("there are no examples to measure the latents of; give at least one batch")
    std = (squares / count).sqrt()
    constant = (std <= 1e-6 * (1 + mean.abs())).nonzero().flatten().tolist()
    if constant:
        raise LatentiaError(
            f"latent channels {constant} are constant over {count} positions, and so the first stage has collapsed; "
            "train it longer, with a smaller regulariser, or use fewer latent channels"
        )
    # What `encode` gave was normalised by the old statistics; the new ones act in their place.
    old_mean, old_std = first_stage.latent_mean.double(), first_stage.latent_std.double()
    set_latent_statistics(first_stage, old_mean + old_std * mean, old_std * std)
