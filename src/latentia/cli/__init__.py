"""The command line: parses, calls one function, shows the result."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from latentia.cli import edit
from latentia.cli.shared import (
    Asked,
    Device,
    Guidance,
    Index,
    Metadata,
    Model,
    ModelOrShipped,
    OnCorrupt,
    Overrides,
    Root,
    Seed,
    SetName,
    Size,
    Steps,
    asked_options,
    inform,
    interval_of,
    load_with_modality,
    one_of,
    say,
    show_pairs,
)
from latentia.errors import LatentiaError, Stopped, first_line, is_out_of_memory, printable
from latentia.plugins import plugins
from latentia.shipped import EMOJI
from latentia.threads import settle
from latentia.version import __version__

if TYPE_CHECKING:
    from latentia.modalities.base import Modality
    from latentia.model import LatentModel

Out = Annotated[
    Path | None,
    typer.Option(
        help="Pictures: a .png grid, a .npy array, a .gif of the denoising, or a folder of PNGs. Texts: a .txt file; "
        "without it they are printed."
    ),
]
ClassInTurn = Annotated[
    str | None, typer.Option("--class", help="Class by name, or by number as #2; without one, all in turn.")
]
Count = Annotated[
    int | None,
    typer.Option(min=1, help="How many; without it 64, or 1 of a prompt.", show_default=False),
]
Interval = Annotated[str | None, typer.Option(help="Guide only for σ/α within LOW,HIGH.")]
GuidanceKind = Annotated[
    str | None, typer.Option(help="classifier_free, or autoguidance: away from the model's own early snapshot.")
]
Rescale = Annotated[float | None, typer.Option(help="Guidance rescale, 0 to 1.")]
Solver = Annotated[str | None, typer.Option(help="ddpm, ddim, euler, heun, dpm_solver_2m or unipc_2.")]
Spacing = Annotated[str | None, typer.Option(help="uniform, trailing or karras.")]
Weaker = Annotated[
    Path | None, typer.Option(help="Model folder of a weaker denoiser to be guided away from (autoguidance).")
]
Unconditional = Annotated[bool, typer.Option("--unconditional", help="Draw without a class.")]
Length = Annotated[int | None, typer.Option(min=1, help="Texts: how many tokens each has.")]
Prompt = Annotated[str | None, typer.Option(help='What the items show, such as "a (sad:1.5) cat", emphasised by 1.5.')]
Negative = Annotated[str, typer.Option(help="A prompt that guidance leads away from.")]
Shape = Annotated[
    str | None, typer.Option(help="Pictures: WIDTHxHEIGHT in pixels, if not that of the training pictures.")
]
StopSigma = Annotated[
    float | None, typer.Option(min=0, help="Texts: σ/α at which diffusion leaves the rest to the decoder.")
]
Temperature = Annotated[float | None, typer.Option(min=0, help="Texts: of the decoder's draws; 0 is none.")]
Prefix = Annotated[str | None, typer.Option(help="Texts: a beginning to be continued.")]
Infill = Annotated[str | None, typer.Option(help="Texts: a template whose ___ is to be filled.")]
Between = Annotated[
    tuple[str, str] | None, typer.Option(help="Texts: two texts; COUNT on the way from one to the other.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Items at a time.")]

# The status of a command that was asked to end, or by Ctrl-C.
TERMINATED, INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT

app = typer.Typer(
    name="latentia",
    help="Train, use and measure latent diffusion models on your own data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at data sets, and fetch the public ones.", no_args_is_help=True)
recipe_app = typer.Typer(help="The recipes that come with Latentia, and what their fields mean.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(recipe_app, name="recipe")


@data_app.command("show")
def data_show(
    name: SetName,
    out: Annotated[Path | None, typer.Option(help="Write a grid of pictures to this PNG.")] = None,
    split: Annotated[str, typer.Option(help="train or test.")] = "train",
    root: Root = None,
    size: Size = None,
    on_corrupt: OnCorrupt = "refuse",
    modality: Annotated[str | None, typer.Option(help="Read the set as one of this modality.")] = None,
    texts: Annotated[bool, typer.Option("--texts", hidden=True, help="Old spelling of --modality text.")] = False,
) -> None:
    """Say what a data set holds: count, size, classes, fingerprint, what was skipped."""
    from latentia.modalities.registry import modalities, modality_named

    chosen = one_of("--split", split, "train", "test"), one_of("--on-corrupt", on_corrupt, "refuse", "skip")
    if texts:
        modality = next(known.name for known in modalities().values() if known.prints)
        say(f"--texts is an old spelling of --modality {modality}")
    sure = max(modalities().values(), key=lambda known: known.claims(name))
    own = sure if modality is None else modality_named(modality)
    held = own.show(name, chosen[0], {"root": root, "on_corrupt": chosen[1], "size": size, "out": out})
    show_pairs(held.facts)
    for line in held.lines:
        typer.echo(line)


@data_app.command("doctor")
def data_doctor(
    what: Annotated[str, typer.Argument(metavar="DATA|RUN|MODEL", help="A data set, a run or a model folder.")],
    root: Root = None,
) -> None:
    """Look a data set, a run or a model over, and say what to do about each finding."""
    from latentia.evaluation.doctor import examine

    for what_is, advice in examine(what, None if root is None else str(root)):
        typer.echo(printable(f"! {what_is}: {advice}" if advice else f"  {what_is}"))


@data_app.command("fetch")
def data_fetch(name: Annotated[str, typer.Argument(help="fashion-mnist, wordnet or cifar10.")]) -> None:
    """Fetch a public data set into the cache: Fashion-MNIST and WordNet from Debian, CIFAR-10 from its home page."""
    from latentia.modalities.registry import modalities

    fetch = {name: fetcher for modality in modalities().values() for name, fetcher in modality.fetchers.items()}
    if name not in fetch:
        raise LatentiaError(f"{name} cannot be fetched, expected one of {', '.join(fetch)}")
    typer.echo(f"{name} lies in {fetch[name]()}")


@recipe_app.command("list")
def recipe_list() -> None:
    """Name the bundled recipes."""
    from latentia.training import bundled_recipes, load_recipe

    for name in bundled_recipes():
        typer.echo(f"{name:<24}{load_recipe(name).description}")


@recipe_app.command("show")
def recipe_show(
    name: Annotated[
        str | None, typer.Argument(help="A recipe's name or file; without one, every field is explained.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Print a recipe in full, or explain every field a recipe can have."""
    from latentia.training import describe_fields, dump_recipe, load_recipe

    if name is not None:
        typer.echo(dump_recipe(load_recipe(name, overrides or [])), nl=False)
        return
    for field, default, description in describe_fields():
        typer.echo(f"{field:<44}{default:<20}{description}")


