"""The command line: parses, calls one function, shows the result."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from latentia.cli import draw, edit
from latentia.cli.shared import (
    Device,
    Guidance,
    Model,
    ModelOrShipped,
    OnCorrupt,
    Overrides,
    Root,
    Seed,
    SetName,
    Size,
    Steps,
    inform,
    one_of,
    say,
    show_pairs,
)
from latentia.errors import LatentiaError, Stopped, first_line, is_out_of_memory, printable
from latentia.plugins import plugins
from latentia.shipped import EMOJI
from latentia.threads import settle
from latentia.version import __version__

# The status of a command that was asked to end, or by Ctrl-C.
TERMINATED, INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT

app = typer.Typer(
    name="latentia",
    help="Train, use and measure latent diffusion models on your own data.",
    no_args_is_help=True,
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
        str | None, typer.Option(help="Train this model further: a folder, hf:OWNER/NAME, or emoji, which comes along.")
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --init: train adapters of this rank in place of all weights.", show_default=False
        ),
    ] = None,
) -> None:
    """Train both stages on a data set, or by a recipe, and leave a model folder, logs, previews and a loss plot."""
    from latentia.cli.plan import chosen_recipe, default_out
    from latentia.training import train as run

    short = [f"task.kind={task}"] if task else []
    short += [f"lora={lora}"] if lora else []
    folder = out or default_out(what)
    recipe = chosen_recipe(what, minutes, folder, resume, [*(overrides or []), *short], init)
    if recipe is not None:
        run(recipe, folder, resume=resume, first_stage=first_stage, say=inform)


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


app.command()(draw.sample)
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


@app.command()
def push(
    model: Model,
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="What it is called on the Hugging Face hub.")],
    report: Annotated[Path | None, typer.Option(help="Folder of `latentia evaluate`, for the model's card.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Nobody else may see it.")] = False,
) -> None:
    """Put a model on the Hugging Face hub, with a card; `latentia sample hf:OWNER/NAME` uses it from there."""
    from latentia.interchange.hub import push_model

    typer.echo(f"wrote {push_model(model, name, report=report, private=private)}")


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
