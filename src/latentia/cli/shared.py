"""Options and small helpers that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from latentia.errors import LatentiaError

Model = Annotated[Path, typer.Argument(help="Model folder, as `latentia train` leaves it.")]
ModelOrShipped = Annotated[
    Path,
    typer.Argument(help="Model folder; without one, the emoji that come with Latentia.", show_default=False),
]
Device = Annotated[str, typer.Option(help="Where to compute, such as cpu, cuda or mps.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a field: denoiser.depth=8. Repeatable.")]
SetName = Annotated[str, typer.Argument(help="fashion-mnist, digits, cifar10, wordnet, hf:NAME, or a path.")]
Root = Annotated[Path | None, typer.Option(help="Folder that holds the files of a named set.")]
Size = Annotated[int | None, typer.Option(help="Resize and centre-crop to this side in pixels.")]
Steps = Annotated[int | None, typer.Option(min=1, max=10_000, help="Steps of the sampler.")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance scale; 1 is none.")]
OnCorrupt = Annotated[str, typer.Option(help="What to do about what cannot be read: refuse or skip.")]


def interval_of(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise LatentiaError(f"--interval {text}: expected two numbers, such as 0.2,5") from None
    return low, high


def scale_of(image_size: int) -> int:
    """How many times a small picture is enlarged for the eye."""
    return max(1, 56 // image_size)


def show_pairs(pairs: dict[str, object]) -> None:
    for name, value in pairs.items():
        typer.echo(f"{name + ':':<14}{value}")


def one_of(option: str, value: str, *choices: str) -> Any:
    if value not in choices:
        raise LatentiaError(f"{option} {value}: expected one of {', '.join(choices)}")
    return value


def say(message: str) -> None:
    typer.echo(message, err=True)
