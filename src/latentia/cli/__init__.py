"""The command line: parses, calls one function, shows the result."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentia.cli.apply import add_commands
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
    interval_of,
    one_of,
    say,
    scale_of,
    show_pairs,
)
from latentia.errors import LatentiaError, Stopped
from latentia.shipped import EMOJI
from latentia.threads import settle
from latentia.version import __version__

if TYPE_CHECKING:
    from latentia.modalities.image.pictures import PictureSet
    from latentia.modalities.text.texts import TextSet
    from latentia.model import LatentModel

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
    texts: Annotated[bool, typer.Option("--texts", help="Read texts: needed for hf:NAME and folders only.")] = False,
) -> None:
    """Say what a data set holds: count, size, classes, fingerprint, what was skipped."""
    from latentia.modalities.image.grids import picture_grid, save_png
    from latentia.modalities.image.readers.builtin import load_pictures
    from latentia.modalities.text.readers.corpora import load_texts

    chosen = one_of("--split", split, "train", "test"), one_of("--on-corrupt", on_corrupt, "refuse", "skip")
    if texts or name == "wordnet" or name.endswith((".txt", ".jsonl")):
        if out or size:
            raise LatentiaError("--out and --size are for pictures")
        held = load_texts(name, *chosen, root)
        _show_set(held, f"{len(held)} texts")
        for text in held.texts[:10]:
            typer.echo(f"  {text}")
        return
    pictures = load_pictures(name, chosen[0], size, chosen[1], root)
    side = pictures.image_size
    _show_set(pictures, f"{len(pictures)} pictures of {side}×{side}×{pictures.channels}")
    if out:
        save_png(picture_grid(pictures.images[:64], scale=scale_of(side)), out)
        typer.echo(f"wrote {out}")


def _show_set(held: "PictureSet | TextSet", what: str) -> None:
    show_pairs(
        {
            "source": held.source,
            "holds": what,
            "classes": ", ".join(held.class_names) or "none",
            "fingerprint": held.fingerprint,
            "skipped": len(held.skipped),
        }
    )
    for reason in held.skipped[:20]:
        typer.echo(f"  {reason}")


@data_app.command("fetch")
def data_fetch(name: Annotated[str, typer.Argument(help="fashion-mnist, wordnet or cifar10.")]) -> None:
    """Fetch a public data set into the cache: Fashion-MNIST and WordNet from Debian, CIFAR-10 from its home page."""
    from latentia.modalities.image.readers.fetch import fetch_cifar10, fetch_fashion_mnist
    from latentia.modalities.text.readers.fetch import fetch_wordnet

    fetch = {"fashion-mnist": fetch_fashion_mnist, "wordnet": fetch_wordnet, "cifar10": fetch_cifar10}
    if name not in fetch:
        raise LatentiaError(f"{name} cannot be fetched, expected one of {', '.join(fetch)}")
    typer.echo(f"{name} lies in {fetch[name]()}")


@data_app.command("prepare")
def data_prepare(
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
    out: Annotated[Path, typer.Option(help="Folder of the run; the model is left in its subfolder model/.")],
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A bundled recipe (see `latentia recipe list`) or a YAML file; with --resume that of the run, if none "
            "is named.",
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
    """Train both stages of a recipe and leave a model folder, logs, previews and a loss plot."""
    from latentia.training import RECIPE_NAME, load_recipe
    from latentia.training import train as run

    short = [f"task.kind={task}"] if task else []
    short += [f"init={init}"] if init else []
    name = recipe or str(out / RECIPE_NAME)
    if recipe is None and not (resume and Path(name).is_file()):
        raise LatentiaError(f"RECIPE is missing, and --resume finds none in {out}: see latentia recipe list")
    run(load_recipe(name, [*(overrides or []), *short]), out, resume=resume, first_stage=first_stage, say=say)


@app.command()
def sample(
    model: ModelOrShipped = EMOJI,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Pictures: a .png grid, a .npy array, a .gif of the denoising, or a folder of PNGs. "
            "Texts: a .txt file; without it they are printed."
        ),
    ] = None,
    class_: Annotated[
        str | None, typer.Option("--class", help="Class name or number; without one, all in turn.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="How many; without it 64, or 1 of a prompt.", show_default=False)
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    interval: Annotated[str | None, typer.Option(help="Guide only for σ/α within LOW,HIGH.")] = None,
    rescale: Annotated[float | None, typer.Option(help="Guidance rescale, 0 to 1.")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddpm, ddim, euler, heun, dpm_solver_2m or unipc_2.")] = None,
    spacing: Annotated[str | None, typer.Option(help="uniform, trailing or karras.")] = None,
    unconditional: Annotated[bool, typer.Option("--unconditional", help="Draw without a class.")] = False,
    length: Annotated[int | None, typer.Option(min=1, help="Texts: how many tokens each shall have.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help='Pictures: what they shall show, such as "a (sad:1.5) cat", emphasised by 1.5.')
    ] = None,
    negative: Annotated[str, typer.Option(help="Pictures: a prompt that guidance leads away from.")] = "",
    size: Annotated[
        str | None, typer.Option(help="Pictures: WIDTHxHEIGHT in pixels, if not that of the training pictures.")
    ] = None,
    stop_sigma: Annotated[
        float | None, typer.Option(min=0, help="Texts: σ/α at which diffusion leaves the rest to the decoder.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="Texts: of the decoder's draws; 0 is none.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Texts: a beginning to be continued.")] = None,
    infill: Annotated[str | None, typer.Option(help="Texts: a template whose ___ is to be filled.")] = None,
    between: Annotated[
        tuple[str, str] | None, typer.Option(help="Texts: two texts; COUNT on the way from one to the other.")
    ] = None,
    seed: Seed = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Items at a time.")] = 256,
    device: Device = "cpu",
) -> None:
    """Draw pictures or texts from a model, and say how long it took from the start of the process on."""
    import psutil

    from latentia.files import write_text
    from latentia.modalities.image.codec import PictureCodec
    from latentia.modalities.image.pictures import parse_size
    from latentia.modalities.text.codec import GAP
    from latentia.model import load

    loaded = load(model, device)
    if count is None:
        count = 64 if prompt is None else 1
    settings: dict[str, Any] = {
        "sampler": sampler,
        "steps": steps,
        "spacing": spacing,
        "guidance_scale": guidance,
        "guidance_interval": interval_of(interval),
        "guidance_rescale": rescale,
        "stop_sigma": stop_sigma,
        "temperature": temperature,
        "seed": seed,
        "batch_size": batch_size,
    }
    if prefix is not None and infill is not None:
        raise LatentiaError("--prefix and --infill exclude each other")
    template = f"{prefix} {GAP}" if prefix is not None else infill
    if isinstance(loaded.codec, PictureCodec):
        if length is not None or template is not None or between is not None:
            raise LatentiaError("--length, --prefix, --infill and --between are for texts; this model makes pictures")
        if prompt is not None or negative:
            settings |= {"prompts": [prompt or ""] * count, "negative_prompt": negative}
        if size is not None:
            settings["size"] = parse_size("--size", size)
        if out is None:
            raise LatentiaError("--out is missing: say where the pictures go, such as --out grid.png")
        _writer(out)(loaded, _labels(loaded, class_, count, unconditional), settings, out)
    else:
        if prompt is not None or negative or size is not None:
            raise LatentiaError("--prompt, --negative and --size are for pictures; this model makes texts")
        if out is not None and out.suffix.lower() != ".txt":
            raise LatentiaError(f"--out {out}: expected a name that ends in .txt")
        texts = _texts(loaded, class_, count, unconditional, length, template, between, settings)
        if out is None:
            typer.echo("\n".join(texts))
            return
        write_text(out, "".join(f"{text}\n" for text in texts))
    typer.echo(f"wrote {out} after {time.time() - psutil.Process().create_time():.1f} s")


@app.command()
def evaluate(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for report.md, report.json and pictures.")],
    data: Annotated[str | None, typer.Option(help="Data set to measure against; without it, the model's own.")] = None,
    root: Root = None,
    count: Annotated[int, typer.Option(min=10, help="How many pictures or texts to generate.")] = 10_000,
    features: Annotated[
        str, typer.Option(help="classifier (trained here), imagenet (EfficientNet-Lite0), inception (the real FID).")
    ] = "classifier",
    inception_weights: Annotated[Path | None, typer.Option(help="File of torch-fidelity's Inception weights.")] = None,
    judge_steps: Annotated[
        int, typer.Option(min=1, help="Texts: updates of the language model that judges them, kept once trained.")
    ] = 2000,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Measure a model: reconstruction, distances, accuracy, memorisation, perplexity of texts, each with its floor."""
    from latentia.evaluation.run import evaluate_model

    report = evaluate_model(
        model,
        out,
        data=data,
        root=root,
        count=count,
        features=one_of("--features", features, "classifier", "imagenet", "inception"),
        inception_weights=inception_weights,
        judge_steps=judge_steps,
        sampling={"steps": steps, "guidance_scale": guidance},
        seed=seed,
        device=device,
        say=say,
    )
    typer.echo(report)
    typer.echo(f"wrote {out}")


