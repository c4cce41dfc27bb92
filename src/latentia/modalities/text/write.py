"""Texts from a text model: completed where something is missing, and mixed."""

from typing import Any

import torch

from latentia.diffusion import slerp
from latentia.errors import LatentiaError
from latentia.modalities.text.codec import GAP
from latentia.model import LatentModel
from latentia.randomness import derived_seed

ROUNDS = 4  # draws at most for a template


def complete(
    model: LatentModel, template: str, count: int, *, label: int | None = None, seed: int = 0, **sampling: Any
) -> tuple[list[str], int]:
    """`count` texts that fill the "___" of a template, such as "a ___ used for cutting", and how many do not keep it.

    The denoiser is conditioned on the latent of the template with a gap, and the decoder begins with the words before
    the gap. A drawn text need not keep the words after it, so texts are drawn anew, at most four times each; those that
    keep them to the letter come first. `sampling` are arguments of `LatentModel.generate`.
    Raises LatentiaError where the template has no gap or more than one, or is too long.
    """
    if template.count(GAP) != 1:
        raise LatentiaError(f"{template[:60]!r} has {template.count(GAP)} gaps, expected one {GAP}")
    before, after = (part.strip() for part in template.split(GAP))
    labels = [len(model.class_names) if label is None else label] * count
    kept: list[str] = []
    missed: list[str] = []
    for number in range(ROUNDS):
        own = derived_seed(seed, "try", number)
        texts = model.generate(labels, context=[template.strip()] * count, seed=own, **sampling)
        for text in texts:
            longer = len(text) > len(before) + len(after)
            (kept if longer and text.startswith(before) and text.endswith(after) else missed).append(text)
        if len(kept) >= count:
            break
    return (kept + missed)[:count], max(0, count - len(kept))


def interpolate(model: LatentModel, first: str, second: str, count: int) -> list[str]:
    """`count` texts on the way from one to the other, both ends included: decoded from latents between theirs.

    Each latent vector moves on the great circle (Shoemake 1985, slerp), which keeps its length.
    Raises LatentiaError for fewer than two steps.
    """
    if count < 2:
        raise LatentiaError(f"an interpolation has at least its 2 ends, not {count}")
    a, b = model.encode([first, second])
    ways = torch.linspace(0, 1, count, device=a.device)
    texts: list[str] = model.decode(torch.stack([slerp(a, b, float(way)) for way in ways]))
    return texts
