"""What a denoiser knows beside the noisy latent and the time, and the three ways by which that enters a network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from latentia.diffusion.guidance import Values as Values
from latentia.errors import LatentiaError
from latentia.items import ItemSet
from latentia.latents.cache import JoinedCache, LatentCache


class Tokens(NamedTuple):
    """Vectors (B, L, width) that a network attends to, and the booleans (B, L) that say which of them count."""

    vectors: Tensor
    mask: Tensor


class Signals(NamedTuple):
    """The only three ways into a network.

    vector: (B, width), added to the embedding of the time.
    tokens: for cross-attention.
    grid: (B, channels, *grid), concatenated to the latent's channels.
    """

    vector: Tensor | None = None
    tokens: Tokens | None = None
    grid: Tensor | None = None


NOTHING = Signals()
LAST = 0.999  # the chance of previews: of the last caption, of a cluster rather than the class


@dataclass(frozen=True)
class Request:
    """What a person asks of a model: `count` items under these options, such as {"prompts": […]}.

    seed: None where a given latent decides what a condition would otherwise draw, such as a cluster. What is drawn for
        an item comes from (seed, index), `index` being that of the first.
    encode: items with gaps, as a context has them → normalised latents (B, *latent_shape).
    """

    count: int
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    index: int = 0
    encode: Callable[..., Tensor] | None = None


class TrainingData(NamedTuple):
    """What a condition learns from: items, and their latents in every view."""

    items: ItemSet
    latents: LatentCache | JoinedCache


class Condition(nn.Module):
    """One thing that a denoiser is conditioned on. A new one is a subclass with its own file.

    inputs: the names of its tensors. options: the names of what a person may ask for. chances: how many uniform random
    numbers an example needs in `draw`. grid_channels: what it concatenates to the latent. tokens: whether it gives any.
    dropout: whether a share of the training examples gets `null` instead, which guidance needs.
    `config` holds the JSON arguments of the constructor.
    """

    inputs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    chances: int = 0
    grid_channels: int = 0
    tokens: bool = False
    dropout: bool = True
    config: dict[str, Any]

    @classmethod
    def of(cls, plan: "Plan", **settings: Any) -> "Condition | None":
        """The condition that a recipe asks for on these items; None where it asks for none.

        `settings` are the fields of its section in the recipe's `conditions`.
        """
        raise NotImplementedError

    def draw(self, data: TrainingData, rows: Tensor, chance: Tensor) -> Values:
        """The tensors of training rows (B,), from uniform random numbers `chance` (B, chances); all on the CPU."""
        raise NotImplementedError

    def note(self, items: ItemSet) -> str | None:
        """What a person should know of training on these items, in one line."""
        return None

    def preview(self, data: TrainingData, rows: Tensor, like: Tensor) -> tuple[Values, Values]:
        """What a preview shows for training rows, and what guidance leads away from; `like` are latents (B, C, ...)."""
        own = self.draw(data, rows, torch.full((len(rows), self.chances), LAST))
        return own, without(own, self.null(like), torch.ones(len(rows), dtype=torch.bool))

    def request(self, request: Request, like: Tensor) -> tuple[Values, Values]:
        """The tensors of a request, and those that guidance leads away from.

        `like` are latents (B, C, *grid) of the request's count and grid. Raises LatentiaError for what does not fit.
        """
        raise NotImplementedError

    def parse(self, text: str) -> Mapping[str, Any]:
        """The options that `--condition NAME=TEXT` of the command line stands for, for one item."""
        return {self.options[0]: text}

    def null(self, like: Tensor) -> Values:
        """The tensors that say nothing, for latents `like` (B, C, *grid), on their device; shaped as a request's."""
        raise NotImplementedError

    def forward(self, values: Values) -> Signals:
        """The tensors of this condition, by the names in `inputs` → what enters the network."""
        raise NotImplementedError

    def save_files(self, folder: Path) -> None:
        """Writes what is no tensor, such as a tokenizer, into a model folder."""

    def load_files(self, folder: Path) -> None:
        """Reads what `save_files` wrote."""

    def take_files(self, other: "Condition") -> None:
        """Takes from a condition of the same kind what `load_files` would read."""


class GridCondition(Condition):
    """One tensor (B, grid_channels, *grid) that is concatenated to the latent; zeros say nothing."""

    def null(self, like: Tensor) -> Values:
        return {self.inputs[0]: like.new_zeros(len(like), self.grid_channels, *like.shape[2:])}

    def forward(self, values: Values) -> Signals:
        return Signals(grid=values[self.inputs[0]])


@dataclass(frozen=True)
class Plan:
    """What decides the conditions of a denoiser that is to be trained.

    recipe: the recipe. items: the training items. latent_shape: (channels, *grid).
    width: of the network's vectors and tokens; heads: of its attention.
    folder: of the run, for what a condition must keep, such as a tokenizer.
    """

    recipe: Any
    items: ItemSet
    latent_shape: tuple[int, ...]
    width: int
    heads: int
    folder: Path


def without(values: Values, null: Values, dropped: Tensor) -> Values:
    """The values (B, …), those of the examples `dropped` (B,) replaced by `null`, padded with zeros or cut to size."""
    result = {}
    for name, value in values.items():
        nothing = null[name].to(value.dtype)
        if nothing.shape != value.shape:
            nothing = torch.nn.functional.pad(nothing, (0, value.shape[-1] - nothing.shape[-1]))
        result[name] = torch.where(dropped.view(-1, *[1] * (value.ndim - 1)), nothing, value)
    return result


def check_numbers(what: str, numbers: Tensor, null: int) -> int | None:
    """The largest of integers (B,) from 0 to `null`, which stands for nothing; None where that is not looked at.

    Raises LatentiaError for another shape or type, or, on the CPU, range. On a GPU the range is left to the kernel's
    own assertion, since a check would wait for the device.
    """
    if numbers.ndim != 1 or numbers.is_floating_point() or numbers.dtype == torch.bool:
        raise LatentiaError(f"{what} are {numbers.dtype} {tuple(numbers.shape)}, expected integers (B,)")
    if numbers.device.type != "cpu" or not numbers.numel() or torch.compiler.is_compiling():
        return None
    low, high = (int(bound) for bound in numbers.aminmax())
    if low < 0 or high > null:
        raise LatentiaError(f"{what} run from {low} to {high}, expected 0 to {null - 1}, or {null} for none")
    return high
