"""Commands for pictures alone: inpaint, restore, augment and what that may need, and `data prepare`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

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
    Root,
    Seed,
    Steps,
    labels_of,
    load_with_modality,
    one_of,
    sampling_of,
    say,
    show_pairs,
)
from latentia.errors import LatentiaError

if TYPE_CHECKING:
    from latentia.modalities.image.degrade import Degradation
    from latentia.model import LatentModel

Picture = Annotated[Path, typer.Argument(help="A picture of the model's size.")]
Prompt = Annotated[str | None, typer.Option(help="What the picture shows, for a model that reads prompts.")]
Count = Annotated[int, typer.Option(min=1, max=4096, help="How many to draw.")]
Out = Annotated[Path, typer.Option(help="Folder for sheet.png, before beside after, and one PNG for each picture.")]
Even = Annotated[bool, typer.Option("--even", help="All classes are equally frequent among the unlabelled pictures.")]
Noise = Annotated[
    float,
    typer.Option(min=0.01, max=255, help="Grey levels of 255 by which the input may miss: noise, and what the "
                 "autoencoder cannot give back."),
]  # fmt: skip


Guess = Annotated[
    str | None,
    typer.Option(
        help="Labelled pictures of the model's classes, a folder or a built-in set: the class is what a classifier, "
        "trained on them with the same part hidden, sees in the rest."
    ),
]
Method = Annotated[
    str,
    typer.Option(
        help="posterior (agrees with what is visible), repaint (faster, no gradients), or trained (for a model trained "
        "with task.kind=inpaint); auto: what the model is made for."
    ),
]
Simulate = Annotated[bool, typer.Option("--simulate", help="Degrade the picture first, to see what comes back.")]


# The options of `restore` that a task reads.
OF_TASK = {"super-resolution": ("factor",), "deblur": ("blur",), "motion-deblur": ("length", "angle")}


def add_commands(app: typer.Typer, data_app: typer.Typer) -> None:
    for command in (inpaint, restore, augment, name):
        app.command()(command)
    data_app.command("prepare")(prepare)


def inpaint(
    model: Model,
    picture: Picture,
    mask: Annotated[Path, typer.Option(help="A picture of the same size: white is repaired, black is kept.")],
    out: Out,
    class_: Class = None,
    prompt: Prompt = None,
    condition: Asked = None,
    guess: Guess = None,
    count: Count = 4,
    method: Method = "auto",
    of: Annotated[int, typer.Option(min=1, max=256, help="Keep the most typical of so many draws, each time.")] = 1,
    noise: Noise = 13.0,
    steps: Steps = None,
    guidance: Guidance = None,
    fit: Fit = False,
    seed: Seed = 0,
    index: Index = 0,
    metadata: Metadata = True,
    root: Root = None,
    device: Device = "cpu",
) -> None:
    """Repair the masked part of a picture; the rest comes back bit for bit."""
    from latentia.applications.provenance import provenance
    from latentia.modalities.image.applications.repair import inpaint as draw
    from latentia.modalities.image.applications.repair import most_typical, picture_stage, repair_task
    from latentia.modalities.image.degrade import cover
    from latentia.modalities.image.readers.image_cache import read_mask
    from latentia.randomness import derived_seed

    if guess is not None and class_ is not None:
        raise LatentiaError("--class and --guess exclude each other: the class is known, or it is guessed")
    chosen = one_of("--method", method, "auto", "posterior", "repaint", "trained")
    loaded, modality = load_with_modality(model, device)
    picture_stage(loaded)
    before, hidden = modality.read(picture, loaded, fit), read_mask(mask, loaded.codec.size, fit)
    labels = labels_of(loaded, class_, count)
    if guess is not None:
        labels = _guessed(loaded, guess, root, before, hidden, device).repeat(count)
    options: dict[str, Any] = {"noise_std": noise / 127.5, "progress": True}
    options |= {"method": None if chosen == "auto" else chosen}
    sampling = sampling_of(loaded, steps, guidance, prompt, condition, count) | {"index": index}
    options |= sampling
    pictures, masks = before[None].repeat(count, 0), hidden[None].repeat(count, 0)
    seeds = [derived_seed(seed, "draw", n) for n in range(of)]
    after = most_typical([draw(loaded, pictures, masks, labels, seed=own, **options) for own in seeds])
    used = chosen if chosen != "auto" else "posterior" if repair_task(loaded) is None else "trained"
    made = {"command": "inpaint", "item": picture.name, "mask": mask.name, "of": of, "noise": noise, "sampler": used}
    facts = provenance(loaded, labels, sampling | {"seed": seed}, made) if metadata else []
    typer.echo(f"wrote {out}: {modality.write_results(out, [before, cover(before, hidden)], after, facts)}")


def _guessed(loaded: "LatentModel", guess: str, root: Path | None, before: Any, hidden: Any, device: str) -> Any:
    """The class, as a label (1,), that a classifier trained on the pictures `guess` sees in what is not hidden."""
    from latentia.modalities.image.evaluation.label import guess_classes
    from latentia.modalities.image.pictures import levels_of
    from latentia.modalities.image.readers.builtin import load_pictures

    real = load_pictures(guess, "train", loaded.codec.size, "refuse", root, levels_of(loaded.training))
    labels = guess_classes(loaded, real, before[None], hidden[None], device=device, progress=True)
    say(f"guessed class: {loaded.class_names[labels[0]]}")
    return labels


def restore(
    model: Model,
    picture: Annotated[Path, typer.Argument(help="The degraded picture; with --simulate, an intact one.")],
    task: Annotated[str, typer.Option(help="super-resolution, deblur, motion-deblur, denoise or colourise.")],
    out: Out,
    class_: Class = None,
    prompt: Prompt = None,
    condition: Asked = None,
    count: Count = 4,
    factor: Annotated[int, typer.Option(min=2, max=64, help="super-resolution: by how much it is enlarged.")] = 2,
    blur: Annotated[float, typer.Option(help="deblur: standard deviation of the blur in pixels.")] = 1.5,
    length: Annotated[float, typer.Option(help="motion-deblur: length of the motion in pixels.")] = 7.0,
    angle: Annotated[float, typer.Option(help="motion-deblur: its direction in degrees.")] = 0.0,
    noise: Noise = 13.0,
    simulate: Simulate = False,
    steps: Steps = None,
    guidance: Guidance = None,
    fit: Fit = False,
    seed: Seed = 0,
    index: Index = 0,
    metadata: Metadata = True,
    device: Device = "cpu",
) -> None:
    """Undo a known degradation of a picture: too few pixels, blur, noise, lost colour."""
    from latentia.applications.provenance import provenance
    from latentia.modalities.image import degrade
    from latentia.modalities.image.applications.repair import enlarge, picture_stage, repair_task
    from latentia.modalities.image.applications.repair import restore as draw
    from latentia.modalities.image.pictures import to_uint8

    tasks: dict[str, Callable[[], Degradation]] = {
        "super-resolution": lambda: degrade.shrink(factor),
        "deblur": lambda: degrade.blur(degrade.gaussian_kernel(blur)),
        "motion-deblur": lambda: degrade.blur(degrade.motion_kernel(length, angle)),
        "denoise": lambda: degrade.keep_all,
        "colourise": lambda: degrade.grey,
    }
    what = Restoration(one_of("--task", task, *tasks), factor, tasks[task]())
    loaded, modality = load_with_modality(model, device)
    picture_stage(loaded)
    sampling = sampling_of(loaded, steps, guidance, prompt, condition, count) | {"seed": seed, "index": index}
    deviation = noise / 127.5
    before, degraded = _degraded(loaded, picture, what, fit, deviation if simulate else None, seed)
    labels, options = labels_of(loaded, class_, count), {"progress": True, **sampling}
    trained = repair_task(loaded)
    if trained is None:
        measured = degraded.expand(count, *degraded.shape[1:])
        after = draw(loaded, measured, what.degradation, labels, noise_std=deviation, **options)
    elif (task.replace("-", "_"), factor) != (trained.kind, trained.factor):
        raise LatentiaError(f"the model is trained for one task alone, {trained}")
    else:
        after = enlarge(loaded, to_uint8(degraded).repeat(count, 0), labels, **options)
    asked = {"factor": factor, "blur": blur, "length": length, "angle": angle}
    own = {name: asked[name] for name in OF_TASK.get(task, ())} | {"simulate": simulate}
    used = "posterior" if trained is None else "trained"
    made = {"command": "restore", "item": picture.name, "task": task, "noise": noise, "sampler": used, **own}
    facts = provenance(loaded, labels, sampling, made) if metadata else []
    typer.echo(f"wrote {out}: {modality.write_results(out, before, after, facts)}")


class Restoration(NamedTuple):
    """A task of `restore`, the factor of super-resolution, and the degradation that is undone."""

    task: str
    factor: int
    degradation: "Degradation"


def _degraded(
    loaded: "LatentModel", picture: Path, what: Restoration, fit: bool, noise: float | None, seed: int
) -> tuple[list[Any], Any]:
    """Pictures that precede the result on its sheet, and the degraded one, float (1, ...), made here with noise."""

    from latentia.modalities.image.pictures import levels_of, to_float, to_uint8
    from latentia.modalities.image.readers.image_cache import read_one
    from latentia.randomness import normal, seeded

    channels, size = loaded.first_stage.config["in_channels"], loaded.codec.size
    levels = levels_of(loaded.training)
    made = 1 if what.task == "colourise" else channels
    small = size // what.factor if what.task == "super-resolution" else size
    before = []
    if noise is None:
        degraded = to_float(read_one(picture, made, small, fit, levels=levels)[None])
    else:
        before.append(read_one(picture, channels, size, fit, levels=levels))
        degraded = what.degradation(to_float(before[0][None]))
        if what.task == "denoise":
            degraded = degraded + noise * normal(degraded.shape, seeded(seed, "degrade"))
    enlarged = to_uint8(degraded)[0].repeat(size // small, 0).repeat(size // small, 1)
    return [*before, enlarged.repeat(channels // made, 2)], degraded


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
    from latentia.modalities.image.applications.augment import Augmentation, augment_set

    per = None if balance else per_class
    how = Augmentation(per, strength, unlabelled, even, min_confidence, allow_copies)
    sampling = {"steps": steps, "guidance_scale": guidance}
    typer.echo(augment_set(model, data, out, how, root=root, sampling=sampling, seed=seed, device=device))
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
    """Name the classes of a model of unlabelled pictures, from few labelled ones and without training it again."""
    from latentia.modalities.image.evaluation.label import name_run

    typer.echo(name_run(run, data, out, root=root, even=even, seed=seed, device=device))
    typer.echo(f"wrote {out}")


def prepare(
    name: Annotated[str, typer.Argument(help="emoji.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures; one that is there is replaced.")],
    size: Annotated[int, typer.Option(help="Side in pixels.")] = 64,
    language: Annotated[
        list[str] | None, typer.Option(help="Language of the captions, such as en or zh. Repeatable.")
    ] = None,
) -> None:
    """Make a set of captioned pictures: some 1,900 emoji in four styles, a tenth of them held out, style by style."""
    from latentia.modalities.image.readers.emoji import EMOJI_LANGUAGES, prepare_emoji

    one_of("NAME", name, "emoji")
    counts = prepare_emoji(out, size, language or EMOJI_LANGUAGES)
    show_pairs({"pictures": sum(counts.values()), **counts, "folder": out})
