"""The model folder: a trained first stage, process and denoiser, saved and loaded as one.

Layout, as in diffusers: `model_index.json`, one folder a part with `config.json` and safetensors weights, and
`training.json`, which says how the model came to be.
"""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latentia.conditions import Request, Values
from latentia.config import checked
from latentia.denoiser import Denoiser, load_denoiser
from latentia.description import in_html, in_lines
from latentia.diffusion import (
    EDM,
    SAMPLERS,
    SPACINGS,
    VP,
    Denoise,
    RectifiedFlow,
    Sampler,
    Sampling,
    cut_times,
    initial_noise,
    process_config,
    process_from_config,
)
from latentia.errors import LatentiaError, first_line
from latentia.files import (
    CONFIG_NAME,
    NOT_WRITTEN,
    RECIPE_NAME,
    VERIFY,
    WEIGHTS_NAME,
    as_float,
    check_state,
    check_sums,
    file_checksum,
    has_checksum,
    load_part,
    module_hash,
    new_folder,
    read_json,
    read_tensors,
    rounded,
    save_part,
    write_json,
)
from latentia.items import Codec, class_index
from latentia.latents.first_stage import FirstStage
from latentia.modalities.registry import first_stages, modality_named, upgraded_index
from latentia.progress import progress as progress_bar
from latentia.randomness import of_items
from latentia.shipped import MODELS
from latentia.sources.hub import hub_folder, is_on_hub
from latentia.version import __version__

INDEX_NAME, TRAINING_NAME = "model_index.json", "training.json"
MODEL_NAME = "model"  # the model folder of a run
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
OF_WEAKER = {"float32": torch.float32, "float16": torch.int8, "bfloat16": torch.int8}  # what guides may be less exact
CALLBACK = Callable[[int, Tensor, Tensor], None]


WORDS = ("prompt", "label")  # conditions for which words alone may stand, the first that a model has
MOST_ITEMS = 1_000_000  # of a call, and index of its first
LARGER = 64  # times the cells of the model's own latent: the most that is drawn
SETTINGS = tuple(field.name for field in fields(Sampling))


def stored_type(part: str, dtype: str) -> torch.dtype:
    """The type on disk of a part's weights, in a model folder of that `dtype`."""
    return (OF_WEAKER if part == "weaker" else DTYPES)[dtype]


