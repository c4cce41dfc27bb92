"""Looks a data set, a run or a model over, and says what to do."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from latentia.errors import LatentiaError
from latentia.files import RECIPE_NAME
from latentia.latents.first_stage import FirstStage
from latentia.modalities.base import Finding
from latentia.modalities.registry import modalities
from latentia.model import INDEX_NAME, LatentModel, load
from latentia.shipped import MODELS
from latentia.training.log import read_log
from latentia.training.validation import remarks

DEAD = 0.05  # of the largest standard deviation of a channel
WILD = 3.0  # times its median that a loss jumps up again and again
OFTEN = 0.05  # of the rows
SLOW = 0.02  # of its value that a loss falls in the last third, with which more steps would help
ENOUGH = 12  # rows


def examine(what: str, root: str | None = None) -> list[Finding]:
    """Findings on what a name or a path stands for: a model folder, a run, or a data set.

    Raises LatentiaError where it is none of them.
    """
    path = Path(what).expanduser()
    if (path / RECIPE_NAME).exists():
        return [*of_run(path)]
    if (path / INDEX_NAME).exists() or what in MODELS:
        return [*of_model(load(path))]
    return max(modalities().values(), key=lambda known: known.claims(what)).examine(what, root)


def of_run(out: Path) -> Iterator[Finding]:
    """Losses of both stages, validation, and the model where there is one."""
    for stage in ("first_stage", "denoiser"):
        rows = read_log(out / stage / "log.csv")
        if not rows:
            yield Finding(f"{stage.replace('_', ' ')}: not trained yet")
            continue
        losses = torch.tensor([row["loss"] for row in rows])
        yield Finding(f"{stage.replace('_', ' ')}: {int(rows[-1]['step'])} updates, loss {losses[-1]:.4g}")
        yield from of_losses(losses, "training" if stage == "denoiser" else f"{stage}.training")
    history = [(int(row["step"]), row) for row in read_log(out / "denoiser" / "validation.csv")]
    if history:
        yield Finding(f"held-out loss {history[-1][1]['held_out_loss']:.4g} at step {history[-1][0]}")
        yield from remarks(history).values()
    try:
        yield from of_model(load(out))
    except LatentiaError as error:
        yield Finding(f"model: {error}")


def of_losses(losses: Tensor, section: str) -> Iterator[Finding]:
    """Whether a loss broke, jumps, or still falls."""
    if not torch.isfinite(losses).all():
        advice = f"resume with a lower {section}.learning_rate from the last checkpoint"
        yield Finding(f"the loss became {float(losses[~torch.isfinite(losses)][0])}", advice)
        return
    if len(losses) < ENOUGH:
        return
    third = len(losses) // 3
    usual = losses.unfold(0, third, 1).median(1).values
    high = (losses[third - 1 :] > WILD * usual).float().mean()
    if high > OFTEN:
        yield Finding(f"the loss jumps up in {high:.0%} of the log", f"lower {section}.learning_rate to a third")
    middle, last = losses[third : 2 * third].mean(), losses[-third:].mean()
    if last < (1 - SLOW) * middle:
        fallen = float(1 - last / middle)
        yield Finding(f"the loss still falls, by {fallen:.0%} in the last third", f"more {section}.steps would help")


def of_model(model: LatentModel) -> Iterator[Finding]:
    """Weights and latents."""
    for name, part in model.parts.items():
        broken = [key for key, value in part.state_dict().items() if not torch.isfinite(value.float()).all()]
        if broken:
            yield Finding(f"{name}: {broken[0]} is not finite", "go back to an earlier checkpoint")
    yield from of_latents(model.first_stage)


def of_latents(stage: FirstStage) -> Iterator[Finding]:
    """The mean and the standard deviation of each channel, as they were measured before normalising."""
    mean, std = stage.latent_mean.flatten(), stage.latent_std.flatten()
    yield Finding(
        f"latents: {len(std)} channels, means from {mean.min():.3g} to {mean.max():.3g}, standard deviations from "
        f"{std.min():.3g} to {std.max():.3g} (the denoiser sees them as 0 and 1)"
    )
    dead = torch.nonzero(std < DEAD * std.max()).flatten().tolist()
    if dead:
        advice = "they say nothing: train the first stage with fewer latent_channels, or with a smaller kl_weight"
        yield Finding(f"{len(dead)} channels of the latents hardly vary: {', '.join(map(str, dead[:10]))}", advice)
