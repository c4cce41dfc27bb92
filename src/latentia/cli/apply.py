"""Commands that make pictures from pictures: inpaint, restore, vary, interpolate, augment and what that may need."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentia.cli.shared import Device, Guidance, Model, Root, Seed, Steps, one_of, say, scale_of
from latentia.errors import LatentiaError

if TYPE_CHECKING:
    from latentia.modalities.image.degrade import Degradation
    from latentia.model import LatentModel

Picture = Annotated[Path, typer.Argument(help="A picture of the model's size.")]
Class = Annotated[str | None, typer.Option("--class", help="Class name or number; without one, none is given.")]
Prompt = Annotated[str | None, typer.Option(help="What the picture shows, for a model that reads prompts.")]
Count = Annotated[int, typer.Option(min=1, max=4096, help="How many to draw.")]
Out = Annotated[Path, typer.Option(help="Folder for sheet.png, before beside after, and one PNG for each picture.")]
Fit = Annotated[bool, typer.Option("--fit", help="Resize and crop a picture of another size.")]
Even = Annotated[bool, typer.Option("--even", help="All classes are equally frequent among the unlabelled pictures.")]
Noise = Annotated[
    float,
    typer.Option(min=0.01, max=255, help="Grey levels of 255 by which what is given may miss: noise, and what the "
                 "autoencoder cannot give back."),
]  # fmt: skip


def add_commands(app: typer.Typer) -> None:
    for command in (inpaint, restore, vary, interpolate, augment, name):
        app.command()(command)


def inpaint(
    model: Model,
    picture: Picture,
    mask: Annotated[Path, typer.Option(help="A picture of the same size: white is repaired, black is kept.")],
    out: Out,
    class_: Class = None,
    prompt: Prompt = None,
    guess: Annotated[
        str | None,
        typer.Option(
            help="Labelled pictures of the model's classes, a folder or a built-in set: the class is what a "
            "classifier, trained on them with the same part hidden, sees in the rest."
        ),
    ] = None,
    count: Count = 4,
    method: Annotated[
        str,
        typer.Option(
            help="posterior (agrees with what is visible), repaint (faster, no gradients), or trained (for a model "
            "trained with task.kind=inpaint); auto: what the model is made for."
        ),
    ] = "auto",
    of: Annotated[int, typer.Option(min=1, max=256, help="Keep the most typical of so many draws, each time.")] = 1,
    noise: Noise = 13.0,
    steps: Steps = None,
    guidance: Guidance = None,
    fit: Fit = False,
    seed: Seed = 0,
    root: Root = None,
    device: Device = "cpu",
) -> None:
    """Repair the masked part of a picture; the rest comes back bit for bit."""
    from latentia.modalities.image.applications.repair import inpaint as draw
    from latentia.modalities.image.applications.repair import most_typical
    from latentia.modalities.image.degrade import cover
    from latentia.modalities.image.readers.single import read_mask

    if guess is not None and class_ is not None:
        raise LatentiaError("--class and --guess exclude each other: the class is known, or it is guessed")
    chosen = one_of("--method", method, "auto", "posterior", "repaint", "trained")
    chosen = None if chosen == "auto" else chosen
    loaded, before, labels = _read(model, picture, class_, count, fit, device)
    hidden = read_mask(mask, loaded.codec.size, fit)
    if not hidden.any():
        say(f"{mask} is black all over: nothing is repaired")
    if hidden.all():
        say(f"{mask} is white all over: the picture is drawn anew, nothing of it is kept")
    given, masks = before[None].repeat(count, 0), hidden[None].repeat(count, 0)
    if guess is not None:
        from latentia.modalities.image.evaluation.guess import guess_classes
        from latentia.modalities.image.readers.builtin import load_pictures

        real = load_pictures(guess, "train", loaded.codec.size, "refuse", root)
        labels = guess_classes(loaded, real, before[None], hidden[None], device=device, progress=True).repeat(count)
        say(f"guessed class: {loaded.class_names[labels[0]]}")
    options: dict[str, Any] = {"method": chosen, "noise_std": noise / 127.5, "progress": True}
    options |= _sampling(steps, guidance, prompt, count)
    after = most_typical(
        [draw(loaded, given, masks, labels, seed=of * seed + number, **options) for number in range(of)]
    )
    _write(out, [before, cover(before, hidden)], after)


def restore(
    model: Model,
    picture: Annotated[Path, typer.Argument(help="The degraded picture; with --simulate, an intact one.")],
    task: Annotated[str, typer.Option(help="super-resolution, deblur, motion-deblur, denoise or colourise.")],
    out: Out,
    class_: Class = None,
    prompt: Prompt = None,
    count: Count = 4,
    factor: Annotated[int, typer.Option(min=2, max=64, help="super-resolution: by how much it is enlarged.")] = 2,
    blur: Annotated[float, typer.Option(help="deblur: standard deviation of the blur in pixels.")] = 1.5,
    length: Annotated[float, typer.Option(help="motion-deblur: length of the motion in pixels.")] = 7.0,
    angle: Annotated[float, typer.Option(help="motion-deblur: its direction in degrees.")] = 0.0,
    noise: Noise = 13.0,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Degrade the picture first, to see what comes back.")
    ] = False,
    steps: Steps = None,
    guidance: Guidance = None,
    fit: Fit = False,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Undo a known degradation of a picture: too few pixels, blur, noise, lost colour."""
    import torch

    from latentia.modalities.image import degrade
    from latentia.modalities.image.applications.repair import enlarge
    from latentia.modalities.image.applications.repair import restore as draw
    from latentia.modalities.image.pictures import to_float, to_uint8
    from latentia.modalities.image.readers.single import read_one

    tasks: dict[str, Callable[[], Degradation]] = {
        "super-resolution": lambda: degrade.shrink(factor),
        "deblur": lambda: degrade.blur(degrade.gaussian_kernel(blur)),
        "motion-deblur": lambda: degrade.blur(degrade.motion_kernel(length, angle)),
        "denoise": lambda: degrade.keep_all,
        "colourise": lambda: degrade.grey,
    }
    degradation = tasks[one_of("--task", task, *tasks)]()
    loaded, labels = _load(model, class_, count, device)
    channels, size = loaded.first_stage.config["in_channels"], loaded.codec.size
    made, small = (1 if task == "colourise" else channels), (size // factor if task == "super-resolution" else size)
    if simulate:
        intact = read_one(picture, channels, size, fit)
        degraded = degradation(to_float(intact[None]))
        if task == "denoise":
            generator = torch.Generator().manual_seed(seed)
            degraded = degraded + noise / 127.5 * torch.randn(degraded.shape, generator=generator)
        shown = [intact]
    else:
        degraded = to_float(read_one(picture, made, small, fit)[None])
        shown = []
    sampling = _sampling(steps, guidance, prompt, count)
    if loaded.task is not None:
        if (task.replace("-", "_"), factor) != (loaded.task.kind, loaded.task.factor):
            raise LatentiaError(f"{model} is trained for one task alone, {loaded.task}")
        small_pictures = to_uint8(degraded).repeat(count, 0)
        after = enlarge(loaded, small_pictures, labels, seed=seed, progress=True, **sampling)
    else:
        after = draw(
            loaded,
            degraded.expand(count, *degraded.shape[1:]),
            degradation,
            labels,
            noise_std=noise / 127.5,
            seed=seed,
            progress=True,
            **sampling,
        )
    enlarged = to_uint8(degraded)[0].repeat(size // small, 0).repeat(size // small, 1)
    _write(out, [*shown, enlarged.repeat(channels // made, 2)], after)


def vary(
    model: Model,
    picture: Picture,
    out: Out,
    strength: Annotated[float, typer.Option(help="How much is drawn anew: near 0 nothing, 1 all.")] = 0.5,
    class_: Class = None,
    prompt: Prompt = None,
    count: Count = 8,
    steps: Steps = None,
    guidance: Guidance = None,
    fit: Fit = False,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Draw variations of a picture."""
    from latentia.modalities.image.applications.variation import vary as draw

    loaded, before, labels = _read(model, picture, class_, count, fit, device)
    given = before[None].repeat(count, 0)
    sampling = _sampling(steps, guidance, prompt, count)
    after = draw(loaded, given, labels, strength, seed=seed, progress=True, **sampling)
    _write(out, [before], after)


def interpolate(
    model: Model,
    first: Picture,
    second: Picture,
    out: Annotated[Path, typer.Option(help="A .gif film there and back, or a .png with all pictures in a row.")],
    class_: Class = None,
    prompt: Annotated[str | None, typer.Option(help="What both pictures show, for a model that reads prompts.")] = None,
    count: Annotated[int, typer.Option(min=2, max=4096, help="Pictures on the way, both ends included.")] = 16,
    steps: Annotated[int, typer.Option(min=2, max=10_000, help="Steps to the noise, and back.")] = 50,
    fit: Fit = False,
    device: Device = "cpu",
) -> None:
    """Draw the way from one picture to another, through the model's noise."""
    from latentia.modalities.image.applications.variation import between
    from latentia.modalities.image.grids import picture_grid, save_gif, save_png
    from latentia.modalities.image.readers.single import read_one

    if out.suffix.lower() not in (".gif", ".png"):
        raise LatentiaError(f"--out {out}: expected a name that ends in .gif or .png")
    loaded, before, labels = _read(model, first, class_, 1, fit, device)
    after = read_one(second, before.shape[2], loaded.codec.size, fit)
    way = between(loaded, before, after, int(labels[0]), count, steps, prompt=prompt)
    scale = scale_of(loaded.codec.size)
    if out.suffix.lower() == ".png":
        save_png(picture_grid(way.pictures, columns=count, scale=scale), out)
    else:
        there = [picture_grid(picture[None], scale=scale) for picture in way.pictures]
        save_gif([*there, *there[-2:0:-1]], out)
    typer.echo(f"round trip to the noise and back: {way.round_trip_error:.2f} grey levels of 255 (root mean square)")
    typer.echo(f"wrote {out}")


def augment(
    model: Model,
    data: Annotated[str, typer.Option(help="The real, labelled pictures: a folder or the name of a set.")],
    out: Annotated[Path, typer.Option(help="New folder: class/number.png, and manifest.jsonl.")],
    per_class: Annotated[int, typer.Option(min=1, help="Pictures of each class.")] = 500,
    balance: Annotated[
        bool, typer.Option("--balance", help="Instead: as many as each class lacks to be as large as the largest.")
    ] = False,
    strength: Annotated[
        float | None, typer.Option(help="Vary real pictures by so much, instead of drawing from noise.")
    ] = None,
    unlabelled: Annotated[
        str | None,
        typer.Option(
            help="Vary these pictures instead, a folder or the name of a set, each as the class that classifiers "
            "trained on DATA see in it; the strength is 0.5 unless given."
        ),
    ] = None,
    even: Even = False,
    min_confidence: Annotated[
        float, typer.Option(min=0, max=1, help="A classifier trained on DATA must give the class at least this.")
    ] = 0.5,
    allow_copies: Annotated[
        bool, typer.Option("--allow-copies", help="Keep what lies as near to a real picture as hardly any other does.")
    ] = False,
    root: Root = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Write synthetic labelled pictures for a classifier that has too few real ones."""
    from latentia.modalities.image.evaluation.augment import augment_set

    text = augment_set(
        model,
        data,
        out,
        root=root,
        per_class=None if balance else per_class,
        strength=strength,
        unlabelled=unlabelled,
        even=even,
        min_confidence=min_confidence,
        allow_copies=allow_copies,
        sampling=_sampling(steps, guidance),
        seed=seed,
        device=device,
    )
    typer.echo(text)
    typer.echo(f"wrote {out}")


def name(
    run: Annotated[Path, typer.Argument(help="The folder of a run on unlabelled pictures, with clusters.")],
    data: Annotated[str, typer.Option(help="Few labelled pictures of the same size: a folder or the name of a set.")],
    out: Annotated[Path, typer.Option(help="New model folder.")],
    even: Even = False,
    root: Root = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Tell a model of unlabelled pictures its classes, from few labelled pictures and without training it again."""
    from latentia.modalities.image.evaluation.label import name_run

    typer.echo(name_run(run, data, out, root=root, even=even, seed=seed, device=device))
    typer.echo(f"wrote {out}")


def _load(model: Path, class_: str | None, count: int, device: str) -> tuple["LatentModel", Any]:
    """The model, which must make pictures, and as many labels."""
    import numpy as np

    from latentia.modalities.image.codec import PictureCodec
    from latentia.model import load

    loaded = load(model, device)
    if not isinstance(loaded.codec, PictureCodec):
        raise LatentiaError(f"{model} makes texts, this command is for pictures")
    label = len(loaded.class_names) if class_ is None else loaded.class_index(class_)
    return loaded, np.full(count, label)


def _read(
    model: Path, picture: Path, class_: str | None, count: int, fit: bool, device: str
) -> tuple["LatentModel", Any, Any]:
    from latentia.modalities.image.readers.single import read_one

    loaded, labels = _load(model, class_, count, device)
    return loaded, read_one(picture, loaded.first_stage.config["in_channels"], loaded.codec.size, fit), labels


def _sampling(steps: int | None, guidance: float | None, prompt: str | None = None, count: int = 1) -> dict[str, Any]:
    """Arguments of `LatentModel.generate`; a prompt counts for each of `count` pictures."""
    sampling: dict[str, Any] = {"steps": steps, "guidance_scale": guidance}
    return sampling if prompt is None else sampling | {"prompts": [prompt] * count}


def _write(out: Path, before: list[Any], after: Any) -> None:
    import numpy as np

    from latentia.modalities.image.grids import picture_grid, save_png, write_pictures

    sheet = np.stack([*before, *after])
    save_png(picture_grid(sheet, columns=min(len(sheet), 10), scale=scale_of(sheet.shape[1])), out / "sheet.png")
    write_pictures(after, np.zeros(len(after), np.int64), (), out)
    typer.echo(f"wrote {out}: sheet.png and {len(after)} pictures")
