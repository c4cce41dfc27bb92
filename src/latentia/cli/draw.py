"""The command `sample`: what is asked for, in options, words or a template, and where it goes."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentia.cli.shared import (
    Asked,
    Device,
    Guidance,
    Index,
    Metadata,
    Seed,
    Steps,
    asked_options,
    inform,
    interval_of,
    load_with_modality,
    say,
)
from latentia.errors import LatentiaError
from latentia.shipped import EMOJI, MODELS
from latentia.sources.hub import is_on_hub

if TYPE_CHECKING:
    from latentia.modalities.base import Modality
    from latentia.model import LatentModel

PICTURES, TEXTS, SAMPLER = "Pictures", "Texts", "Sampler and guidance"

What = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="Folder of a model or of a run; without one, the emoji that come with Latentia.",
        show_default=False,
    ),
]
Words = Annotated[
    str | None,
    typer.Argument(
        metavar="WORDS",
        help='What to draw: a prompt such as "a red heart", or a class of a model that reads no prompts.',
        show_default=False,
    ),
]
Scale = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=64,
        rich_help_panel=PICTURES,
        help="How many times each pixel of a grid is enlarged; without it small pictures are, to 64 pixels.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Pictures: a grid (.png, .jpg, .webp), a .npy array, a .gif of the denoising, or a folder of PNGs. Texts: "
        "a .txt file; without it they are printed."
    ),
]
ClassInTurn = Annotated[
    str | None, typer.Option("--class", help="Class by name, or by number as #2; without one, all in turn.")
]
Count = Annotated[
    int | None,
    typer.Option(min=1, help="How many; without it 64, or 1 of a prompt.", show_default=False),
]
Interval = Annotated[str | None, typer.Option(rich_help_panel=SAMPLER, help="Guide only for σ/α within LOW,HIGH.")]
GuidanceKind = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=SAMPLER, help="classifier_free, or autoguidance: away from the model's own early snapshot."
    ),
]
Rescale = Annotated[float | None, typer.Option(rich_help_panel=SAMPLER, help="Guidance rescale, 0 to 1.")]
Solver = Annotated[
    str | None, typer.Option(rich_help_panel=SAMPLER, help="ddpm, ddim, euler, heun, dpm_solver_2m or unipc_2.")
]
Spacing = Annotated[str | None, typer.Option(rich_help_panel=SAMPLER, help="uniform, trailing or karras.")]
Weaker = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=SAMPLER, help="Model folder of a weaker denoiser to be guided away from (autoguidance)."
    ),
]
Unconditional = Annotated[bool, typer.Option("--unconditional", help="Draw without a class.")]
Prompt = Annotated[str | None, typer.Option(help='What the items show, such as "a (sad:1.5) cat", emphasised by 1.5.')]
Negative = Annotated[str, typer.Option(help="A prompt that guidance leads away from.")]
Shape = Annotated[
    str | None,
    typer.Option(rich_help_panel=PICTURES, help="WIDTHxHEIGHT in pixels, if not that of the training pictures."),
]
Length = Annotated[int | None, typer.Option(min=1, rich_help_panel=TEXTS, help="How many tokens each has.")]
StopSigma = Annotated[
    float | None,
    typer.Option(min=0, rich_help_panel=TEXTS, help="σ/α at which diffusion leaves the rest to the decoder."),
]
Temperature = Annotated[
    float | None, typer.Option(min=0, rich_help_panel=TEXTS, help="Of the decoder's draws; 0 is none.")
]
Prefix = Annotated[str | None, typer.Option(rich_help_panel=TEXTS, help="A beginning to be continued.")]
Infill = Annotated[str | None, typer.Option(rich_help_panel=TEXTS, help="A template whose ___ is to be filled.")]
Between = Annotated[
    tuple[str, str] | None,
    typer.Option(rich_help_panel=TEXTS, help="Two texts; COUNT on the way from one to the other."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Items at a time.")]


def model_and_words(what: str | None, words: str | None) -> tuple[Path, str | None]:
    """The model folder and the words of a command with one of them, both or none.

    Raises LatentiaError where neither is meant for sure.
    """
    if what is None or words is not None or Path(what).exists() or is_on_hub(what) or what in MODELS:
        return (EMOJI if what is None else Path(what)), words
    if len(what.split()) > 1 and "/" not in what:
        inform(f"{what!r} is drawn by the emoji model; name another model before it")
        return EMOJI, what
    raise LatentiaError(f"{what} does not exist: expected the folder of a model; words are given by --prompt {what!r}")


def class_and_prompt(
    model: "LatentModel", words: str | None, class_: str | None, prompt: str | None
) -> tuple[str | None, str | None]:
    """The class and the prompt, one of which may be given by words alone. Raises LatentiaError where both are."""
    if words is None:
        return class_, prompt
    reads = model.condition("prompt") is not None
    if (prompt if reads else class_) is not None:
        option = "--prompt" if reads else "--class"
        raise LatentiaError(f"{words!r} and {option} say both what to draw: give one of them")
    return (class_, words) if reads else (words, prompt)


def warn_of_no_guidance(model: "LatentModel", guidance: float | None, given: dict[str, object]) -> None:
    """Names the options of guidance that change nothing, since its scale is 1."""
    if model.settings({"guidance_scale": guidance}).guidance_scale == 1:
        for option in [name for name, value in given.items() if value]:
            say(f"{option} changes nothing at a guidance of 1: give --guidance 2 or so")


def sample(
    what: What = None,
    words: Words = None,
    out: Out = None,
    class_: ClassInTurn = None,
    count: Count = None,
    steps: Steps = None,
    guidance: Guidance = None,
    interval: Interval = None,
    guidance_kind: GuidanceKind = None,
    rescale: Rescale = None,
    sampler: Solver = None,
    spacing: Spacing = None,
    weaker: Weaker = None,
    unconditional: Unconditional = False,
    length: Length = None,
    prompt: Prompt = None,
    negative: Negative = "",
    condition: Asked = None,
    size: Shape = None,
    scale: Scale = None,
    stop_sigma: StopSigma = None,
    temperature: Temperature = None,
    prefix: Prefix = None,
    infill: Infill = None,
    between: Between = None,
    seed: Seed = 0,
    index: Index = 0,
    metadata: Metadata = True,
    batch_size: BatchSize = 256,
    device: Device = "cpu",
) -> None:
    """Draw items from a model, and say how long it took from the start of the process on."""
    from latentia.applications.provenance import provenance
    from latentia.applications.requests import weaker_denoiser
    from latentia.modalities.base import Drawing
    from latentia.model import check_amount

    folder, words = model_and_words(what, words)
    loaded, modality = load_with_modality(folder, device)
    class_, prompt = class_and_prompt(loaded, words, class_, prompt)
    count = count or (64 if prompt is None and not index else 1)
    check_amount(count, index, batch_size, loaded.latent_shape)
    settings: dict[str, Any] = {"sampler": sampler, "steps": steps, "spacing": spacing, "guidance_scale": guidance}
    settings |= {"guidance_interval": interval_of(interval), "guidance_rescale": rescale, "seed": seed, "index": index}
    settings |= {"guidance_kind": guidance_kind, "stop_sigma": stop_sigma, "temperature": temperature}
    settings |= {"weaker": weaker and weaker_denoiser(weaker, loaded), "batch_size": batch_size}
    warn_of_no_guidance(loaded, guidance, {"--weaker": weaker, "--negative": negative})
    settings |= {"lengths": None if length is None else [length] * count}
    settings |= {"size": None if size is None else modality.size_of("--size", size)}
    settings |= {"prompts": None if prompt is None else [prompt] * count, "negative_prompt": negative or None}
    settings |= asked_options(loaded, condition, count, settings)
    writer = _writer(modality, out, enlarged := {} if scale is None else {"scale": scale})
    labels, draw = _drawing(loaded, modality, class_, count, unconditional, (prefix, infill, between), settings)
    if out is None:
        typer.echo("\n".join(draw()))
        return
    facts = provenance(loaded, labels, settings) if metadata and labels is not None else []
    writer(Drawing(loaded, draw, labels, facts, enlarged), out)
    typer.echo(f"wrote {out} after {since_start():.1f} s")


def since_start() -> float:
    """Seconds since this process began."""
    import psutil

    return time.time() - psutil.Process().create_time()


def _writer(modality: "Modality", out: Path | None, options: dict[str, Any]) -> Any:
    """What writes the items with these options, by the ending of the file's name; None where they are printed."""
    for name in options.keys() - modality.drawing_options:
        raise LatentiaError(f"--{name} is not for {modality.plural}")
    if out is None:
        if modality.prints:
            return None
        example = f"grid{modality.ending}"
        raise LatentiaError(f"--out is missing: say where the {modality.plural} go, such as --out {example}")
    from latentia.files import check_writable

    check_writable(out)
    writers = modality.all_writers()
    if out.suffix.lower() not in writers:
        *most, last = [ending for ending in writers if ending]
        endings = f"{', '.join(most)} or {last}" if most else last
        endings += ", or a folder" if "" in writers else ""
        raise LatentiaError(f"--out {out}: expected a name that ends in {endings}")
    return writers[out.suffix.lower()]