@app.command()
def train(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA|RECIPE",
            help="A data set, for which settings are chosen: a folder, a file, or the name of one. Or a bundled recipe "
            "(see `latentia recipe list`) or a YAML file. With --resume nothing: the run has its recipe.",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Time that the training may take; more or less of it with --resume.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run; the model is left in its subfolder model/. Without it runs/ and the name.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue a run that was stopped or killed, or with more training.steps."),
    ] = False,
    first_stage: Annotated[Path | None, typer.Option(help="Build on this first_stage folder, training none.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Pictures: train to inpaint or for super_resolution (short for task.kind).")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Start from this model folder: its first stage, its denoiser's weights.")
    ] = None,
) -> None:
    """Train both stages on a data set, or by a recipe, and leave a model folder, logs, previews and a loss plot."""
    from latentia.cli.plan import chosen_recipe, default_out
    from latentia.training import train as run

    short = [f"task.kind={task}"] if task else []
    short += [f"init={init}"] if init else []
    folder = out or default_out(what)
    recipe = chosen_recipe(what, minutes, folder, resume, [*(overrides or []), *short])
    if recipe is not None:
        run(recipe, folder, resume=resume, first_stage=first_stage, say=inform)


def warn_of_no_guidance(model: "LatentModel", guidance: float | None, given: dict[str, object]) -> None:
    """Names the options of guidance that change nothing, since its scale is 1."""
    if model.settings({"guidance_scale": guidance}).guidance_scale == 1:
        for option in [name for name, value in given.items() if value]:
            say(f"{option} changes nothing at a guidance of 1: give --guidance 2 or so")


