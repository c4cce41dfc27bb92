"""A whole run: pictures or texts → first stage → latent cache → denoiser → model folder."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from latentia.conditions.prompt_ids import PromptCodec
from latentia.errors import LatentiaError
from latentia.files import load_part, module_hash, save_part, write_text
from latentia.items import Examples
from latentia.language.frozen_encoder import encoder_folder, encoder_tokenizer
from latentia.language.tokenizer import Tokenizer, adopt_tokenizer, train_tokenizer
from latentia.latents.cache import JoinedCache, LatentCache, build_latent_cache
from latentia.latents.first_stage import FirstStage
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.readers.aspect_buckets import FramedPictures, load_framed
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.modalities.image.repair_task import RepairExamples, RepairTask
from latentia.modalities.stages import FIRST_STAGES
from latentia.modalities.text.codec import TextCodec, TokenSet
from latentia.modalities.text.readers.corpora import load_texts
from latentia.model import DTYPES, INDEX_NAME, TOKENIZER_NAME, LatentModel
from latentia.training.autoencoder import train_picture_stage, train_text_stage
from latentia.training.engine import build_accelerator
from latentia.training.latent import train_denoiser
from latentia.training.log import plot_losses, read_log
from latentia.training.recipe import RECIPE_NAME, Recipe, TextStage, dump_recipe, load_recipe
from latentia.training.speed import Say
from latentia.version import __version__

VERSIONED = ("torch", "accelerate", "numpy", "safetensors")


def train(
    recipe: Recipe | None,
    out: str | Path,
    *,
    resume: bool = False,
    first_stage: str | Path | None = None,
    perceptual: nn.Module | None = None,
    say: Say = lambda message: print(message, file=sys.stderr),
) -> Path:
    """Trains both stages of a recipe into the folder `out` and returns its model folder, `out/model`.

    Args:
        recipe: None is that of the run in `out`, which is resumed.
        resume: continue a run that was stopped or killed, or train on with more `training.steps`; settings that decide
            the result must be those that it began with. Without it a folder that holds a run is refused.
        first_stage: the `first_stage` folder of a model to build on, instead of training one.
        perceptual: a frozen network for the perceptual loss of the first stage.
        say: told, in one line each, what happens.

    Raises LatentiaError for what the user can mend, and Stopped on Ctrl-C.
    """
    out, commit = Path(out), git_commit()  # of the code that runs, whatever is committed meanwhile
    recipe = _recipe_of(out, recipe, resume, say)
    finished = out / "first_stage" / "finished"
    if recipe.init is not None and first_stage is None and not finished.exists():
        first_stage = Path(recipe.init) / "first_stage"
    accelerator = build_accelerator(recipe.compute)
    main = accelerator.is_main_process
    tell = say if main else lambda message: None

    with accelerator.main_process_first():
        examples = load_examples(recipe, out, first_stage)
    tell(f"data: {describe(examples)}")
    if examples.skipped:
        tell(f"data: {len(examples.skipped)} skipped, the first {examples.skipped[0]}")

    with accelerator.main_process_first():
        shown, variants = examples_in_variants(recipe, examples)
    stage = _held_stage(finished, first_stage, examples)
    accelerator.wait_for_everyone()  # all have looked at the folder before one writes into it
    if main:
        _write_start(out, recipe, stage, finished)
    accelerator.wait_for_everyone()
    if stage is None:
        stage = _trained_stage(recipe, examples, finished, accelerator, perceptual, tell)
    stage = stage.to(accelerator.device).eval().requires_grad_(False)
    with accelerator.main_process_first():
        cache = cache_of(stage, shown, out / "latents", variants=variants, device=accelerator.device, progress=main)
    with accelerator.main_process_first():
        prompts = prompt_codec(recipe, shown, out)
    model = train_denoiser(recipe, stage, cache, shown, out / "denoiser", accelerator, prompts, say=tell)
    model.denoiser.to(DTYPES[recipe.compute.weights_dtype]).float()  # what is saved is what is hashed and used
    model.training = _provenance(recipe, examples, model, accelerator, out) | {"git_commit": commit}
    if main:
        model.save(out / "model", dtype=recipe.compute.weights_dtype)
        plot_losses({"first stage": out / "first_stage", "denoiser": out / "denoiser"}, out / "loss.png")
        tell(f"model: {out / 'model'}")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return out / "model"


def _recipe_of(out: Path, recipe: Recipe | None, resume: bool, say: Say) -> Recipe:
    """What to train in `out`; nothing is written where a run there is not to be resumed, or not with this recipe."""
    path = out / RECIPE_NAME
    if not path.exists():
        if recipe is None:
            raise LatentiaError(f"{path} does not exist: there is no run to resume, name a recipe")
        return recipe
    if not resume:
        raise LatentiaError(f"{out} already holds a run; add --resume to continue it, or choose another folder")
    begun = load_recipe(str(path))
    if recipe is not None:
        begun.require_resumable(recipe)
    recipe = recipe or begun
    if (out / "model" / INDEX_NAME).exists() and recipe.training.steps == begun.training.steps:
        say(f"the run is finished after {begun.training.steps} steps; --set training.steps=N trains on")
    return recipe


def load_examples(recipe: Recipe, out: Path, first_stage: str | Path | None = None) -> PictureSet | TokenSet:
    """The training split of a recipe's data; texts as tokens of a tokenizer kept in `out`, or of the given stage's."""
    data, stage = recipe.data, recipe.first_stage
    if not isinstance(stage, TextStage):
        return load_pictures(data.name, "train", data.size, data.on_corrupt, data.root)
    texts = load_texts(data.name, "train", data.on_corrupt, data.root)
    path = out / TOKENIZER_NAME
    if not path.exists():
        if first_stage is not None:
            tokenizer = Tokenizer.load(Path(first_stage).parent / TOKENIZER_NAME)
        elif stage.encoder is None:
            tokenizer = train_tokenizer(texts.texts, stage.vocab_size)
        else:
            tokenizer = adopt_tokenizer(Path(stage.encoder))[0]
        tokenizer.save(path)
    return TokenSet.of(texts, TextCodec(Tokenizer.load(path), stage.max_tokens), data.on_long)


def prompt_codec(
    recipe: Recipe, examples: PictureSet | FramedPictures | RepairExamples | TokenSet, out: Path
) -> PromptCodec | None:
    """What reads prompts, kept in `out`: that of the model to start from, of a pretrained encoder, or one learned from
    the captions of all examples; None without a prompt section.

    Raises LatentiaError where the examples have no captions, or the denoiser takes none.
    """
    wanted = recipe.prompt
    if wanted is None:
        return None
    if isinstance(examples, TokenSet) or examples.captions is None:
        raise LatentiaError(f"{examples.name} has no captions to learn prompts from: set prompt=null")
    if recipe.denoiser.kind != "DiT":
        raise LatentiaError(f"prompts need a DiT as denoiser, not a {recipe.denoiser.kind}: set denoiser.kind=DiT")
    path = out / TOKENIZER_NAME
    given = None if recipe.init is None else Path(recipe.init) / TOKENIZER_NAME
    if not path.exists():
        if given is not None and given.is_file():  # its denoiser knows words by these numbers
            PromptCodec.load(given, wanted.max_tokens).tokenizer.save(path)
        elif wanted.encoder is None:
            lines = (line for caption in examples.captions for line in caption.splitlines())
            train_tokenizer(lines, wanted.vocab_size).save(path)
        else:
            encoder_tokenizer(encoder_folder(wanted.encoder))[0].save(path)
    return PromptCodec.load(path, wanted.max_tokens)


def examples_in_variants(
    recipe: Recipe, examples: PictureSet | TokenSet
) -> tuple[PictureSet | FramedPictures | TokenSet | RepairExamples, int]:
    """What the denoiser learns from, and how many variants of each it sees: texts with a gap, mirror images, damage.

    With more sizes than one, pictures come in that whose aspect ratio is nearest to their own.
    """
    if recipe.data.more_sizes:
        return framed_examples(recipe, examples), 2 if recipe.data.flips else 1
    if recipe.task is None:
        return examples, 2 if isinstance(examples, TokenSet) or recipe.data.flips else 1
    if not isinstance(examples, PictureSet):
        raise LatentiaError("task is for pictures; texts are completed without one")
    if recipe.data.flips:
        raise LatentiaError("task and data.flips exclude each other: the variants are what is left of the pictures")
    task = RepairTask(recipe.task.kind, recipe.task.factor)
    task.degraded(
        *(torch.zeros(1, 1, examples.size, examples.size, dtype=kind) for kind in (torch.float32, torch.bool))
    )
    return RepairExamples(examples, task), 1 + task.variants


def framed_examples(recipe: Recipe, examples: PictureSet | TokenSet) -> FramedPictures:
    """Raises LatentiaError where the recipe does not fit pictures of several sizes."""
    data, denoiser = recipe.data, recipe.denoiser
    if not isinstance(examples, PictureSet) or recipe.task is not None or recipe.clusters:
        raise LatentiaError("data.more_sizes is for pictures, and goes without a task and without clusters")
    if denoiser.kind == "DiT" and not denoiser.rope:
        raise LatentiaError("data.more_sizes needs a DiT with rope, or a UNet: set denoiser.rope=true")
    return load_framed(data.name, "train", data.sizes(examples.size), data.on_corrupt, data.root)


def cache_of(stage: FirstStage, examples: Examples, folder: Path, **how: Any) -> LatentCache | JoinedCache:
    """`build_latent_cache`, for each size of the pictures where they have several."""
    if not isinstance(examples, FramedPictures):
        return build_latent_cache(stage, examples, folder, **how)
    parts = [(part, part.images.shape[1:3]) for part in examples.parts]
    return JoinedCache([build_latent_cache(stage, part, folder, size=size, **how) for part, size in parts])


def describe(examples: PictureSet | TokenSet) -> str:
    if isinstance(examples, PictureSet):
        size = examples.image_size
        what = f"{len(examples)} pictures of {size}×{size}"
    else:
        what = f"{len(examples)} texts of {examples.lengths.mean():.1f} tokens on average, {examples.cut} too long,"
    return f"{examples.source} {what}, {examples.num_classes} classes"


def _held_stage(finished: Path, given: str | Path | None, examples: PictureSet | TokenSet) -> FirstStage | None:
    """The first stage that this run keeps, or the given one; None where one is to be trained.

    Raises LatentiaError where the two differ, or it does not fit the examples.
    """
    if not finished.exists() and given is None:
        return None
    source = finished if finished.exists() else Path(str(given))
    stage: FirstStage = load_part(source, FIRST_STAGES)
    if given is not None and module_hash(load_part(Path(given), FIRST_STAGES)) != module_hash(stage):
        raise LatentiaError(f"{given} is not the first stage that this run began with: resume without it")
    require_fit(stage, examples, source)
    return stage


def _write_start(out: Path, recipe: Recipe, stage: FirstStage | None, finished: Path) -> None:
    """Writes the recipe and a given first stage: a run that is stopped any time later can be resumed."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LatentiaError(f"{out} cannot hold a run: {error.strerror}") from None
    if stage is not None and not finished.exists():
        _keep_stage(stage, finished)
    write_text(out / RECIPE_NAME, dump_recipe(recipe))


