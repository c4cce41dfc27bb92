"""What the first stages of pictures share: checks, and a convolutional encoder and decoder (Rombach 2022, App. G)."""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from latentia.config import Loop, check_integer, checked, config, plain
from latentia.errors import LatentiaError
from latentia.latents.first_stage import FirstStage, Reconstruction
from latentia.latents.normalise import denormalise, normalise
from latentia.modalities.image.first_stage.changes import LatentTraining
from latentia.modalities.image.first_stage.perceptual import Perceptual

MAX_PARAMETERS = 2**30  # twelve times LDM's largest autoencoder: a bound on what a config file may allocate

Sizes = TypeVar("Sizes", bound="AutoencoderConfig")


@config
class AutoencoderConfig:
    """The sizes of a convolutional autoencoder of pictures."""

    latent_channels: Annotated[int, Field(ge=1, le=1024, description="channels of the latent")] = 4
    channels: Annotated[
        tuple[Annotated[int, Field(ge=1, le=8192)], ...],
        Field(min_length=1, max_length=10, description="width by level; each level after the first halves the grid"),
    ] = (32, 64, 64)
    blocks: Annotated[int, Field(ge=1, le=64, description="residual blocks a level")] = 1
    patch: Annotated[
        int, Field(ge=1, le=64, description="side of the space-to-depth stem; multiplies the downsampling")
    ] = 1
    attention: Annotated[bool, Field(description="one self-attention layer in the middle")] = False

    @property
    def factor(self) -> int:
        """How many times smaller the latent's grid is than the picture."""
        return self.patch << (len(self.channels) - 1)


@config
class Discriminator:
    """The patch discriminator of a first stage's training."""

    start: Annotated[int, Field(ge=0, description="update from which the discriminator joins")] = 0
    weight: Annotated[float, Field(ge=0, description="factor on the adaptive weight of the adversarial loss")] = 0.5
    width: Annotated[int, Field(ge=4, description="channels of its first layer")] = 32
    layers: Annotated[int, Field(ge=1, le=4, description="strided layers: the receptive field of a patch")] = 2
    learning_rate: Annotated[float, Field(gt=0, description="learning rate of the discriminator")] = 2e-4


@config
class AutoencoderRecipe(AutoencoderConfig):
    """A recipe's section for an autoencoder of pictures."""

    reconstruction: Annotated[Literal["l1", "l2"], Field(description="pixel loss")] = "l1"
    latents: Annotated[
        LatentTraining | None, Field(description="changes of latents before they are decoded; null: none")
    ] = None
    perceptual: Annotated[Perceptual | None, Field(description="loss of a classifier's features; null: none")] = None
    discriminator: Annotated[Discriminator | None, Field(description="patch discriminator of VQGAN; null: none")] = None
    training: Annotated[Loop, Field(description="how the first stage is trained")]


def checked_sizes(in_channels: int, sizes: Mapping[str, Any], kind: type[Sizes]) -> tuple[Sizes, dict[str, Any]]:
    """The sizes as an object and, with `in_channels`, as JSON values.

    Raises LatentiaError where one is wrong, before anything is allocated.
    """
    check_integer("in_channels", in_channels, 1, 1024)
    own = checked(kind, sizes, "a first stage")
    # Two 3×3 convolutions a block, in the encoder and again in the decoder, and those between levels and at the ends.
    widths = sum(width * width for width in own.channels)
    parameters = 36 * (own.blocks + 1) * widths + 36 * in_channels * own.patch**2 * own.channels[0]
    if parameters > MAX_PARAMETERS:
        shape = f"channels {list(own.channels)} with blocks={own.blocks}, patch={own.patch}"
        many = f"about {parameters:.1e} parameters, more than {MAX_PARAMETERS:.1e}"
        raise LatentiaError(f"{shape} make {many}; choose smaller widths")
    return own, {"in_channels": in_channels, **plain(own)}


