"""The rule by which settings for a set of texts are chosen: docs/choosing.md explains it."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from latentia.denoiser.dit import DiT
from latentia.modalities.base import Proposal, class_line
from latentia.modalities.text.autoencoder import TextAutoencoder
from latentia.modalities.text.texts import TextSet
from latentia.training.capacity import fastest_update

VOCABULARY, BATCH = 4096, 64
LETTERS_A_TOKEN = 3.5
SHORTEST, LONGEST = 16, 128  # tokens
WHOLE = 95  # percent of the texts that are not too long
PATCH = 4  # tokens a latent vector
FIRST_STAGE = 0.5  # of the time
SPARE = 0.9  # of the time is training; the rest reads, encodes, draws previews
LARGE_FROM = 45.0  # minutes


class Size(NamedTuple):
    """Widths and depths of both stages."""

    width: int
    latent_channels: int
    decoder_depth: int
    depth: int
    heads: int


SMALL, LARGE = Size(192, 48, 2, 4, 3), Size(256, 64, 4, 8, 4)


class Logits(nn.Module):
    """A first stage as a function of token ids to logits."""

    def __init__(self, stage: TextAutoencoder) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.stage(ids, torch.Generator(ids.device), None).x
        return out


def proposal(texts: TextSet, name: str, root: str | None, minutes: float, device: str) -> Proposal:
    """See `Modality.plan`."""
    size = LARGE if minutes >= LARGE_FROM or device != "cpu" else SMALL
    tokens = np.percentile([len(text) for text in texts.texts], WHOLE) / LETTERS_A_TOKEN
    longest = int(np.clip(8 * np.ceil(tokens / 8), SHORTEST, LONGEST))
    stage: dict[str, Any] = {
        "max_tokens": longest,
        "latents": longest // PATCH,
        "latent_channels": size.latent_channels,
        "patch": PATCH,
        "width": size.width,
        "depth": 1,
        "decoder_depth": size.decoder_depth,
        "noise": 5,
    }
    first, second = steps_of(stage, size, 60 * minutes * SPARE, device)
    every = max(50, second // 20)
    learning = {"batch_size": BATCH, "checkpoint_every": every}
    tree = {
        "name": "planned",
        "description": f"Planned for {texts.name} and {minutes:g} minutes.",
        "minutes": minutes,
        "data": {"name": name, "root": root, "on_corrupt": "skip", "on_long": "skip"},
        "first_stage": {
            "kind": "TextAutoencoder",
            "vocab_size": VOCABULARY,
            **stage,
            "training": learning | {"steps": first, "learning_rate": 1e-3, "preview_every": max(50, first // 2)},
        },
        "process": {"kind": "RectifiedFlow", "shift": 5},
        "denoiser": {"kind": "DiT", "width": size.width, "depth": size.depth, "heads": size.heads},
        "training": learning
        | {"steps": second, "learning_rate": 2e-3, "weight_decay": 0.01, "decay": 0.3, "preview_every": 4 * every},
        "sampling": {"steps": 16, "guidance_scale": 1.5, "stop_sigma": 3.5, "temperature": 0.6},
        "compute": {"weights_dtype": "float16"},
    }
    choice = (
        f"texts of up to {longest} tokens, {longest // PATCH} latent vectors of {size.latent_channels}, a DiT of width "
        f"{size.width}; {first} updates of the autoencoder, about {second} of the denoiser"
    )
    return Proposal(tree, in_words(texts), choice)


def steps_of(stage: dict[str, Any], size: Size, seconds: float, device: str) -> tuple[int, int]:
    """Updates of both stages that fit into the seconds on this machine."""
    with torch.device(device):
        autoencoder = Logits(TextAutoencoder(vocab_size=VOCABULARY, **stage))
        ids = torch.randint(4, VOCABULARY, (BATCH, stage["max_tokens"]))
        shape = size.latent_channels, stage["latents"]
        denoiser = DiT(in_channels=shape[0], grid=shape[1:], width=size.width, depth=size.depth, heads=size.heads)
        noise, times = torch.randn(BATCH, *shape), torch.rand(BATCH)
        first, second = fastest_update(autoencoder, ids), fastest_update(denoiser, noise, times)
    return (
        max(100, round(FIRST_STAGE * seconds / first)),
        max(100, round((1 - FIRST_STAGE) * seconds / second)),
    )


def in_words(texts: TextSet) -> list[str]:
    """What is there: counts, lengths, classes, what cannot be read."""
    letters = np.array([len(text) for text in texts.texts])
    usual = f"half of them over {np.median(letters):.0f}"
    lines = [f"{len(letters)} texts of {letters.min()} to {letters.max()} letters, {usual}"]
    if texts.labels is not None:
        lines.append(class_line(texts.labels, texts.class_names, "texts"))
    if texts.skipped:
        lines.append(f"{len(texts.skipped)} are left out, such as {texts.skipped[0]}")
    return lines
