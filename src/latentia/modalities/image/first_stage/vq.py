"""The vector-quantised autoencoder (van den Oord et al. 2017), its codebook learned by moving averages."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentia.config import config
from latentia.latents.first_stage import Reconstruction
from latentia.latents.normalise import register_statistics
from latentia.modalities.image.first_stage.autoencoder import (
    AutoencoderConfig,
    AutoencoderRecipe,
    Decoder,
    Encoder,
    PictureStage,
    checked_sizes,
)

DECAY = 0.99  # of the moving averages; van den Oord et al. 2017, App. A.1
DEAD = 0.1  # a code used less than this part of a uniform share is revived
CHUNK = 2**24  # distances held at once, so that memory does not grow with pictures × codes


def nearest_code(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The index (N,) of the code (K, C) closest to each vector (N, C); van den Oord et al. 2017, eq. 1."""
    # ‖v‖² is the same for every code, so ‖e‖² − 2 v·e orders them as the distance does.
    squares = codebook.square().sum(1)
    parts: tuple[Tensor, ...] = torch.split(vectors, max(1, CHUNK // len(codebook)))
    return torch.cat([torch.addmm(squares, part, codebook.T, alpha=-2).argmin(1) for part in parts])


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of how often each code is used: 1 for one code, K for K equal ones. counts (K,) → scalar."""
    share = counts / counts.sum()
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp()


def as_vectors(z: Tensor) -> Tensor:
    """(B, C, h, w) → (B·h·w, C)."""
    return z.movedim(1, -1).reshape(-1, z.shape[1])


@config
class VQConfig(AutoencoderConfig):
    """The sizes of an `AutoencoderVQ`."""

    codebook_size: Annotated[int, Field(ge=1, le=65536, description="entries of the codebook (VQ)")] = 512
    commitment: Annotated[float, Field(ge=0, description="weight of the commitment loss (VQ)")] = 0.25


@config
class VQRecipe(VQConfig, AutoencoderRecipe):
    """A recipe's section for an `AutoencoderVQ`."""

    kind: Literal["AutoencoderVQ"] = "AutoencoderVQ"

    @property
    def regulariser_weight(self) -> float:
        """The first stage weighs its commitment itself."""
        return 1.0


class AutoencoderVQ(PictureStage):
    """An autoencoder whose decoder sees only `codebook_size` different vectors.

    As in LDM's VQ-reg (Rombach et al. 2022, §3.1) the quantisation belongs to the decoder: `encode` gives the
    continuous vectors before it. `sizes` are the fields of `VQConfig`. The codebook is a buffer that training forwards
    move; under DDP that of rank 0 is broadcast before each forward.
    Raises LatentiaError where an argument is out of range.
    """

    codebook: Tensor
    usage: Tensor

    Config, Recipe = VQConfig, VQRecipe

    def __init__(self, in_channels: int = 1, **sizes: Any) -> None:
        super().__init__()
        own, self.config = checked_sizes(in_channels, sizes, VQConfig)
        self.factor = own.factor
        self.encoder = Encoder(in_channels, own.latent_channels, own)
        self.decoder = Decoder(in_channels, own)
        register_statistics(self, own.latent_channels)
        self.register_buffer("codebook", torch.randn(own.codebook_size, own.latent_channels))
        # Moving average of each code's use, 1 for a uniform share. At zero all codes count as dead, and so the first
        # training batch seeds the codebook.
        self.register_buffer("usage", torch.zeros(own.codebook_size))

    def vectors(self, x: Tensor) -> Tensor:
        self.check_pictures(x)
        z: Tensor = self.encoder(x)
        return z.float()

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest codes (B, C, h, w) of vectors that are not normalised, and their indices (B, h, w)."""
        with torch.autocast(z.device.type, enabled=False):  # half precision confuses close codes
            codes = nearest_code(as_vectors(z), self.codebook).view(len(z), *z.shape[2:])
        return self.codebook[codes].movedim(-1, 1), codes

    def pictures(self, vectors: Tensor) -> Tensor:
        """Quantises, then decodes; gradients pass straight through the codes."""
        vectors = vectors.float()
        quantised, _ = self.quantise(vectors.detach())
        out: Tensor = self.decoder(quantised + (vectors - vectors.detach()))  # the second summand is 0
        return out

    def forward(
        self, x: Tensor, generator: torch.Generator, change: Callable[[Tensor], Tensor] | None = None
    ) -> Reconstruction:
        """Decodes the quantised vectors; gradients pass straight through (van den Oord et al. 2017, §3.2).

        The regulariser is commitment · mean (z − sg[e])², the last term of eq. 3; in training mode moving averages
        replace the middle one (App. A.1), and dead codes become vectors of the batch, drawn with `generator`.
        """
        z = self.vectors(x)
        if self.training:
            self.revive(as_vectors(z.detach()), generator)
        quantised, codes = self.quantise(z.detach())
        error = (z - quantised).square().mean()
        # Sums of ones, unlike bincount, never make a GPU wait.
        flat = codes.flatten()
        counts = torch.zeros_like(self.usage).index_add_(0, flat, self.usage.new_ones(flat.shape))
        if self.training:
            self.update(as_vectors(z.detach()), flat, counts)
        stats = {
            "perplexity": perplexity(counts),
            "codebook_usage": (counts > 0).float().mean(),
            "quantisation_error": error.detach(),
        }
        straight_through = z + (quantised - z).detach()
        changed = straight_through if change is None else change(straight_through)
        return Reconstruction(self.decoder(changed), self.config["commitment"] * error, stats)

    @torch.no_grad()
    def revive(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Puts vectors of the batch in the place of codes that are hardly used (Dhariwal et al. 2020, §3.1)."""
        dead = self.usage < DEAD
        order = torch.randperm(len(vectors), generator=generator, device=generator.device).to(vectors.device)
        fresh = vectors[order[torch.arange(len(dead), device=vectors.device) % len(vectors)]]
        self.codebook.copy_(torch.where(dead[:, None], fresh, self.codebook))
        self.usage.masked_fill_(dead, 1.0)

    @torch.no_grad()
    def update(self, vectors: Tensor, codes: Tensor, counts: Tensor) -> None:
        """Moves each code to the moving average of its vectors (van den Oord et al. 2017, App. A.1).

        The paper keeps N (use) and m (sum) with e = m / N; m = e · N, so that e and N suffice.
        """
        unit = len(self.codebook) / len(vectors)  # counts in shares: batches of any size weigh the same
        sums = torch.zeros_like(self.codebook).index_add_(0, codes, vectors) * unit
        usage = DECAY * self.usage + (1 - DECAY) * unit * counts
        self.codebook.copy_((DECAY * self.usage[:, None] * self.codebook + (1 - DECAY) * sums) / usage[:, None])
        self.usage.copy_(usage)
