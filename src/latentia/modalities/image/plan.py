"""The rule by which settings for a set of pictures are chosen: docs/choosing.md explains it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from latentia.denoiser.denoiser import CORES
from latentia.errors import LatentiaError
from latentia.modalities.base import Proposal, class_line
from latentia.modalities.image.first_stage.kl import AutoencoderKL
from latentia.modalities.image.readers.builtin import Survey
from latentia.model import load
from latentia.training.capacity import fastest_update, flops_a_second, flops_of

SIDES = (16, 24, 28, 32, 48, 64, 96, 128, 192, 256)  # pixels, of the pictures that are learned
PIXELS_A_MINUTE = 64**2 / 10  # the largest pictures that a minute on a CPU is for; an accelerator has ten times as many
ACCELERATED = 10
BATCH, FIRST_BATCH, REFINED_BATCH = 64, 16, 16
REFINED_RATE = 2e-4  # of a model that is trained further
FEWEST_UPDATES = 6000  # of a denoiser that is worth its width
FIRST_STAGE = 0.18  # of the time
SPARE = 0.9  # of the time is training; the rest reads, encodes, draws previews


class Size(NamedTuple):
    """A denoiser: its kind, its sizes, the learning rate that suits it, and for how many pictures on."""

    kind: str
    sizes: Mapping[str, Any]
    learning_rate: float
    pictures: int = 0


UNETS = (
    Size("UNet", {"width": 32, "blocks": 1}, 3e-3),
    Size("UNet", {"width": 48, "blocks": 2}, 2e-3),
    Size("UNet", {"width": 64, "blocks": 2}, 2e-3, 1_000),
    Size("UNet", {"width": 96, "blocks": 2}, 1.5e-3, 5_000),
    Size("UNet", {"width": 128, "blocks": 3}, 1e-3, 20_000),
)
DITS = (  # read prompts
    Size("DiT", {"width": 192, "depth": 6, "heads": 3}, 1.5e-3),
    Size("DiT", {"width": 256, "depth": 8, "heads": 4}, 1e-3, 1_000),
    Size("DiT", {"width": 384, "depth": 12, "heads": 6}, 7e-4, 20_000),
)
PROMPT = {"vocab_size": 4096, "max_tokens": 32, "depth": 2}
MOST_FIRST = 40_000  # updates of a first stage, after which it hardly improves


class Stage(NamedTuple):
    """A first stage by the side of pictures: widths of its levels, and how many times smaller its grid is."""

    channels: tuple[int, ...]
    factor: int
    latent_channels: int


def stage_for(side: int, grey: bool) -> Stage:
    """Grids of 7 to 16 cells a side."""
    if side <= 48:
        return Stage((64, 128), 4, 6 if grey else 8)
    if side <= 128:
        return Stage((64, 128, 192), 8, 8 if grey else 16)
    return Stage((64, 128, 192, 256), 16, 16 if grey else 32)


def side_for(sides: Any, minutes: float, accelerated: bool) -> int:
    """The largest side that most pictures have and the time allows."""
    most = PIXELS_A_MINUTE * max(10.0, minutes) * (ACCELERATED if accelerated else 1)
    usual = float(np.median(sides))
    fitting = [side for side in SIDES if side <= usual and side**2 <= most]
    return max(fitting, default=SIDES[0])


def network(size: Size, stage: Stage, side: int, device: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A denoiser of that size with a batch of noise and times."""
    cells = side // stage.factor
    with torch.device(device):
        made = CORES[size.kind](in_channels=stage.latent_channels, grid=(cells, cells), **size.sizes)
        return made, torch.randn(BATCH, stage.latent_channels, cells, cells), torch.rand(BATCH) * 1000


def size_for(
    ladder: Sequence[Size], stage: Stage, side: int, count: int, minutes: float, device: str
) -> tuple[Size, float]:
    """The largest denoiser for so many pictures that makes enough updates in the time, and how many a second."""
    speed = flops_a_second(*network(ladder[0], stage, side, device))
    seconds = 60 * minutes * SPARE * (1 - FIRST_STAGE)
    chosen, pace = ladder[0], speed / flops_of(*network(ladder[0], stage, side, "meta"))
    for size in ladder[1:]:
        updates = speed / flops_of(*network(size, stage, side, "meta"))
        if count >= size.pictures and updates * seconds >= FEWEST_UPDATES:
            chosen, pace = size, updates
    return chosen, pace


class Reconstruction(nn.Module):
    """A first stage as a function of pictures to pictures."""

    def __init__(self, stage: AutoencoderKL) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.stage(x, torch.Generator(x.device)).x
        return out


