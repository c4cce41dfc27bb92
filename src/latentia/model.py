"""The model folder: a trained first stage, process and denoiser, saved and loaded as one.

Layout, as in diffusers: `model_index.json`, one folder a part with `config.json` and safetensors weights, and
`training.json`, which says how the model came to be.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from latentia.conditions.prompt_ids import PromptCodec
from latentia.denoiser import DENOISERS
from latentia.diffusion import (
    EDM,
    SAMPLERS,
    SPACINGS,
    VP,
    Conditions,
    Denoise,
    RectifiedFlow,
    Sampler,
    batched_guidance,
    cut_times,
    denoise_with,
    initial_noise,
    process_config,
    process_from_config,
    self_conditioned,
)
from latentia.errors import LatentiaError
from latentia.files import CONFIG_NAME, load_part, read_json, save_part, write_json
from latentia.items import class_index
from latentia.language.tokenizer import Tokenizer
from latentia.latents.first_stage import FirstStage
from latentia.modalities.image.codec import PictureCodec
from latentia.modalities.image.first_stage import PictureStage
from latentia.modalities.image.repair_task import RepairTask
from latentia.modalities.stages import FIRST_STAGES
from latentia.modalities.text.codec import TextCodec
from latentia.version import __version__

INDEX_NAME, TRAINING_NAME, TOKENIZER_NAME = "model_index.json", "training.json", "tokenizer/tokenizer.json"
PROMPT = ("prompt", "emphasis")  # what a `PromptCodec` gives, by the names of the denoiser's arguments
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class LatentModel:
    """A first stage, a process and a denoiser that belong together.

    Items are what people see: pictures uint8 (N, H, W, C), or a list of N texts; `codec` turns them into tensors.
    `sampling` holds the defaults of `generate` (sampler, steps, spacing, guidance_scale, guidance_interval,
    guidance_rescale, stop_sigma, temperature); `task` is what the denoiser repairs, None where it draws;
    `clusters` the share of each class's pictures that is in each of its clusters, (num_classes, or 1 without classes;
    clusters), None where the denoiser knows only classes; `prompts` reads prompts, None where it knows no words;
    `training` says how the model was made.
    """

    first_stage: FirstStage
    process: VP | RectifiedFlow | EDM
    denoiser: nn.Module
    codec: PictureCodec | TextCodec
    class_names: tuple[str, ...] = ()
    sampling: dict[str, Any] = field(default_factory=dict)
    task: RepairTask | None = None
    clusters: NDArray[np.float64] | None = None
    prompts: PromptCodec | None = None
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.first_stage.latent_mean.device

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(channels, *grid)."""
        return self.first_stage.latent_shape(self.codec.size)

    def to(self, device: str | torch.device) -> "LatentModel":
        self.first_stage.to(device)
        self.denoiser.to(device)
        return self

    def class_index(self, name_or_number: str | int) -> int:
        """The label of a class. Raises LatentiaError naming the classes there are."""
        return class_index(self.class_names, name_or_number, "the model")

    @torch.no_grad()
    def encode(self, items: NDArray[np.uint8] | Sequence[str]) -> Tensor:
        """Pictures uint8 (B, H, W, C), or texts → normalised latents float32 (B, *latent_shape)."""
        return self.first_stage.encode(self.codec.to_tensor(items).to(self.device))  # type: ignore[arg-type]

    @torch.no_grad()
    def decode(self, z: Tensor, **wording: Any) -> Any:
        """Latents (B, *latent_shape) → pictures uint8 (B, H, W, C), or texts.

        `wording` are the other arguments of `TextAutoencoder.decode`: begin, labels, temperature and generator.
        """
        return self.codec.to_items(self.first_stage.decode(z.to(self.device), **wording))

    def generate(
        self,
        labels: Sequence[int] | NDArray[np.int64] | int,
        *,
        lengths: Sequence[int] | None = None,
        context: Sequence[str] | None = None,
        prompts: Sequence[str] | None = None,
        negative_prompt: str = "",
        hints: Tensor | None = None,
        latents: Tensor | None = None,
        size: tuple[int, int] | None = None,
        sampler: str | Sampler | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float | None = None,
        stop_sigma: float | None = None,
        temperature: float | None = None,
        seed: int = 0,
        batch_size: int = 256,
        progress: bool = False,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Any:
        """Draws one item for each label: pictures uint8 (N, H, W, C), or a list of N texts.

        Args:
            labels: class numbers, with `len(class_names)` for no class; or a count, to draw that many without a class.
            lengths: of each text the tokens that it shall have; None leaves that open. Texts only.
            context: for each text the one that it shall complete, a "___" where something is to be written; what stands
                before it is kept word for word. Texts only.
            prompts: for each picture what it shall show, "" for anything; "(words:1.5)" count by that factor. For
                models that were trained on captions.
            negative_prompt: what guidance leads away from, instead of from anything.
            hints: for a model with a task what it shall repair, (N, hint_channels, *grid), by `RepairTask.hints`.
            latents: the noise (N, *latent_shape) that sampling starts from, instead of the seed's.
            size: height and width of the pictures, in pixels; None is the square that the model was trained on. A UNet
                and a DiT with rope draw any size that the first stage takes, the better the nearer it is to that.
            sampler, steps, spacing, guidance_scale, guidance_interval, guidance_rescale: None takes the model's own. A
                sampler may also be a function, such as `repaint` with its known latents bound; then it is called on
                `batch_size` items at a time.
            stop_sigma: σ/α at which diffusion stops and the decoder takes over, 0 for the end; steps beyond it are
                left out. Texts only.
            temperature: of the decoder's draws, 0 for the likeliest tokens. Texts only.
            seed: the same seed, labels and batch_size give the same items on the same machine.
            callback: called as callback(step, z_t, denoised) after each network evaluation of each batch.

        Raises LatentiaError for an unknown sampler or spacing, a label out of range, or settings that do not fit.
        """
        null = len(self.class_names)
        wanted = np.full(labels, null) if isinstance(labels, int) else np.asarray(labels, dtype=np.int64)
        if wanted.ndim != 1 or len(wanted) == 0:
            raise LatentiaError(
                f"labels have shape {wanted.shape}, expected a list of one or more, or a positive count"
            )
        if wanted.min() < 0 or wanted.max() > null:
            raise LatentiaError(f"labels run from {wanted.min()} to {wanted.max()}, expected 0 to {null}")
        given = {
            "sampler": sampler,
            "steps": steps,
            "spacing": spacing,
            "guidance_scale": guidance_scale,
            "guidance_interval": guidance_interval,
            "guidance_rescale": guidance_rescale,
            "stop_sigma": stop_sigma,
            "temperature": temperature,
        }
        chosen = DEFAULT_SAMPLING | self.sampling | {name: value for name, value in given.items() if value is not None}
        solve: Sampler = sampler if callable(sampler) else choose("sampler", chosen["sampler"], SAMPLERS)
        times = choose("spacing", chosen["spacing"], SPACINGS)(chosen["steps"], self.process)
        if isinstance(self.codec, TextCodec):
            times = cut_times(times, self.process, chosen["stop_sigma"])
        elif chosen["stop_sigma"] or chosen["temperature"]:
            raise LatentiaError("stop_sigma and temperature are for texts; this model makes pictures")
        last = self.process.alpha(times[-1])
        latent_shape = self.latent_shape if size is None else self._latent_shape_of(size)
        if latents is not None and latents.shape != (len(wanted), *latent_shape):
            raise LatentiaError(f"latents have shape {tuple(latents.shape)}, expected {(len(wanted), *latent_shape)}")
        label = self._told(wanted, seed if latents is None and not callable(sampler) else None)
        conditions, against, begin = self._request(label, lengths, context, prompts, negative_prompt, hints)

        parts: list[Any] = []
        bar = tqdm(total=len(wanted), desc="sampling", unit="item", disable=not progress, dynamic_ncols=True)
        with bar, torch.no_grad():  # inference mode would keep a sampler from taking gradients of its own
            for start in range(0, len(wanted), batch_size):
                rows = slice(start, start + batch_size)
                guided = self._guided(_rows(conditions, rows), _rows(against, rows), chosen)
                generator = torch.Generator().manual_seed(seed * 1_000_003 + start)  # on the CPU: one seed, any device
                shape = (len(wanted[rows]), *latent_shape)
                noise = initial_noise(self.process, shape, generator) if latents is None else latents[rows]
                z = noise.to(self.device)
                z = solve(guided, z, times, self.process, generator=generator, callback=callback)
                parts.append(self.decode(z / last, **self._wording(label, begin, rows, chosen, generator)))
                bar.update(len(z))
        return (
            np.concatenate(parts) if isinstance(self.codec, PictureCodec) else [text for part in parts for text in part]
        )

    def _latent_shape_of(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(channels, h, w) of pictures of that height and width."""
        if not isinstance(self.first_stage, PictureStage) or self.task is not None:
            raise LatentiaError("size is for models that draw pictures")
        return self.first_stage.latent_shape(size)

    def _told(self, labels: NDArray[np.int64], seed: int | None) -> Tensor:
        """The denoiser's labels: first the classes, then the clusters of each, then "nothing".

        With a seed a cluster of each class is drawn, as often as it occurs. Without one the class is all that is told,
        as where a given picture decides what else is in the latent.
        """
        null = len(self.class_names)
        told = np.where(labels == null, denoiser_config(self.denoiser)["num_classes"], labels)
        if self.clusters is not None and seed is not None:
            random = np.random.default_rng(seed)
            classes, clusters = self.clusters.shape
            for label in range(classes):
                rows = np.flatnonzero(labels == label)
                told[rows] = null + label * clusters + random.choice(clusters, len(rows), p=self.clusters[label])
        return torch.from_numpy(told)

    def _wording(
        self, label: Tensor, begin: Tensor | None, rows: slice, chosen: dict[str, Any], generator: torch.Generator
    ) -> dict[str, Any]:
        """What the decoder of a text model is told beside the latents of these rows."""
        if not isinstance(self.codec, TextCodec):
            return {}
        shown = None if begin is None else begin[rows]
        labels = label[rows].to(self.device)
        return {"begin": shown, "labels": labels, "temperature": chosen["temperature"], "generator": generator}

    def denoise(self, labels: NDArray[np.int64], prompts: Sequence[str] | None = None) -> Denoise:
        """E[z | z_t] for the whole condition and without guidance: labels (B,) as in `generate`, a prompt for each.

        A cluster is not drawn: the class is all that is known. Raises LatentiaError as `generate` does.
        """
        conditions, null, _ = self._request(self._told(labels, None), prompts=prompts)
        return self._guided(conditions, null, DEFAULT_SAMPLING)

    def _request(
        self,
        label: Tensor,
        lengths: Sequence[int] | None = None,
        context: Sequence[str] | None = None,
        prompts: Sequence[str] | None = None,
        negative_prompt: str = "",
        hints: Tensor | None = None,
    ) -> tuple[Conditions, Conditions, Tensor | None]:
        """The denoiser's conditions, those that guidance leads away from, and the ids that a decoded text begins with:
        each tensor is (N, ...)."""
        self._require_task(hints)
        conditions = {"label": label}
        null = {"label": torch.full_like(label, denoiser_config(self.denoiser)["num_classes"])}
        if hints is not None:
            conditions["hints"] = null["hints"] = hints
        begin = None
        if isinstance(self.codec, TextCodec):
            own, none, begin = self._text_request(label, lengths, context)
            conditions, null = conditions | own, null | none
        elif lengths is not None or context is not None:
            raise LatentiaError("lengths and context are for texts; this model makes pictures")
        if self.prompts is not None:
            asked = [""] * len(label) if prompts is None else prompts
            if isinstance(asked, str) or len(asked) != len(label):
                raise LatentiaError(f"there are {len(asked)} prompts for {len(label)} pictures")
            conditions |= zip(PROMPT, self.prompts.to_ids(asked), strict=True)
            negative = (value.expand(len(label), -1) for value in self.prompts.to_ids([negative_prompt]))
            null |= zip(PROMPT, negative, strict=True)
        elif prompts is not None or negative_prompt:
            raise LatentiaError("the model was trained without captions and reads no prompts")
        return self._to_device(conditions), self._to_device(null), begin

    def _to_device(self, conditions: Conditions) -> Conditions:
        return {name: value.to(self.device) for name, value in conditions.items()}

    def _require_task(self, hints: Tensor | None) -> None:
        """Raises LatentiaError where there is something to repair and no task, or a task and nothing to repair."""
        if hints is not None and isinstance(self.codec, TextCodec):
            raise LatentiaError("hints are for pictures; this model makes texts")
        if hints is not None and self.task is None:
            raise LatentiaError("the model draws pictures and takes no hints")
        if hints is None and self.task is not None:
            raise LatentiaError(f"the model is trained for {self.task.kind} and needs what it shall repair")

    def _text_request(
        self, label: Tensor, lengths: Sequence[int] | None, context: Sequence[str] | None
    ) -> tuple[Conditions, Conditions, Tensor | None]:
        """Length and context of texts as `_request` gives them; a context stands under "hints"."""
        assert isinstance(self.codec, TextCodec)
        open_length = torch.full_like(label, self.codec.size)
        length = open_length
        if lengths is not None:
            length = torch.as_tensor(lengths, dtype=torch.int64)
            if length.shape != label.shape or not 1 <= length.min() <= length.max() < self.codec.size:
                raise LatentiaError(f"lengths must be {len(label)} numbers from 1 to {self.codec.size - 1}")
        empty = torch.zeros(len(label), *self.latent_shape)
        latents, begin = empty, None
        if context is not None:
            if len(context) != len(label):
                raise LatentiaError(f"there are {len(context)} contexts for {len(label)} texts")
            with torch.no_grad():
                ids = self.codec.to_tensor(context, gaps=True).to(self.device)
                latents = self.first_stage.encode(ids)
            gaps = (ids == Tokenizer.mask_id).cumsum(1)
            begin = ids.where((gaps == 0) & (gaps[:, -1:] > 0), Tokenizer.pad_id)
        return {"hints": latents, "length": length}, {"hints": empty, "length": open_length}, begin

    def _guided(self, conditions: Conditions, null: Conditions, chosen: dict[str, Any]) -> Denoise:
        """The denoiser under guidance, for one batch."""
        denoise = denoise_with(self.denoiser, self.process)
        interval = None if chosen["guidance_interval"] is None else tuple(chosen["guidance_interval"])
        differ = any(not torch.equal(value, null[name]) for name, value in conditions.items())

        def guide(conditions: Conditions, null: Conditions) -> Denoise:
            return batched_guidance(
                denoise,
                conditions,
                null,
                chosen["guidance_scale"] if differ else 1.0,
                self.process,
                interval=interval,
                rescale=chosen["guidance_rescale"],
            )

        if not isinstance(self.codec, TextCodec):
            return guide(conditions, null)
        return self_conditioned(
            lambda z_t, t, estimate: guide(with_estimate(conditions, estimate), with_estimate(null, estimate))(z_t, t)
        )

    def save(self, folder: str | Path, *, dtype: str = "float32") -> None:
        """Writes the model folder, its index last: a folder without one is not a model.

        `dtype` ("float32", "float16" or "bfloat16") is the type of the weights on disk.
        """
        folder = Path(folder)
        (folder / INDEX_NAME).unlink(missing_ok=True)
        save_part(folder / "first_stage", self.first_stage, self.first_stage.config)  # small, and the cache's key
        save_part(folder / "denoiser", self.denoiser, denoiser_config(self.denoiser), DTYPES[dtype])
        write_json(folder / "process" / CONFIG_NAME, process_config(self.process))
        write_json(folder / TRAINING_NAME, self.training)
        words = self.codec if isinstance(self.codec, TextCodec) else self.prompts
        if words is not None:
            words.tokenizer.save(folder / TOKENIZER_NAME)
        index = {
            "_class_name": "LatentModel",
            "_latentia_version": __version__,
            "first_stage": ["latentia", type(self.first_stage).__name__],
            "process": ["latentia", type(self.process).__name__],
            "denoiser": ["latentia", type(self.denoiser).__name__],
            "image_size" if isinstance(self.codec, PictureCodec) else "max_tokens": self.codec.size,
            "class_names": list(self.class_names),
            "sampling": self.sampling,
        }
        if self.task is not None:
            index["task"] = asdict(self.task)
        if self.prompts is not None:
            index["prompt_tokens"] = self.prompts.size
        if self.clusters is not None:
            index["clusters"] = self.clusters.tolist()
        write_json(folder / INDEX_NAME, index)


def with_estimate(conditions: Conditions, estimate: Tensor) -> Conditions:
    """Conditions of a text whose hints (B, C, *grid), a context, follow an estimate of z (B, C, *grid)."""
    return {**conditions, "hints": torch.cat([estimate, conditions["hints"]], 1)}


def _rows(conditions: Conditions, rows: slice) -> Conditions:
    return {name: value[rows] for name, value in conditions.items()}


DEFAULT_SAMPLING: dict[str, Any] = {
    "sampler": "dpm_solver_2m",
    "steps": 20,
    "spacing": "uniform",
    "guidance_scale": 1.0,
    "guidance_interval": None,
    "guidance_rescale": 0.0,
    "stop_sigma": 0.0,
    "temperature": 0.0,
}


def load(
    folder: str | Path, device: str | torch.device = "cpu", *, parts: Mapping[str, Callable[[], Any]] | None = None
) -> LatentModel:
    """Loads a model folder onto `device`, in evaluation mode and float32.

    `parts` makes first_stage and denoiser where they are not safetensors.

    Raises LatentiaError where the folder is no model, a part is missing or damaged, or parts do not fit each other.
    """
    folder = Path(folder)
    index = read_json(folder / INDEX_NAME)
    if index.get("_class_name") != "LatentModel":
        raise LatentiaError(f"{folder / INDEX_NAME} describes {index.get('_class_name')!r}, expected a LatentModel")
    try:
        names, sampling = tuple(map(str, index["class_names"])), dict(index["sampling"])
        task = RepairTask(**index["task"]) if "task" in index else None
        clusters = np.array(index["clusters"], dtype=np.float64) if "clusters" in index else None
        codec: PictureCodec | TextCodec
        prompts = None
        if "prompt_tokens" in index:
            prompts = PromptCodec.load(folder / TOKENIZER_NAME, int(index["prompt_tokens"]))
        if "max_tokens" in index:
            codec = TextCodec(Tokenizer.load(folder / TOKENIZER_NAME), int(index["max_tokens"]))
        else:
            codec = PictureCodec(int(index["image_size"]))
    except (KeyError, TypeError, ValueError) as error:
        raise LatentiaError(f"{folder / INDEX_NAME} lacks or garbles a field: {error}") from None
    made = parts or {
        "first_stage": lambda: load_part(folder / "first_stage", FIRST_STAGES),
        "denoiser": lambda: load_part(folder / "denoiser", DENOISERS),
    }
    model = LatentModel(
        first_stage=made["first_stage"](),
        process=process_from_config(read_json(folder / "process" / CONFIG_NAME)),
        denoiser=made["denoiser"](),
        codec=codec,
        class_names=names,
        sampling=sampling,
        task=task,
        clusters=clusters,
        prompts=prompts,
        training=read_json(folder / TRAINING_NAME),
    )
    config, shape = denoiser_config(model.denoiser), model.latent_shape
    labels = len(names) + (0 if clusters is None else clusters.size)
    if (config["in_channels"], config["num_classes"]) != (shape[0], labels):
        raise LatentiaError(
            f"{folder}: the denoiser takes {config['in_channels']} channels and {config['num_classes']} classes, "
            f"the first stage gives {shape[0]} and the index names {labels}"
        )
    if clusters is not None and not (
        clusters.ndim == 2
        and len(clusters) == max(1, len(names))
        and (clusters >= 0).all()
        and np.allclose(clusters.sum(1), 1)
    ):
        raise LatentiaError(f"{folder / INDEX_NAME}: clusters are no shares of {max(1, len(names))} classes")
    hints = 2 * shape[0] if "max_tokens" in index else task.hint_channels(shape[0]) if task else 0
    if config.get("hint_channels", 0) != hints:
        raise LatentiaError(f"{folder}: the denoiser takes {config.get('hint_channels', 0)} hints, expected {hints}")
    words = (prompts.tokenizer.vocab_size, prompts.size) if prompts else (0, config.get("prompt_tokens"))
    if (config.get("prompt_vocab", 0), config.get("prompt_tokens")) != words:
        raise LatentiaError(f"{folder}: denoiser and tokenizer do not fit each other, or one of them is missing")
    vocabulary = codec.tokenizer.vocab_size if isinstance(codec, TextCodec) else None
    told = len(names) if isinstance(codec, TextCodec) else None
    own = model.first_stage.config
    if (own.get("vocab_size"), own.get("classes")) != (vocabulary, told):
        raise LatentiaError(f"{folder}: first stage and tokenizer do not fit each other, or one of them is missing")
    for part in (model.first_stage, model.denoiser):
        part.eval().requires_grad_(False)
    return model.to(device)


def denoiser_config(denoiser: nn.Module) -> dict[str, Any]:
    """The arguments that it was built with."""
    config: dict[str, Any] = denoiser.config  # type: ignore[assignment]
    return config


def choose(kind: Literal["sampler", "spacing"], name: str, choices: dict[str, Any]) -> Any:
    """The choice of that name. Raises LatentiaError that lists them all where there is none."""
    if name not in choices:
        raise LatentiaError(f"unknown {kind} {name!r}, expected one of {', '.join(choices)}")
    return choices[name]