@dataclass
class LatentModel:
    """A first stage, a process and a denoiser that belong together.

    Items are what people see, such as pictures uint8 (N, H, W, C) or a list of N texts; the `codec` of the `modality`
    turns them into tensors. `sampling` holds the model's own settings for `generate`, fields of `Sampling`; `training`
    says how the model was made. `weaker` is an early snapshot of the denoiser, for autoguidance.
    """

    first_stage: FirstStage
    process: VP | RectifiedFlow | EDM
    denoiser: Denoiser
    codec: Codec
    modality: str
    sampling: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    weaker: Denoiser | None = None

    def __repr__(self) -> str:
        return in_lines(self)

    def _repr_html_(self) -> str:
        return in_html(self)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks, by the folder of each."""
        named = {"first_stage": self.first_stage, "denoiser": self.denoiser, "weaker": self.weaker}
        return {name: part for name, part in named.items() if part is not None}

    @property
    def hash(self) -> str:
        """Of the weights of all parts: two models with the same draw the same."""
        return "-".join(map(module_hash, self.parts.values()))

    @property
    def device(self) -> torch.device:
        return self.first_stage.latent_mean.device

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(channels, *grid)."""
        return self.first_stage.latent_shape(self.codec.size)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that the denoiser knows; () for none."""
        label = self.condition("label")
        return () if label is None else label.class_names

    def condition(self, name: str) -> Any:
        """The denoiser's condition of that name, None where it has none."""
        return self.denoiser.known.get(name)

    def to(self, device: str | torch.device) -> "LatentModel":
        for part in self.parts.values():
            part.to(device)
        return self

    def class_index(self, name_or_number: str | int) -> int:
        """The label of a class. Raises LatentiaError naming the classes there are."""
        return class_index(self.class_names, name_or_number, "the model")

    @torch.no_grad()
    def encode(self, items: Any) -> Tensor:
        """Items → normalised latents float32 (B, *latent_shape)."""
        return self.first_stage.encode(self.codec.to_tensor(items).to(self.device))

    @torch.no_grad()
    def encode_context(self, items: Any) -> Tensor:
        """Items with gaps → normalised latents float32 (B, *latent_shape)."""
        return self.first_stage.encode(self.codec.context_tensor(items).to(self.device))

    @torch.no_grad()
    def decode(self, z: Tensor, **options: Any) -> Any:
        """Latents (B, *latent_shape) → items; `options` are further arguments of the first stage's `decode`."""
        return self.codec.to_items(self.first_stage.decode(z.to(self.device), **options))

    def generate(
        self,
        what: int | str | Sequence[int] | Sequence[str] | NDArray[np.int64] | None = None,
        *,
        count: int | None = None,
        size: Any = None,
        latents: Tensor | None = None,
        seed: int = 0,
        index: int = 0,
        batch_size: int = 256,
        progress: bool = False,
        callback: CALLBACK | None = None,
        weaker: Denoiser | None = None,
        output: Literal["items", "pil"] = "items",
        **asked: Any,
    ) -> Any:
        """Draws items, as the modality has them: pictures are uint8 (N, H, W, C), texts a list of N.

        Args:
            what: words, such as "a red heart" or "ankle boot", or a list of them: prompts of a model that reads such,
                else names of classes; or class numbers, with `len(class_names)` for no class; or how many items to
                draw without any of these.
            count: how many of each prompt or class; without any of these, how many.
            output: "pil" for a list of PIL pictures.
            size: of the items, where it is not the model's own: height and width of pictures in pixels. A UNet and a
                DiT with rope draw any size that the first stage takes, the better the nearer it is to their own.
            latents: the noise (N, *latent_shape) that sampling starts from, instead of the seed's.
            seed, index: item i of a call is drawn by (seed, index + i), whatever is drawn beside it, and so many at a
                time: `index` 17 draws what is the 18th of many. A batch of another size may round otherwise.
            callback: called as callback(step, z_t, denoised) after each network evaluation of each batch.
            weaker: a denoiser that guidance leads away from, instead of from no condition (see `Guidance`); None is
                the model's own where its settings ask for autoguidance and the call has no negative prompt, since
                that is what classifier-free guidance leads away from.
            asked: fields of `Sampling`, None for the model's own; `sampler` may also be a function, such as `repaint`
                with its known latents bound, which is called on `batch_size` items at a time; and options of the
                model's conditions: `labels`, as above; `prompts`, one for each item or for all, "" for anything,
                "(words:1.5)" count by that factor;
                `negative_prompt`, what guidance leads away from; `lengths` in tokens; `context`, for each text the one
                that it completes, with a "___" where something is to be written; `remains`, what a repair starts from.

        Raises LatentiaError for an unknown sampler or spacing, a label out of range, or options that do not fit.
        """
        options = {name: value for name, value in asked.items() if value is not None and name not in SETTINGS}
        count, wanted = self.wanted(options.pop("labels", what), count)
        options |= wanted
        settings = self.settings({name: asked[name] for name in asked if name in SETTINGS})
        shape = self.latent_shape if size is None else self.drawn_shape(size)
        check_amount(count, index, batch_size, shape)
        if latents is not None and latents.shape != (count, *shape):
            raise LatentiaError(f"latents have shape {tuple(latents.shape)}, expected {(count, *shape)}")
        seeded = latents is None and not callable(settings.sampler)
        request = Request(count, options, seed if seeded else None, index, self.encode_context)
        values, null = self.denoiser.request(request, torch.empty(count, *shape))
        if weaker is None and settings.guidance_kind == "autoguidance" and "negative_prompt" not in options:
            weaker = self.weaker
        start: dict[str, Any] = {"latents": latents, "seed": seed, "index": index}
        how: dict[str, Any] = {"batch_size": batch_size, "progress": progress, "callback": callback, "weaker": weaker}
        items = self.draw(values, null, settings, shape=shape, options=options, **start, **how)
        return self.codec.to_pil(items) if output == "pil" else items

    def drawn_shape(self, size: Any) -> tuple[int, ...]:
        """(channels, *grid) of items of another size. Raises LatentiaError for one that cannot be drawn."""
        shape = self.first_stage.latent_shape(self.codec.drawn_size(size))
        if math.prod(shape) > LARGER * math.prod(self.latent_shape):
            raise LatentiaError(f"size {size} is more than {LARGER} times as large as what the model learned")
        return shape

    def wanted(self, what: Any, count: int | None) -> tuple[int, dict[str, Any]]:
        """How many items `generate` draws, and the options of the conditions for which its first argument stands.

        Raises LatentiaError where the model has no condition for words, or `what` is something else.
        """
        if what is None or isinstance(what, int):
            return (1 if count is None else count) if what is None else what, {}
        each = [what] if isinstance(what, str) else what
        if not len(each) or not isinstance(each[0], str):
            if len(each) and np.asarray(each).dtype.kind not in "iu":
                raise LatentiaError(f"labels are {np.asarray(each).dtype}, expected integers")
            return len(each) * (count or 1), {"labels": np.repeat(each, count or 1)}
        named = next((name for name in WORDS if self.condition(name) is not None), None)
        if named is None:
            raise LatentiaError(f"the model reads no prompts and knows no classes, so {each[0]!r:.60} names nothing")
        parsed = [self.condition(named).parse(text) for text in each for _ in range(count or 1)]
        return len(parsed), {option: [one[option] for one in parsed] for option in parsed[0]}

    def settings(self, asked: Mapping[str, Any]) -> Sampling:
        """The model's own settings, changed by those asked for. Raises LatentiaError for one that is not known."""
        given = self.sampling | {name: value for name, value in asked.items() if value is not None}
        wrong = [name for name in ("stop_sigma", "temperature") if given.get(name) and name not in self.codec.settings]
        if wrong:
            raise LatentiaError(f"the decoder of {self.codec.describe()} takes no {' and '.join(wrong)}")
        if given.get("guidance_kind") == "autoguidance" and self.weaker is None:
            raise LatentiaError("guidance_kind is 'autoguidance', and the model has no snapshot for it")
        given = {name: value for name, value in given.items() if name in SETTINGS}
        free = {name: given.pop(name) for name in ("sampler", "spacing", "guidance_interval") if name in given}
        return replace(checked(Sampling, given, "sampling", "."), **free)  # checked where they are used

    def draw(
        self,
        values: Values,
        null: Values,
        settings: Sampling,
        *,
        shape: tuple[int, ...],
        options: Mapping[str, Any] | None = None,
        latents: Tensor | None = None,
        seed: int = 0,
        index: int = 0,
        batch_size: int = 256,
        progress: bool = False,
        callback: CALLBACK | None = None,
        weaker: Denoiser | None = None,
    ) -> Any:
        """Items for values (N, ...) of the conditions, guided away from `null`; latents have this `shape`.

        The other arguments are those of `generate`; `options` are what the codec reads of a request.
        """
        solve: Sampler = choose("sampler", settings.sampler, SAMPLERS)
        times = choose("spacing", settings.spacing, SPACINGS)(settings.steps, self.process)
        times = cut_times(times, self.process, settings.stop_sigma)
        last, count = self.process.alpha(times[-1]), len(next(iter(values.values())))
        parts: list[Any] = []
        bar = progress_bar(shown=progress, total=count, desc="sampling", unit="item")
        with bar, torch.no_grad():  # inference mode would keep a sampler from taking gradients of its own
            for start in range(0, count, batch_size):
                rows = slice(start, start + batch_size)
                own = self._rows(values, rows)
                denoise = self.denoiser.bind(own, self._rows(null, rows), self.process, settings.guidance(weaker))
                generator = of_items(seed, "item", range(index + start, index + min(start + batch_size, count)))
                shape_here = (len(generator), *shape)
                noise = initial_noise(self.process, shape_here, generator) if latents is None else latents[rows]
                z = solve(denoise, noise.to(self.device), times, self.process, generator=generator, callback=callback)
                decoding = self.codec.decode_options(
                    options or {}, rows, own, vars(settings) | {"generator": generator}
                )
                parts.append(self.decode(z / last, **decoding))
                bar.update(len(z))
        return self.codec.join(parts)

    def _rows(self, values: Values, rows: slice) -> Values:
        return {name: value[rows].to(self.device) for name, value in values.items()}

    def denoise(self, count: int, **options: Any) -> Denoise:
        """E[z | z_t] under the whole condition and without guidance, for one batch of `count` latents.

        `options` are those of `generate`, such as labels (count,) and prompts. A cluster is not drawn: the class is all
        that is known. Raises LatentiaError as `generate` does.
        """
        options = {name: value for name, value in options.items() if value is not None}
        like = torch.empty(count, *self.latent_shape)
        values, null = self.denoiser.request(Request(count, options, encode=self.encode_context), like)
        return self.denoiser.bind(self._rows(values, slice(None)), self._rows(null, slice(None)), self.process)

    def round_weights(self, dtype: str) -> None:
        """Makes the weights what `save` with that `dtype` keeps of them."""
        for name, part in self.parts.items():
            rounded(part, stored_type(name, dtype))

    def save(self, folder: str | Path, *, dtype: str = "float32") -> None:
        """Writes the model folder; an older model in its place stays until the new one is whole.

        `dtype` ("float32", "float16" or "bfloat16") is the type of the weights on disk; with the latter two those of
        `weaker` have 8 bits.
        """
        index = {
            "_class_name": "LatentModel",
            "_latentia_version": __version__,
            "modality": self.modality,
            "first_stage": ["latentia", type(self.first_stage).__name__],
            "process": ["latentia", type(self.process).__name__],
            "denoiser": ["latentia", type(self.denoiser).__name__],
            **({"weaker": ["latentia", type(self.weaker).__name__]} if self.weaker is not None else {}),
            "codec": self.codec.config,
            "class_names": list(self.class_names),
            "sampling": self.sampling,
        }
        with new_folder(Path(folder), replace=True) as made:
            for name, part in self.parts.items():
                config: dict[str, Any] = part.config  # type: ignore[assignment]
                save_part(made / name, part, config, stored_type(name, dtype))
            write_json(made / "process" / CONFIG_NAME, process_config(self.process))
            write_json(made / TRAINING_NAME, self.training)
            self.codec.save_files(made)
            for condition in self.denoiser.known.values():
                condition.save_files(made)
            write_json(made / INDEX_NAME, index | {"checksums": checksums(made, index)})