add_commands(app)


@app.command()
def info(model: ModelOrShipped = EMOJI) -> None:
    """Say what a model folder holds: parts, sizes, data, recipe, versions."""
    from latentia.denoiser import count_parameters
    from latentia.files import module_hash
    from latentia.model import load

    loaded = load(model)
    made = loaded.training
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    for part in (loaded.first_stage, loaded.denoiser):
        part.requires_grad_(True)
    show_pairs(
        {
            "first stage": f"{type(loaded.first_stage).__name__}, {count_parameters(loaded.first_stage):,} parameters, "
            f"hash {module_hash(loaded.first_stage)}",
            "process": str(loaded.process),
            "denoiser": f"{type(loaded.denoiser).__name__}, {count_parameters(loaded.denoiser):,} parameters, "
            f"hash {module_hash(loaded.denoiser)}",
            "makes": f"{_what(loaded)}, latent {loaded.latent_shape}",
            "classes": ", ".join(loaded.class_names) or "none",
            "sampling": loaded.sampling,
            "data": made.get("data", "unknown"),
            "versions": made.get("versions", "unknown"),
            "git commit": made.get("git_commit", "unknown"),
            "training": f"seconds {made.get('seconds', 'unknown')} on {made.get('machine', 'unknown')}",
            "folder": model,
            "size on disk": f"{size / 2**20:.1f} MiB",
        }
    )