class PictureStage(FirstStage):
    """A first stage between pictures (B, in_channels, H, W) in [-1, 1] and latents (B, latent_channels, H/f, W/f).

    factor: f. A subclass encodes by `vectors` and decodes by `pictures`, to and from latents that are not normalised.
    """

    factor: int

    def forward(
        self, x: Tensor, generator: torch.Generator, change: Callable[[Tensor], Tensor] | None = None
    ) -> Reconstruction:
        """Pictures as they come back in training, through latents that `change` has changed, with random numbers from
        `generator`."""
        raise NotImplementedError

    def vectors(self, x: Tensor) -> Tensor:
        """Pictures (B, in_channels, H, W) → (B, latent_channels, h, w), float32 and not normalised."""
        raise NotImplementedError

    def pictures(self, vectors: Tensor) -> Tensor:
        """The decoder: the inverse of `vectors`, not clamped."""
        raise NotImplementedError

    def latent_shape(self, size: int | tuple[int, int]) -> tuple[int, int, int]:
        """(channels, h, w) for pictures of that height and width, or side. Raises LatentiaError where f does not divide
        these, or they are not above 0."""
        height, width = (size, size) if isinstance(size, int) else size
        for side in (height, width):
            if side <= 0 or side % self.factor:
                lower, upper = side // self.factor * self.factor, -(-side // self.factor) * self.factor
                sizes = f"{lower} or {upper}" if lower > 0 else f"{max(upper, self.factor)}"
                what = (
                    f"the first stage shrinks pictures by {self.factor}, and picture size {side} is no multiple of that"
                )
                raise LatentiaError(f"{what}; resize to {sizes}, or choose fewer levels in channels or a smaller patch")
        return self.config["latent_channels"], height // self.factor, width // self.factor

    def check_pictures(self, x: Tensor) -> None:
        """Raises LatentiaError where `x` is not (B, in_channels, H, W) with H and W multiples of f."""
        self._check_channels("reads pictures", x, self.config["in_channels"])
        self.latent_shape((x.shape[2], x.shape[3]))

    def _check_channels(self, what: str, x: Tensor, channels: int) -> None:
        if x.ndim != 4 or x.shape[1] != channels:
            shape = f"(batch, {channels}, height, width)"
            raise LatentiaError(f"the first stage {what} of shape {shape}, got {tuple(x.shape)}")

    def encode(self, x: Tensor) -> Tensor:
        """`vectors`, normalised per channel."""
        return normalise(self.vectors(x), self.latent_mean, self.latent_std)

    def decode(self, z: Tensor) -> Tensor:
        """Pictures in [-1, 1] of normalised latents."""
        return self.render(z).clamp(-1, 1)

    def render(self, z: Tensor) -> Tensor:
        """What `decode` gives before the clamp, so that gradients reach every pixel."""
        self._check_channels("decodes latents", z, self.config["latent_channels"])
        return self.pictures(denormalise(z, self.latent_mean, self.latent_std))


def group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, width), width, eps=1e-6)


class ResidualBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), at one width: the convolutions between levels change it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(width), group_norm(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        out: Tensor = x + self.conv2(F.silu(self.norm2(h)))
        return out


class AttentionBlock(nn.Module):
    """x + proj(attention(norm(x))): one head over all positions of the grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)  # (B, 1, hw, width)
        mixed = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2).reshape(x.shape)
        out: Tensor = x + self.proj(mixed)
        return out


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution (Odena et al. 2016: no checkerboard)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Encoder(nn.Module):
    """Pictures (B, in_channels, H, W) to maps (B, out_channels, H/f, W/f)."""

    def __init__(self, in_channels: int, out_channels: int, sizes: AutoencoderConfig) -> None:
        super().__init__()
        channels, patch = sizes.channels, sizes.patch
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(patch), nn.Conv2d(in_channels * patch**2, channels[0], 3, padding=1)
        )
        body: list[nn.Module] = []
        for level, width in enumerate(channels):
            if level > 0:
                body.append(nn.Conv2d(channels[level - 1], width, 3, stride=2, padding=1))
            body.extend(ResidualBlock(width) for _ in range(sizes.blocks))
        if sizes.attention:
            body.append(AttentionBlock(channels[-1]))
        self.body = nn.Sequential(*body)
        self.norm = group_norm(channels[-1])
        self.head = nn.Conv2d(channels[-1], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.silu(self.norm(self.body(self.stem(x)))))
        return out


class Decoder(nn.Module):
    """The encoder's mirror: latents (B, latent_channels, h, w) to pictures (B, out_channels, f·h, f·w).

    `head` is the last layer, for the adaptive weight of the adversary.
    """

    def __init__(self, out_channels: int, sizes: AutoencoderConfig) -> None:
        super().__init__()
        channels, patch = sizes.channels, sizes.patch
        self.stem = nn.Conv2d(sizes.latent_channels, channels[-1], 3, padding=1)
        body: list[nn.Module] = [AttentionBlock(channels[-1])] if sizes.attention else []
        for level in reversed(range(len(channels))):
            body.extend(ResidualBlock(channels[level]) for _ in range(sizes.blocks))
            if level > 0:
                body.append(Upsample(channels[level], channels[level - 1]))
        self.body = nn.Sequential(*body)
        self.norm = group_norm(channels[0])
        self.head = nn.Conv2d(channels[0], out_channels * patch**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(patch)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.shuffle(self.head(F.silu(self.norm(self.body(self.stem(z))))))
        return out
