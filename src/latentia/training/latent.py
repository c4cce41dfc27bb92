"""Trains a denoiser in the latent space of a first stage."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latentia.conditions.prompt_ids import CaptionIds, PromptCodec
from latentia.denoiser import CLASS_TABLE, DENOISERS
from latentia.diffusion import PROCESSES, Conditions, Process, denoise_with, training_loss
from latentia.errors import LatentiaError
from latentia.files import atomic_path, load_part, write_text
from latentia.items import Examples
from latentia.language.frozen_encoder import FrozenEncoder, encoder_config, encoder_folder
from latentia.language.tokenizer import Tokenizer
from latentia.latents.cache import JoinedCache, LatentCache
from latentia.latents.first_stage import FirstStage
from latentia.modalities.image.clusters import cluster_pictures
from latentia.modalities.image.codec import PictureCodec
from latentia.modalities.image.grids import picture_grid
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.readers.aspect_buckets import FramedPictures
from latentia.modalities.image.repair_task import RepairExamples
from latentia.modalities.text.codec import TokenSet
from latentia.model import LatentModel, with_estimate
from latentia.training.checkpoint import Checkpoint
from latentia.training.engine import apply_gradients, averaged, local_share, prepare
from latentia.training.loop import run_loop
from latentia.training.order import GroupedOrder, ShuffledOrder, step_generator
from latentia.training.recipe import Recipe
from latentia.training.speed import Say

INPUT_LAYERS = ("patch_embed.weight", "stem.weight")
CAPTIONED = PictureSet | FramedPictures | RepairExamples
OPEN_LENGTH = 0.5  # share of texts trained without a length: a class alone must do, too
SELF_CONDITIONED = 0.5  # share of the updates


def build_denoiser(
    recipe: Recipe, latent_shape: tuple[int, ...], examples: Examples, prompts: PromptCodec | None
) -> nn.Module:
    """The recipe's denoiser for latents (channels, *grid) of such examples, with the recipe's seed.

    For texts it also takes as hints its own last estimate and the latents of a context, and a length; for a task the
    latents of what it shall repair; for prompts their tokens.
    """
    torch.manual_seed(recipe.seed)
    arguments = recipe.denoiser.model_dump(exclude={"kind", "preset"}, exclude_none=True)
    channels, *grid = latent_shape
    num_classes = examples.num_classes + recipe.clusters * max(1, examples.num_classes)
    arguments |= {"grid": tuple(grid)} if recipe.denoiser.kind == "DiT" else {"dims": len(grid)}
    if isinstance(examples, TokenSet):
        if recipe.denoiser.kind != "DiT":
            raise LatentiaError(f"texts need a DiT as denoiser, not a {recipe.denoiser.kind}: set denoiser.kind=DiT")
        arguments |= {"hint_channels": 2 * channels, "lengths": examples.size}
    if isinstance(examples, RepairExamples):
        arguments["hint_channels"] = examples.task.hint_channels(channels)
    if prompts is not None:
        arguments["prompt_vocab"] = prompts.tokenizer.vocab_size
        assert recipe.prompt is not None
        arguments |= {"prompt_tokens": prompts.size, "prompt_depth": recipe.prompt.depth}
        if recipe.prompt.encoder is not None:
            arguments["prompt_encoder"] = encoder_config(encoder_folder(recipe.prompt.encoder))
    return DENOISERS[recipe.denoiser.kind](in_channels=channels, num_classes=num_classes, **arguments)


def finer_labels(recipe: Recipe, examples: Examples, folder: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The number (N,) of each example's cluster, counted on from class to class; kept in `folder`.

    Raises LatentiaError where there are no clusters to be found.
    """
    if not isinstance(examples, PictureSet):
        raise LatentiaError("clusters are for pictures that a denoiser learns to draw: set clusters=0")
    path = folder / "clusters.npy"
    if not path.exists():
        found = cluster_pictures(examples, recipe.clusters, recipe.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial, partial.open("wb") as file:
            np.save(file, found)
    clusters: np.ndarray[Any, np.dtype[np.int64]] = np.load(path, allow_pickle=False)
    return clusters if examples.labels is None else examples.labels * recipe.clusters + clusters


def start_from(denoiser: nn.Module, folder: Path) -> None:
    """Gives a denoiser the weights in a model's `denoiser` folder.

    Hints that those did not have count for nothing at first (their weights are 0, as in Brooks et al. 2023, §3.2), and
    other classes are learned anew. Raises LatentiaError where the denoisers differ in anything else.
    """
    given, own = load_part(folder, DENOISERS).state_dict(), denoiser.state_dict()
    for name in sorted(given.keys() | own.keys()):
        value, wanted = given.get(name), own.get(name)
        shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (value, wanted)]
        may_differ = 0 if name == CLASS_TABLE else 1 if name in INPUT_LAYERS else None  # axis
        alike = [shape and [n for axis, n in enumerate(shape) if axis != may_differ] for shape in shapes]
        if value is None or wanted is None or alike[0] != alike[1]:
            raise LatentiaError(f"{folder} does not fit the recipe's denoiser: {name} is {shapes[0]}, not {shapes[1]}")
        if value.shape == wanted.shape:
            wanted.copy_(value)
        elif name == CLASS_TABLE:
            wanted[-1] = value[-1]  # "no class"
        else:
            wanted.zero_()[:, : value.shape[1]] = value
    denoiser.load_state_dict(own)