def _what(model: "LatentModel") -> str:
    from latentia.modalities.image.codec import PictureCodec

    size = model.codec.size
    return f"pictures of {size}×{size}" if isinstance(model.codec, PictureCodec) else f"texts of up to {size} tokens"


def _labels(model: "LatentModel", class_: str | None, count: int, unconditional: bool) -> Any:
    import numpy as np

    names = model.class_names
    if unconditional or not names:
        if class_ is not None:
            raise LatentiaError(f"--class {class_}: the model has no classes, or --unconditional forbids one")
        return np.full(count, len(names))
    return np.full(count, model.class_index(class_)) if class_ is not None else np.arange(count) % len(names)


def _texts(
    model: "LatentModel",
    class_: str | None,
    count: int,
    unconditional: bool,
    length: int | None,
    template: str | None,
    between: tuple[str, str] | None,
    settings: dict[str, Any],
) -> list[str]:
    from latentia.modalities.text.write import complete, interpolate

    if between is not None:
        return interpolate(model, *between, count)
    lengths = None if length is None else [length] * count
    if template is None:
        labels = _labels(model, class_, count, unconditional)
        texts: list[str] = model.generate(labels, lengths=lengths, progress=True, **settings)
        return texts
    label = None if class_ is None else model.class_index(class_)
    found = complete(model, template, count, label=label, lengths=lengths, **settings)
    missed = sum(not completion.keeps_template for completion in found)
    if missed:
        say(f"{missed} of {count} texts do not keep the template word for word")
    return [completion.text for completion in found]


def _writer(out: Path) -> Callable[["LatentModel", Any, dict[str, Any], Path], None]:
    """What writes the pictures, by the ending of the file's name."""
    writers = {".png": _write_grid, ".npy": _write_array, ".gif": _write_film, "": _write_folder}
    if out.suffix.lower() not in writers:
        raise LatentiaError(f"--out {out}: expected a name that ends in .png, .npy or .gif, or a folder")
    return writers[out.suffix.lower()]


def _write_grid(model: "LatentModel", labels: Any, settings: dict[str, Any], out: Path) -> None:
    from latentia.modalities.image.grids import picture_grid, save_png

    images = model.generate(labels, progress=True, **settings)
    save_png(picture_grid(images, scale=scale_of(model.codec.size)), out)


def _write_array(model: "LatentModel", labels: Any, settings: dict[str, Any], out: Path) -> None:
    import numpy as np

    from latentia.files import atomic_path

    images = model.generate(labels, progress=True, **settings)
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.save(file, images)


def _write_folder(model: "LatentModel", labels: Any, settings: dict[str, Any], out: Path) -> None:
    """One PNG a picture, in a folder a class: `latentia data show OUT` reads it back."""
    from latentia.modalities.image.grids import write_pictures

    write_pictures(model.generate(labels, progress=True, **settings), labels, model.class_names, out)


def _write_film(model: "LatentModel", labels: Any, settings: dict[str, Any], out: Path) -> None:
    """Left to right as the sampler goes: what the model believes the clean pictures to be after each step."""
    from latentia.modalities.image.grids import picture_grid, save_gif

    scale, frames = scale_of(model.codec.size), []
    settings = settings | {"batch_size": len(labels)}  # one batch, so that every frame shows all pictures

    def keep(step: int, z_t: Any, denoised: Any) -> None:
        frames.append(picture_grid(model.decode(denoised), scale=scale))

    images = model.generate(labels, progress=True, callback=keep, **settings)
    save_gif([*frames, picture_grid(images, scale=scale)], out)


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

    say(f"http://{host}:{port} shows {model}; Ctrl-C ends it")
    limits = Limits(count=count, steps=steps, seconds=seconds, waiting=waiting)
    serve_model(model, host=host, port=port, device=device, limits=limits)


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
) -> None:
    """Latent diffusion, end to end."""


def main() -> None:
    """Runs the command; a LatentiaError is one line and status 1, a stop by the user status 130."""
    settle()  # no command has loaded PyTorch yet
    try:
        app()
    except LatentiaError as error:
        say(f"error: {error}")
        sys.exit(1)
    except Stopped as error:
        say(str(error))
        sys.exit(130)