def first_stage_for(stage: Stage, side: int, channels: int, minutes: float, device: str) -> dict[str, Any]:
    """The section `first_stage` with as many updates as its share of the time allows."""
    sizes: dict[str, Any] = {"latent_channels": stage.latent_channels, "channels": list(stage.channels), "patch": 2}
    made = AutoencoderKL(in_channels=channels, **sizes).to(device)
    pace = fastest_update(Reconstruction(made), torch.randn(FIRST_BATCH, channels, side, side, device=device))
    steps = min(MOST_FIRST, max(100, round(60 * minutes * SPARE * FIRST_STAGE / pace)))
    training = {"steps": steps, "batch_size": FIRST_BATCH, "learning_rate": 4e-3, "preview_every": max(50, steps // 2)}
    fixed = {"kind": "AutoencoderKL", "reconstruction": "l2", "posterior_std": 0.08, "kl_weight": 1e-6}
    return fixed | sizes | {"training": training}


def proposal(survey: Survey, name: str, root: str | None, minutes: float, device: str) -> Proposal:
    """See `Modality.plan`."""
    held = survey.held
    side = side_for(survey.sides(), minutes, device != "cpu")
    stage, ladder = stage_for(side, held.channels == 1), UNETS if held.captions is None else DITS
    size, pace = size_for(ladder, stage, side, len(held), minutes, device)
    first = first_stage_for(stage, side, held.channels, minutes, device)
    if held.channels == 1 and held.num_classes > 1:
        first["perceptual"] = {"weight": 0.1}
    steps = max(100, round(pace * 60 * minutes * SPARE * (1 - FIRST_STAGE)))
    every = max(50, steps // 20)
    tree = {
        "name": "planned",
        "description": f"Planned for {held.name} and {minutes:g} minutes.",
        "minutes": minutes,
        "data": {"name": name, "root": root, "size": side, "on_corrupt": "skip"},
        "first_stage": first,
        "process": {"kind": "RectifiedFlow"},
        "denoiser": {"kind": size.kind, **size.sizes},
        "prompt": None if held.captions is None else PROMPT,
        "training": {
            "steps": steps,
            "batch_size": BATCH,
            "learning_rate": size.learning_rate,
            "weight_decay": 0.01,
            "decay": 0.3,
            "checkpoint_every": every,
            "preview_every": 4 * every,
        },
        "snapshot": 0.125,
        "sampling": {"guidance_kind": "autoguidance", "guidance_scale": 2.0 if held.channels == 1 else 3.0},
        "compute": {"weights_dtype": "float16"},
    }
    latents = "×".join(map(str, (stage.latent_channels, side // stage.factor, side // stage.factor)))
    choice = (
        f"pictures of {side}×{side}, latents of {latents}, a {size.kind} of width {size.sizes['width']}; "
        f"{first['training']['steps']} updates of the autoencoder, about {steps} of the denoiser"
    )
    return Proposal(tree, in_words(survey), choice)


def refinement(survey: Survey, name: str, root: str | None, minutes: float, device: str, folder: Path) -> Proposal:
    """See `Modality.refine`: the model's sizes, all its weights, and as many updates as fit."""
    model = load(folder, device)
    begun = model.training.get("recipe", {})
    if model.modality != "image" or "denoiser" not in begun:
        raise LatentiaError(f"{folder} holds no model of pictures with its recipe: it cannot be trained further")
    if model.condition("prompt") is not None and survey.held.captions is None:
        raise LatentiaError(f"{folder} reads prompts, and {name} has no captions: put cat.txt beside cat.png, say")
    core = model.denoiser.core.requires_grad_(True)  # a loaded model is frozen
    with torch.device(device):
        pace = fastest_update(core, torch.randn(REFINED_BATCH, *model.latent_shape), torch.rand(REFINED_BATCH))
    steps = max(50, round(60 * minutes * SPARE / pace))
    every = max(25, steps // 10)
    kept = ("first_stage", "process", "denoiser", "objective", "prompt", "sampling")
    tree = {key: begun[key] for key in kept if key in begun} | {
        "name": "planned",
        "description": f"{folder.name} trained further on {survey.held.name} for {minutes:g} minutes.",
        "minutes": minutes,
        "init": str(folder),
        "data": {"name": name, "root": root, "size": model.codec.size, "on_corrupt": "skip"},
        "training": {
            "steps": steps,
            "batch_size": REFINED_BATCH,
            "learning_rate": REFINED_RATE,
            "warmup": 20,
            "decay": 0.3,
            "checkpoint_every": every,
            "preview_every": 2 * every,
        },
        "compute": {"weights_dtype": "float16"},
    }
    choice = f"the model's own sizes, pictures of {model.codec.size}×{model.codec.size}, about {steps} updates"
    return Proposal(tree, in_words(survey), choice)


def in_words(survey: Survey) -> list[str]:
    """What is there: counts, sizes, classes, captions, what cannot be read."""
    held, sides = survey.held, survey.sides()
    sizes = Counter((head.width, head.height) for head in survey.heads)
    (width, height), most = sizes.most_common(1)[0]
    longest = max(max(head.height, head.width) for head in survey.heads)
    colour = "in grey" if held.channels == 1 else "in colour"
    many = f"of {len(sizes)} sizes, sides from {sides.min()} to {longest} pixels, most often {width}×{height} ({most})"
    lines = [f"{len(held)} pictures {colour} {many if len(sizes) > 1 else f'of {width}×{height}'}"]
    if held.labels is not None:
        lines.append(class_line(held.labels, held.class_names, "pictures"))
    if held.captions is not None:
        lines.append(f"{len(held.captions)} captions, such as {held.captions[0].splitlines()[0]!r:.80}")
    if held.skipped:
        lines.append(f"{len(held.skipped)} files are left out, such as {held.skipped[0]}")
    return lines