def load(
    folder: str | Path, device: str | torch.device = "cpu", *, parts: Mapping[str, Callable[[], Any]] | None = None
) -> LatentModel:
    """Loads a model folder, that of a run, or "hf:owner/name", onto `device`, in evaluation mode and float32.

    An earlier version's folder is loaded, too.

    A run that trains meanwhile may replace its model: it is then read again.
    `parts` makes first_stage, denoiser and weaker where they are not safetensors.

    Raises LatentiaError where the folder is no model, a part is missing or damaged, or parts do not fit each other.
    """
    folder = model_folder(Path(folder))
    check_device(device)
    while True:
        index = folder_id(folder)
        try:
            return _load(folder, parts).to(device)
        except LatentiaError:
            if folder_id(folder) == index:
                raise


def model_folder(folder: Path) -> Path:
    """The model folder that a folder is, that the run in it has, or that "hf:owner/name" has on the Hugging Face hub;
    "emoji" is the model that comes along, unless there is a folder of that name.

    Raises LatentiaError where a run has no model yet, or the hub has none of that name.
    """
    if is_on_hub(folder):
        return hub_folder(folder)
    if str(folder) in MODELS and not folder.exists():
        return MODELS[str(folder)]
    if (folder / INDEX_NAME).exists() or not (folder / RECIPE_NAME).exists():
        return folder
    if not (folder / MODEL_NAME / INDEX_NAME).exists():
        raise LatentiaError(
            f"{folder} is a run without a model yet, which its denoiser's first checkpoint writes; "
            f"`latentia train --resume --out {folder}` goes on"
        )
    return folder / MODEL_NAME


