"""Commands that make items from items of any modality: vary, interpolate."""

from pathlib import Path
from typing import Annotated

import typer

from latentia.cli.shared import (
    Asked,
    Class,
    Device,
    Fit,
    Guidance,
    Index,
    Metadata,
    Model,
    Seed,
    Steps,
    labels_of,
    load_with_modality,
    sampling_of,
)
from latentia.errors import LatentiaError

Item = Annotated[Path, typer.Argument(help="A file of an item that the model could have drawn.")]
Prompt = Annotated[str | None, typer.Option(help="What the item shows, for a model that reads prompts.")]
Count = Annotated[int, typer.Option(min=1, max=4096, help="How many to draw.")]
Out = Annotated[
    Path, typer.Option(help="Folder for a file of each item; for pictures also sheet.png, before beside after.")
]


def vary(
    model: Model,
    item: Item,
    out: Out,
    strength: Annotated[float, typer.Option(help="How much is drawn anew: near 0 nothing, 1 all.")] = 0.5,
    class_: Class = None,
    prompt: Prompt = None,
    condition: Asked = None,
    count: Count = 8,
    steps: Steps = None,
    guidance: Guidance = None,
    fit: Fit = False,
    seed: Seed = 0,
    index: Index = 0,
    metadata: Metadata = True,
    device: Device = "cpu",
) -> None:
    """Draw variations of an item."""
    from latentia.applications.provenance import provenance
    from latentia.applications.variation import SOLVER
    from latentia.applications.variation import vary as draw

    loaded, modality = load_with_modality(model, device)
    labels, before = labels_of(loaded, class_, count), modality.read(item, loaded, fit)
    options = sampling_of(loaded, steps, guidance, prompt, condition, count) | {"seed": seed, "index": index}
    after = draw(loaded, modality.stack([before] * count), labels, strength, progress=True, **options)
    made = {"command": "vary", "item": item.name, "strength": strength, "sampler": SOLVER}
    facts = provenance(loaded, labels, options, made) if metadata else []
    typer.echo(f"wrote {out}: {modality.write_results(out, [before], after, facts)}")


def interpolate(
    model: Model,
    first: Item,
    second: Item,
    out: Annotated[Path, typer.Option(help="Pictures: a .gif film there and back, or a .png with all in a row.")],
    class_: Class = None,
    prompt: Annotated[str | None, typer.Option(help="What both items show, for a model that reads prompts.")] = None,
    count: Annotated[int, typer.Option(min=2, max=4096, help="Items on the way, both ends included.")] = 16,
    steps: Annotated[int, typer.Option(min=2, max=10_000, help="Steps to the noise, and back.")] = 50,
    fit: Fit = False,
    device: Device = "cpu",
) -> None:
    """Draw the way from one item to another, through the model's noise."""
    from latentia.applications.variation import between

    loaded, modality = load_with_modality(model, device)
    endings = modality.way_endings or (modality.ending,)
    if out.suffix.lower() not in endings:
        raise LatentiaError(f"--out {out}: expected a name that ends in {' or '.join(endings)}")
    start, end = (modality.read(path, loaded, fit) for path in (first, second))
    label = int(labels_of(loaded, class_, 1)[0])
    way = between(loaded, start, end, label, count, steps, stack=modality.stack, prompt=prompt)
    modality.write_way(out, way.items)
    typer.echo(f"round trip to the noise and back: {modality.distance(way.ends, way.expected)}")
    typer.echo(f"wrote {out}")