@app.command()
def sample(
    model: ModelOrShipped = EMOJI,
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
    import psutil

    from latentia.applications.provenance import provenance
    from latentia.applications.requests import weaker_denoiser
    from latentia.modalities.base import Drawing
    from latentia.model import check_amount

    loaded, modality = load_with_modality(model, device)
    count = count or (64 if prompt is None and not index else 1)
    check_amount(count, index, batch_size, loaded.latent_shape)
    settings: dict[str, Any] = {"sampler": sampler, "steps": steps, "spacing": spacing, "guidance_scale": guidance}
    settings |= {"guidance_interval": interval_of(interval), "guidance_rescale": rescale, "seed": seed, "index": index}
    settings |= {"guidance_kind": guidance_kind, "stop_sigma": stop_sigma, "temperature": temperature}
    settings |= {"weaker": None if weaker is None else weaker_denoiser(weaker, loaded), "batch_size": batch_size}
    warn_of_no_guidance(loaded, guidance, {"--weaker": weaker, "--negative": negative})
    settings |= {"lengths": None if length is None else [length] * count}
    settings |= {"size": None if size is None else modality.size_of("--size", size)}
    settings |= {"prompts": None if prompt is None else [prompt] * count, "negative_prompt": negative or None}
    settings |= asked_options(loaded, condition, count, settings)
    writer = _writer(modality, out)
    templates = {"prefix": prefix, "infill": infill, "between": between}
    labels, draw = _drawing(loaded, modality, class_, count, unconditional, templates, settings)
    if out is None:
        typer.echo("\n".join(draw()))
        return
    facts = provenance(loaded, labels, settings) if metadata and labels is not None else []
    writer(Drawing(loaded, draw, labels, facts), out)
    typer.echo(f"wrote {out} after {time.time() - psutil.Process().create_time():.1f} s")


@app.command()
def evaluate(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for report.md, report.json and samples.")],
    data: Annotated[str | None, typer.Option(help="Data set to measure against; without it, the model's own.")] = None,
    root: Root = None,
    count: Annotated[int, typer.Option(min=10, help="How many items to generate.")] = 10_000,
    features: Annotated[
        str | None,
        typer.Option(
            help="Pictures: classifier (trained here), imagenet (EfficientNet-Lite0), inception (the real FID)."
        ),
    ] = None,
    inception_weights: Annotated[Path | None, typer.Option(help="File of torch-fidelity's Inception weights.")] = None,
    judge_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Texts: updates of the language model that judges them; it is kept."),
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Measure a model: reconstruction, distances, accuracy, memorisation, perplexity of texts, each with its floor."""
    from latentia.evaluation.run import evaluate_model
    from latentia.modalities.base import Evaluation

    more = {"features": features, "inception_weights": inception_weights, "judge_steps": judge_steps}
    if features is not None:
        one_of("--features", features, "classifier", "imagenet", "inception")
    sampling = {"steps": steps, "guidance_scale": guidance}
    how = Evaluation(data, root, count, sampling, seed, device, inform, more)
    typer.echo(evaluate_model(model, out, how))
    typer.echo(f"wrote {out}")


app.command()(edit.vary)
app.command()(edit.interpolate)


@app.command()
def info(model: ModelOrShipped = EMOJI) -> None:
    """Say what a model folder holds: parts, sizes, data, recipe, versions."""
    from latentia.description import described
    from latentia.model import load, model_folder

    loaded = load(model)
    size = sum(path.stat().st_size for path in model_folder(model).rglob("*") if path.is_file())
    hashes = {"hash": loaded.hash, "folder": model, "size on disk": f"{size / 2**20:.1f} MiB"}
    show_pairs(described(loaded) | hashes)


def _writer(modality: "Modality", out: Path | None) -> Any:
    """What writes the items, by the ending of the file's name; None where they are printed."""
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
    templates: dict[str, Any],
    settings: dict[str, Any],
) -> tuple[Any, Any]:
    """Labels, and a function that draws the items: plainly, by a template, or between two items."""
    if sum(value is not None for value in templates.values()) > 1:
        raise LatentiaError("--prefix, --infill and --between exclude each other")
    if (ends := templates.pop("between")) is not None:
        first, last = ends
        return None, lambda **more: modality.between(model, first, last, count)
    if any(value is not None for value in templates.values()):
        label = None if class_ is None else model.class_index(class_)

        def complete(**more: Any) -> Any:
            items, missed = modality.complete(model, count, label=label, **templates, **(settings | more))
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


@app.command()
def serve(
    model: ModelOrShipped = EMOJI,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is for this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 7860,
    count: Annotated[int, typer.Option(min=1, help="Most pictures or texts a request.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Most steps a request.")] = 100,
    seconds: Annotated[float, typer.Option(min=1, help="Longest work a request.")] = 120,
    waiting: Annotated[int, typer.Option(min=1, help="Most requests that wait.")] = 8,
    device: Device = "cpu",
) -> None:
    """Show a model in the browser, with a JSON interface beside it (described at /docs)."""
    from latentia.web import Limits
    from latentia.web import serve as serve_model

    limits = Limits(count=count, steps=steps, seconds=seconds, waiting=waiting)
    serve_model(model, host=host, port=port, device=device, limits=limits, say=say)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="AutoencoderKL, DiTTransformer2DModel or DiTPipeline of diffusers.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
) -> None:
    """Read a model of the library diffusers: a first stage, a denoiser, or both as a model."""
    from latentia.interchange import import_diffusers

    typer.echo(f"wrote {import_diffusers(folder, out)}: {out}")


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    to: Annotated[
        str, typer.Option(help="onnx: graphs of encoder, decoder and denoiser. diffusers: a pipeline of that library.")
    ] = "onnx",
) -> None:
    """Write a picture model for other programs."""
    from latentia.interchange import export_diffusers, export_onnx
    from latentia.model import load

    writers = {"onnx": export_onnx, "diffusers": export_diffusers}
    one_of("--to", to, *writers)
    writers[to](load(model), out)
    typer.echo(f"wrote {out}")