def _drawing(
    model: "LatentModel",
    modality: "Modality",
    class_: str | None,
    count: int,
    unconditional: bool,
    template: tuple[str | None, str | None, tuple[str, str] | None],
    settings: dict[str, Any],
) -> tuple[Any, Any]:
    """Labels, and a function that draws the items: plainly, by a beginning or a template, or between two items."""
    prefix, infill, between = template
    if sum(value is not None for value in template) > 1:
        raise LatentiaError("--prefix, --infill and --between exclude each other")
    if between is not None:
        return None, lambda **more: modality.between(model, *between, count)
    if prefix is not None or infill is not None:
        label = None if class_ is None else model.class_index(class_)

        def complete(**more: Any) -> Any:
            items, missed = modality.complete(
                model, count, label=label, prefix=prefix, infill=infill, **(settings | more)
            )
            if missed:
                say(f"{missed} of {count} {modality.plural} do not keep the template word for word")
            return items

        return None, complete
    labels = _labels(model, class_, range(settings["index"], settings["index"] + count), unconditional)
    return labels, lambda **more: model.generate(labels, progress=True, **(settings | more))


def _labels(model: "LatentModel", class_: str | None, indices: range, unconditional: bool) -> Any:
    import numpy as np

    names, count = model.class_names, len(indices)
    if unconditional or not names:
        if class_ is not None:
            reason = "--unconditional forbids one" if names else "the model has no classes"
            raise LatentiaError(f"--class {class_}: {reason}")
        return np.full(count, len(names))
    return np.full(count, model.class_index(class_)) if class_ is not None else np.array(indices) % len(names)