def train_denoiser(
    recipe: Recipe,
    first_stage: FirstStage,
    cache: LatentCache | JoinedCache,
    examples: Examples,
    folder: Path,
    accelerator: Accelerator,
    prompts: PromptCodec | None = None,
    *,
    say: Say = print,
) -> LatentModel:
    """Trains, or continues, the recipe's denoiser on cached latents and returns the model with averaged weights.

    A step draws times t and noise ε for the whole batch, replaces `label_dropout` of the labels by the null class (Ho &
    Salimans 2022, Alg. 1) and lowers the process's weighted error. Every process draws all numbers and takes its
    share, so the loss does not depend on how many there are. A batch holds latents of one shape. With clusters, the
    label is a cluster of the class, or, in a `label_dropout` of the batch by a draw of its own, the class. With
    `prompts`, one of the captions is told beside the label. Texts get a length, a context and an estimate beside the
    label, each of them only sometimes. Writes log, checkpoint and sample grids into `folder`.

    Raises LatentiaError where sizes do not fit or the loss breaks, and Stopped on Ctrl-C.
    """
    device, loop = accelerator.device, recipe.training
    num_classes = examples.num_classes
    process = PROCESSES[recipe.process.kind](**recipe.process.model_dump(exclude={"kind"}))
    latent_shape = first_stage.latent_shape(examples.size)
    denoiser = build_denoiser(recipe, latent_shape, examples, prompts)
    null: int = denoiser.num_classes  # type: ignore[assignment]
    if recipe.prompt is not None and recipe.prompt.encoder is not None:
        frozen = cast(FrozenEncoder, denoiser.get_submodule("prompt_encoder.frozen"))
        frozen.load(encoder_folder(recipe.prompt.encoder))
    checkpoint = folder / "checkpoint.safetensors"
    if recipe.init is not None and not checkpoint.exists():
        start_from(denoiser, Path(recipe.init) / "denoiser")
    denoiser.to(device)
    network, trainee = prepare(denoiser, loop, accelerator, title="denoiser", compile=recipe.compute.compile, say=say)

    nothing_said = torch.empty(0) if prompts is None else prompts.to_ids([""]).ids.to(device)

    order = (
        GroupedOrder(cache.part_of, loop.batch_size, recipe.seed)
        if isinstance(cache, JoinedCache)
        else ShuffledOrder(len(cache), loop.batch_size, recipe.seed)
    )
    mine = local_share(loop.batch_size, accelerator)
    parts = recipe.compute.microbatches
    lengths = torch.from_numpy(examples.lengths) if isinstance(examples, TokenSet) else None
    repairs = isinstance(examples, RepairExamples)
    captions = None
    if prompts is not None and isinstance(examples, CAPTIONED) and examples.captions is not None:
        captions = CaptionIds.of(examples.captions, prompts)
    finer, shares = None, None
    if recipe.clusters:
        with accelerator.main_process_first():
            numbers = finer_labels(recipe, examples, folder)
        counts = np.bincount(numbers, minlength=max(1, num_classes) * recipe.clusters)
        shares = counts.reshape(-1, recipe.clusters) / counts.reshape(-1, recipe.clusters).sum(1, keepdims=True)
        finer = num_classes + torch.from_numpy(numbers)

    def update(step: int) -> dict[str, Tensor]:
        generator = step_generator(recipe.seed, step, device=device)
        size = loop.batch_size
        t = process.sample_times(size, generator)[mine]
        luck = torch.rand(size, generator=generator, device=device)[mine]
        dropped = luck < recipe.label_dropout
        variant = torch.randint(int(repairs), cache.variants, (size,), generator=generator, device=device)[mine]
        rows = order.batch(step)[mine]
        z, labels = cache.batch(rows, variant if lengths is None and not repairs else 0)
        z = z.to(device, non_blocking=True)
        eps = torch.randn((size, *z.shape[1:]), generator=generator, device=device)[mine]
        label = torch.full_like(dropped, null, dtype=torch.int64)
        if labels is not None:
            label = torch.where(dropped, label, labels.to(device, non_blocking=True))
        if finer is not None:
            coarse = torch.rand(size, generator=generator, device=device)[mine] < recipe.label_dropout
            label = torch.where(dropped | coarse, label, finer[rows].to(device, non_blocking=True))
        conditions = {"label": label}
        guess = False
        if lengths is not None:
            open_length, no_context, guesses = torch.rand((3, size), generator=generator, device=device)
            unguided = dropped | (no_context[mine] >= recipe.context_share)
            is_open = dropped | (open_length[mine] < OPEN_LENGTH)
            conditions["length"] = torch.where(is_open, examples.size, lengths[rows].to(device))
            context, _ = cache.batch(rows, 1)
            conditions["hints"] = torch.where(unguided[:, None, None], 0.0, context.to(device))
            guess = bool(guesses[0] < SELF_CONDITIONED)
        if isinstance(examples, RepairExamples):
            left, _ = cache.batch(rows, variant)
            conditions["hints"] = examples.task.hints(left, examples.hidden(rows, variant.cpu())).to(device)
        if captions is not None:
            which = torch.rand(size, generator=generator, device=device)[mine].cpu().numpy()
            said = without_padding(captions.draw(rows.numpy(), which)).to(device)
            conditions["prompt"] = torch.where(dropped[:, None], nothing_said[:, : said.shape[1]], said)
        torch.manual_seed(step_generator(recipe.seed, step, accelerator.process_index).initial_seed())  # dropout
        losses = []
        pieces = [value.chunk(parts) for value in (z, eps, t, *conditions.values())]
        for number, (z_part, eps_part, t_part, *values) in enumerate(zip(*pieces, strict=True), start=1):
            part = dict(zip(conditions, values, strict=True))
            last = number == len(pieces[0])
            with nullcontext() if last else accelerator.no_sync(trainee.module):  # gradients are exchanged once
                with accelerator.autocast():
                    if lengths is not None:
                        part = self_condition(network, process, z_part, eps_part, t_part, part, guess)
                    loss = training_loss(partial(network, **part), z_part, eps_part, t_part, process)
                accelerator.backward(loss.sum() / len(z))
            losses.append(loss.detach())
        apply_gradients(trainee, loop, step, accelerator)
        return averaged({"loss": torch.cat(losses).mean()}, accelerator)

    codec = examples.codec if isinstance(examples, TokenSet) else PictureCodec(examples.size)
    task = examples.task if isinstance(examples, RepairExamples) else None
    sampling = recipe.sampling.model_dump()
    model = LatentModel(first_stage, process, denoiser, codec, examples.class_names, sampling, task, shares, prompts)

    def preview(step: int) -> None:
        labels = np.arange(64) % num_classes if num_classes else np.zeros(64, np.int64)
        hints, said = None, None
        if isinstance(examples, CAPTIONED) and captions is not None and examples.captions is not None:
            said = [examples.captions[i % len(examples)].splitlines()[0] for i in range(64)]
        if isinstance(examples, RepairExamples):
            rows = torch.arange(64) % len(examples)
            hints = examples.task.hints(cache.batch(rows, 1)[0], examples.hidden(rows, 1))
        assert trainee.ema is not None
        with trainee.ema.swapped():
            denoiser.eval()
            items = model.generate(labels, hints=hints, prompts=said, seed=recipe.seed, batch_size=64)
            denoiser.train()
        if not accelerator.is_main_process:
            return
        if isinstance(codec, PictureCodec):
            picture_grid(items, columns=10 if num_classes == 10 else 8).save(folder / f"samples-{step:06d}.png")
        else:
            write_text(folder / f"samples-{step:06d}.txt", "\n".join(items) + "\n")

    run_loop(
        accelerator,
        Checkpoint(checkpoint, {"denoiser": trainee}, identity(recipe, examples)),
        update,
        title="denoiser",
        folder=folder,
        steps=loop.steps,
        log_every=loop.log_every,
        checkpoint_every=loop.checkpoint_every,
        preview=preview,
        preview_every=loop.preview_every,
    )
    model.denoiser = build_denoiser(recipe, latent_shape, examples, prompts)
    model.denoiser.load_state_dict(trainee.averaged_weights())
    model.denoiser.to(device).eval().requires_grad_(False)
    return model