def _version(show: bool) -> None:
    if show:
        typer.echo(f"latentia {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Read weights even where their checksum says that they have changed.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress and no notes.")] = False,
) -> None:
    """Latent diffusion, end to end."""
    if no_verify:
        os.environ["LATENTIA_VERIFY"] = "0"
    if quiet:
        os.environ["LATENTIA_QUIET"] = "1"


for _add_commands in plugins("latentia.commands", "__call__").values():
    _add_commands(app, data_app)


def main() -> None:
    """Runs the command. What the user can mend is one line and status 1; a stop by the user is status 130, or 143."""
    settle()  # no command has loaded PyTorch yet
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except SystemExit as ended:
        if ended.code in (TERMINATED, INTERRUPTED):
            say("stopped")  # when the progress bars are closed
        raise
    except LatentiaError as error:
        _end(f"error: {error}", 1)
    except Stopped as error:
        _end(str(error), 128 + error.number)
    except BrokenPipeError:  # whoever reads the output, such as `head`, has enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # Python would flush the closed pipe at its end
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that is not the user's
        place = f"{error.filename}: " if error.filename is not None else ""
        _end(f"error: {place}{error.strerror or first_line(error)}", 1)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _end("error: there is not enough memory: ask for fewer or smaller items at a time (--batch-size)", 1)


def _end(message: str, status: int) -> NoReturn:
    say(message)
    sys.exit(status)


def _terminate(number: int, frame: object) -> NoReturn:
    sys.exit(TERMINATED)