def _trained_stage(
    recipe: Recipe,
    examples: PictureSet | TokenSet,
    finished: Path,
    accelerator: Accelerator,
    perceptual: nn.Module | None,
    say: Say,
) -> FirstStage:
    """Trains the recipe's first stage in the parent folder of `finished`, or continues that, and keeps it there."""
    wanted, folder = recipe.first_stage, finished.parent
    if isinstance(wanted, TextStage):
        assert isinstance(examples, TokenSet)
        stage = train_text_stage(recipe, wanted, examples, folder, accelerator, say=say)
    else:
        assert isinstance(examples, PictureSet)
        stage = train_picture_stage(recipe, wanted, examples, folder, accelerator, perceptual=perceptual, say=say)
    if accelerator.is_main_process:
        _keep_stage(stage, finished)
    accelerator.wait_for_everyone()
    return stage


def _keep_stage(stage: FirstStage, finished: Path) -> None:
    partial = finished.with_name("finishing")  # renamed when whole
    save_part(partial, stage, stage.config)
    partial.rename(finished)


def require_fit(stage: FirstStage, examples: PictureSet | TokenSet, source: Path) -> None:
    """Raises LatentiaError where a first stage reads something else than these examples."""
    name, has = (
        ("in_channels", examples.channels)
        if isinstance(examples, PictureSet)
        else ("vocab_size", examples.codec.tokenizer.vocab_size)
    )
    reads = stage.config.get(name)
    if reads != has:
        raise LatentiaError(f"{source} is a {type(stage).__name__} of {name} {reads}, but {examples.name} has {has}")


def _provenance(
    recipe: Recipe, examples: Examples, model: LatentModel, accelerator: Accelerator, out: Path
) -> dict[str, Any]:
    rows = {stage: read_log(out / stage / "log.csv") for stage in ("first_stage", "denoiser")}
    return {
        "recipe": recipe.model_dump(mode="json"),
        "data": {
            "name": examples.name,
            "source": examples.source,
            "fingerprint": examples.fingerprint,
            "count": len(examples),
            "skipped": len(examples.skipped),
        },
        "hashes": {"first_stage": module_hash(model.first_stage), "denoiser": module_hash(model.denoiser)},
        "versions": {"latentia": __version__, "python": platform.python_version()}
        | {name: version(name) for name in VERSIONED},
        "machine": {
            "processor": platform.machine(),
            "device": str(accelerator.device),
            "processes": accelerator.num_processes,
        },
        "seconds": {stage: log[-1]["seconds"] for stage, log in rows.items() if log},
    }


def git_commit() -> str | None:
    """The commit of the source tree that this package runs from; None for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
