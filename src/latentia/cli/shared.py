"""Options and small helpers that several commands share."""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentia.errors import LatentiaError, printable

if TYPE_CHECKING:
    from latentia.modalities.base import Modality
    from latentia.model import LatentModel

Model = Annotated[Path, typer.Argument(help="Model folder, as `latentia train` leaves it.")]
ModelOrShipped = Annotated[
    Path,
    typer.Argument(help="Model folder; without one, the emoji that come with Latentia.", show_default=False),
]


def _seed(seed: int) -> int:
    if seed == -1:
        seed = secrets.randbelow(2**31)
        say(f"seed: {seed}")
    if not 0 <= seed < 2**63:
        raise LatentiaError(f"--seed {seed}: expected 0 to 2⁶³ − 1, or -1 for one by chance")
    return seed


def _device(device: str) -> str:
    if device != "cpu":
        from latentia.model import check_device

        check_device(device)
    return device


Device = Annotated[str, typer.Option(callback=_device, help="Where to compute, such as cpu, cuda or mps.")]
Metadata = Annotated[
    bool,
    typer.Option("--metadata/--no-metadata", help="Write seed, index, prompt, settings and the model's hash along."),
]
Index = Annotated[
    int,
    typer.Option(min=0, help="Number of the first: with the same seed, 17 draws what is item 17 of many."),
]
Seed = Annotated[int, typer.Option(callback=_seed, help="The same seed gives the same result; -1 draws one.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a field: denoiser.depth=8. Repeatable.")]
SetName = Annotated[str, typer.Argument(help="fashion-mnist, digits, cifar10, wordnet, hf:NAME, or a path.")]
Root = Annotated[Path | None, typer.Option(help="Folder that holds the files of a named set.")]
Size = Annotated[int | None, typer.Option(help="Resize and centre-crop to this side in pixels.")]
Steps = Annotated[int | None, typer.Option(min=1, max=10_000, help="Steps of the sampler.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale; 1 is none.")]
OnCorrupt = Annotated[str, typer.Option(help="What to do about what cannot be read: refuse or skip.")]
Class = Annotated[str | None, typer.Option("--class", help="Class by name, or by number as #2; without one, no class.")]
Fit = Annotated[bool, typer.Option("--fit", help="Cut or stretch an item of another size.")]
Asked = Annotated[
    list[str] | None,
    typer.Option("--condition", help="Ask a condition of the model: NAME=VALUE. Repeatable."),
]


def interval_of(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise LatentiaError(f"--interval {text}: expected two numbers, such as 0.2,5") from None
    return low, high


def asked_options(
    model: "LatentModel", asked: Sequence[str] | None, count: int, others: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of `LatentModel.generate` that NAME=VALUE texts stand for, for `count` items, beside `others`.

    Raises LatentiaError for a condition that the model does not have, and for an option that comes twice.
    """
    from latentia.applications.requests import askable, condition_options

    if wrong := next((text for text in asked or [] if "=" not in text), None):
        known = ", ".join(askable(model)) or "none"
        raise LatentiaError(f"--condition {wrong}: expected NAME=VALUE with a condition of the model: {known}")
    pairs = (text.split("=", 1) for text in asked or [])
    return condition_options(model, ((name, value) for name, value in pairs), count, others)


def sampling_of(
    model: "LatentModel", steps: int | None, guidance: float | None, prompt: str | None, asked: Any, count: int
) -> dict[str, Any]:
    """Options of `LatentModel.generate`; a prompt and the conditions count for each of `count` items."""
    options: dict[str, Any] = {"steps": steps, "guidance_scale": guidance}
    if prompt is not None:
        options["prompts"] = [prompt] * count
    return options | asked_options(model, asked, count, options)


def load_with_modality(folder: Path, device: str) -> tuple["LatentModel", "Modality"]:
    from latentia.modalities.registry import modality_named
    from latentia.model import load

    model = load(folder, device)
    return model, modality_named(model.modality)


def labels_of(model: "LatentModel", class_: str | None, count: int) -> Any:
    """`count` labels of a class, or of none."""
    import numpy as np

    return np.full(count, len(model.class_names) if class_ is None else model.class_index(class_))


def show_pairs(pairs: Any) -> None:
    for name, value in pairs.items():
        typer.echo(f"{name + ':':<14}{printable(str(value))}")


def one_of(option: str, value: str, *choices: str) -> Any:
    if value not in choices:
        raise LatentiaError(f"{option} {value}: expected one of {', '.join(choices)}")
    return value


def say(message: str) -> None:
    typer.echo(printable(message), err=True)


def inform(message: str) -> None:
    """Says what is good to know, but for --quiet."""
    if os.environ.get("LATENTIA_QUIET") != "1":
        say(message)