def self_condition(
    network: Callable[..., Tensor],
    process: Process,
    z: Tensor,
    eps: Tensor,
    t: Tensor,
    conditions: Conditions,
    guess: bool,
) -> Conditions:
    """The conditions with an estimate of z before the context: the network's own first one, or zeros without `guess`.

    Chen et al. 2023 ("Analog bits"), Alg. 1: half of the updates see what they would have answered, without gradient.
    """
    blind = with_estimate(conditions, torch.zeros_like(z))
    if not guess:
        return blind
    with torch.no_grad():
        return with_estimate(conditions, denoise_with(network, process)(process.noise(z, eps, t), t, **blind))


def without_padding(prompts: Tensor) -> Tensor:
    """Token ids (B, L) without the columns that are all padding; a multiple of 8 is left, so that shapes repeat."""
    longest = int((prompts != Tokenizer.pad_id).sum(1).max())
    return prompts[:, : -(-longest // 8) * 8]


def identity(recipe: Recipe, examples: Examples) -> str:
    """What must be the same for a checkpoint to be continued."""
    sections = (
        "seed",
        "data",
        "first_stage",
        "process",
        "denoiser",
        "task",
        "prompt",
        "clusters",
        "label_dropout",
        "training",
    )
    return recipe.hash(*sections) + examples.fingerprint