def folder_id(folder: Path) -> int | None:
    """Another number once another folder has that name."""
    return folder.stat().st_ino if folder.exists() else None


def _load(folder: Path, parts: Mapping[str, Callable[[], Any]] | None) -> LatentModel:
    written = read_json(folder / INDEX_NAME)
    index = upgraded_index(written)
    if index.get("_class_name") != "LatentModel":
        raise LatentiaError(f"{folder / INDEX_NAME} describes {index.get('_class_name')!r:.60}, expected a LatentModel")
    made = parts or {
        "first_stage": lambda: load_part(folder / "first_stage", first_stages()),
        "denoiser": lambda: load_denoiser(folder / "denoiser"),
        "weaker": lambda: load_denoiser(folder / "weaker"),
    }
    try:
        modality = modality_named(str(index["modality"]))
        model = LatentModel(
            first_stage=made["first_stage"](),
            process=process_of(folder / "process" / CONFIG_NAME),
            denoiser=made["denoiser"](),
            codec=modality.codec(dict(index["codec"]), folder),
            modality=modality.name,
            sampling=sampling_of(index["sampling"], folder),
            training=training_of(folder),
            weaker=made["weaker"]() if "weaker" in index else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LatentiaError(f"{folder / INDEX_NAME} lacks or garbles a field: {error}") from None
    for condition in model.denoiser.known.values():
        condition.load_files(folder)
    if model.weaker is not None:
        take_conditions(model.weaker, model.denoiser, folder)
    if parts is None:
        mean, std = model.first_stage.latent_mean, model.first_stage.latent_std
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
            raise LatentiaError(
                f"{folder}: the first stage's latent_std is not positive, or its latent_mean not finite"
            )
    check_fit(model, folder)
    try:
        model.settings({})
    except LatentiaError as error:
        raise LatentiaError(f"{folder / INDEX_NAME}: sampling: {error}") from None
    if parts is None:
        check_written(folder, written, model.training.get("hashes", {}))
    for part in model.parts.values():
        part.eval().requires_grad_(False)
    return model


def take_conditions(weaker: Denoiser, denoiser: Denoiser, folder: Path) -> None:
    """Gives a snapshot what the conditions of its denoiser keep in files. Raises LatentiaError where they differ."""
    if weaker.config != denoiser.config:
        raise LatentiaError(f"{folder}: the folder weaker holds no snapshot of the denoiser: their configs differ")
    for name, condition in weaker.known.items():
        condition.take_files(denoiser.known[name])


def process_of(path: Path) -> VP | RectifiedFlow | EDM:
    """The process of a model folder. Raises LatentiaError that names the file."""
    config = read_json(path)
    try:
        return process_from_config(config)
    except LatentiaError as error:
        raise LatentiaError(f"{path}: {error}") from None


def sampling_of(values: Any, folder: Path) -> dict[str, Any]:
    """The settings of a model's index. Raises LatentiaError where one is unknown or wrong."""
    settings = dict(values)  # a TypeError for what is no object
    checked(Sampling, settings, f"{folder / INDEX_NAME}: sampling", ".")
    return settings


def training_of(folder: Path) -> dict[str, Any]:
    """How a model was made. Raises LatentiaError where its parts are no objects."""
    training = read_json(folder / TRAINING_NAME)
    for name in ("recipe", "data", "hashes", "versions", "machine", "seconds"):
        if not isinstance(training.get(name, {}), dict):
            raise LatentiaError(f"{folder / TRAINING_NAME}: {name} is {training[name]!r:.60}, expected an object")
    data = training.get("recipe", {}).get("data", {})
    if not isinstance(data, dict):
        raise LatentiaError(f"{folder / TRAINING_NAME}: recipe.data is {data!r:.60}, expected an object")
    return training


def check_amount(count: int, index: int, batch_size: int, shape: Sequence[int]) -> None:
    """Raises LatentiaError where latents of this shape cannot be drawn in this number, so many at a time."""
    if count < 1:
        raise LatentiaError(f"{count} items were asked for, expected a list of labels or a positive count")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise LatentiaError(f"batch_size is {batch_size!r}, expected a positive integer")
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise LatentiaError(f"index is {index!r}, expected an integer of 0 or more")
    if max(count, index) > MOST_ITEMS:
        raise LatentiaError(
            f"{max(count, index)} items are more than {MOST_ITEMS:,} at once: draw fewer, and more with another seed"
        )
    if (needed := 4 * count * math.prod(shape)) > (free := psutil.virtual_memory().available):
        raise LatentiaError(f"{count} items need {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free: draw fewer")


def checksums(folder: Path, index: Mapping[str, Any]) -> dict[str, str]:
    """Of every file that decides what a model does, by its path below the folder, and of the index but `sampling`,
    which its owner may change."""
    files = sorted(path for ending in ("*.json", "*.safetensors") for path in folder.glob(f"*/**/{ending}"))
    sums = {path.relative_to(folder).as_posix(): file_checksum(path) for path in files}
    return {INDEX_NAME: index_checksum(index, sums)} | sums


def index_checksum(index: Mapping[str, Any], sums: Mapping[str, Any]) -> str:
    """Of an index, and of the checksums of the other files."""
    own = {name: value for name, value in index.items() if name != "sampling"} | {"checksums": sums}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def check_written(folder: Path, index: Mapping[str, Any], hashes: Mapping[str, Any]) -> None:
    """Raises LatentiaError where a model folder is not what was written, by the checksums of its index.

    An index of Latentia 0.1 has none: for it the hashes of the weights count, from when they were trained.
    """
    if os.environ.get(VERIFY) == "0":
        return
    sums = index.get("checksums")
    if sums is None and "modality" not in index:
        check_hashes(folder, hashes)
        return
    if not isinstance(sums, dict) or INDEX_NAME not in sums:
        raise LatentiaError(f"{folder / INDEX_NAME} has no checksums; go on with `latentia --no-verify`")
    others = {name: value for name, value in sums.items() if name != INDEX_NAME}
    if index_checksum(index, others) != sums[INDEX_NAME]:
        raise LatentiaError(NOT_WRITTEN.format(folder / INDEX_NAME))
    check_sums(folder, others)


def check_hashes(folder: Path, hashes: Mapping[str, Any]) -> None:
    """Raises LatentiaError where the weights are others than those that were trained; for files without a checksum."""
    for name, expected in hashes.items():
        path = folder / name / WEIGHTS_NAME
        if not path.is_file() or has_checksum(path):
            continue
        kind, state = read_json(folder / name / CONFIG_NAME).get("_class_name"), read_tensors(path)
        check_state(path, str(kind), as_float(state, path), str(expected))


def check_device(device: str | torch.device) -> None:
    """Raises LatentiaError where PyTorch knows no such device, or this machine has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.ones(1, device=device).cpu()  # "meta" makes tensors, too, but none that hold anything
    except (RuntimeError, AssertionError, ImportError, AttributeError) as error:
        reason = "PyTorch cannot compute there" if "INTERNAL ASSERT" in str(error) else first_line(error)
        raise LatentiaError(f"device {device!s}: {reason}") from None


def check_fit(model: LatentModel, folder: Path) -> None:
    """Raises LatentiaError where first stage, denoiser and codec do not fit each other."""
    channels, given = model.denoiser.core.in_channels, model.latent_shape[0]
    if channels != given:
        raise LatentiaError(f"{folder}: the denoiser takes {channels} channels, the first stage gives {given}")
    core, grid = model.denoiser.core, model.latent_shape[1:]
    if core.axes != len(grid) or (core.has_places and tuple(core.config["grid"]) != grid):
        trained = tuple(core.config.get("grid", (0,) * core.axes))
        raise LatentiaError(f"{folder}: the denoiser is for latents of grid {trained}, the model has {grid}")
    modality_named(model.modality).check(model, folder)


def choose(kind: Literal["sampler", "spacing"], name: Any, choices: dict[str, Any]) -> Any:
    """The choice of that name, or the function itself. Raises LatentiaError that lists the choices."""
    if callable(name):
        return name
    if not isinstance(name, str) or name not in choices:
        raise LatentiaError(f"unknown {kind} {name!r}, expected one of {', '.join(choices)}")
    return choices[name]
