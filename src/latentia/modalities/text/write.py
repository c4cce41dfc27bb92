"""Texts from a text model: completed where something is missing, and mixed."""

from typing import Any, NamedTuple

import torch

from latentia.diffusion import slerp
from latentia.errors import LatentiaError
from latentia.modalities.text.codec import GAP, TextCodec
from latentia.model import LatentModel

ROUNDS = 4  # draws at most for a template


class Completion(NamedTuple):
    """A text and whether it keeps all of its template word for word."""

    text: str
    keeps_template: bool


def complete(
    model: LatentModel, template: str, count: int, *, label: int | None = None, seed: int = 0, **sampling: Any
) -> list[Completion]:
    """`count` texts that fill the "___" of a template, such as "a small bird ___" or "a ___ used for cutting".

    The denoiser is conditioned on the latent of the template with a gap, and the decoder begins with the words before
    the gap. A drawn text need not keep the words after it, so texts are drawn anew, at most four times each; those that
    keep them to the letter come first. `sampling` are arguments of `LatentModel.generate`.
    Raises LatentiaError where the template has no gap or more than one, or is too long.
    """
    _require_text(model)
    if template.count(GAP) != 1:
        raise LatentiaError(f"{template[:60]!r} has {template.count(GAP)} gaps, expected one {GAP}")
    before, after = (part.strip() for part in template.split(GAP))
    labels = [len(model.class_names) if label is None else label] * count
    kept: list[str] = []
    missed: list[str] = []
    for number in range(ROUNDS):
        texts = model.generate(labels, context=[template.strip()] * count, seed=seed + number, **sampling)
        for text in texts:
            longer = len(text) > len(before) + len(after)
            keeps = longer and text.startswith(before) and text.endswith(after)
            (kept if keeps else missed).append(text)
        if len(kept) >= count:
            break
    completions = [Completion(text, True) for text in kept] + [Completion(text, False) for text in missed]
    return completions[:count]


def interpolate(model: LatentModel, first: str, second: str, count: int) -> list[str]:
    """`count` texts on the way from one to the other, both ends included: decoded from latents between theirs.

    Each latent vector moves on the great circle (Shoemake 1985, slerp), which keeps its length.
    Raises LatentiaError for fewer than two steps.
    """
    _require_text(model)
    if count < 2:
        raise LatentiaError(f"an interpolation has at least its 2 ends, not {count}")
    a, b = model.encode([first, second])
    ways = torch.linspace(0, 1, count, device=a.device)
    texts: list[str] = model.decode(torch.stack([slerp(a, b, float(way)) for way in ways]))
    return texts


def _require_text(model: LatentModel) -> None:
    if not isinstance(model.codec, TextCodec):
        raise LatentiaError("the model makes pictures, not texts")
