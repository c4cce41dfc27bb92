"""The modality of pictures: one object that the core finds by its entry point. What is slow to import comes late."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from latentia.config import config, located
from latentia.errors import LatentiaError
from latentia.items import ItemSet, joined, rows_to_show
from latentia.language.tokenizer import OnLong
from latentia.latents.first_stage import FirstStage
from latentia.modalities.base import Evaluation, Finding, Modality, Proposal, Say, Summary, Writer, summary
from latentia.modalities.image import grids
from latentia.modalities.image.first_stage import STAGES
from latentia.modalities.image.grids import picture_grid, rows_by_class, save_picture, scale_of
from latentia.modalities.image.items import PictureCodec, mirrored, picture_items, with_clusters
from latentia.modalities.image.pictures import MAX_SIDE, levels_of, parse_size
from latentia.modalities.image.readers.builtin import BUILT_IN, Survey, load_framed, load_pictures, survey_pictures
from latentia.modalities.image.readers.cifar import fetch_cifar10
from latentia.modalities.image.readers.folder import SUFFIXES
from latentia.modalities.image.readers.idx import fetch_fashion_mnist
from latentia.modalities.image.readers.image_cache import read_one
from latentia.modalities.image.repair_task import RepairTask, with_damage
from latentia.sources.folders import holds

SHOWN = 64  # pictures of a look at a data set


@config
class PictureData:
    """A recipe's section `data` for pictures."""

    name: Annotated[
        str,
        Field(
            description="fashion-mnist, digits, cifar10, hf:NAME, or the path of a folder of pictures, a parquet file "
            "or an archive; auto takes fashion-mnist where it can be had and digits elsewhere"
        ),
        located(*BUILT_IN),
    ] = "auto"
    root: Annotated[str | None, located(), Field(description="folder that holds the files of a named set")] = None
    size: Annotated[
        int | None,
        Field(ge=4, le=2048, description="side in pixels: resize and centre-crop; null keeps the set's own"),
    ] = None
    more_sizes: Annotated[
        tuple[str, ...],
        Field(
            description="WIDTHxHEIGHT of other sizes than the square: the denoiser learns each picture in that of them "
            "all whose aspect ratio is nearest to its own"
        ),
    ] = ()
    on_corrupt: Annotated[
        Literal["refuse", "skip"], Field(description="what to do about examples that cannot be read")
    ] = "refuse"
    on_long: Annotated[OnLong, Field(description="captions of more tokens than prompt.max_tokens")] = "truncate"
    levels: Annotated[
        int | None,
        Field(
            ge=2,
            le=65536,
            description="levels of grey pictures of 16 bits, such as 4096 where 12 bits are used; null: 65536",
        ),
    ] = None
    flips: Annotated[bool, Field(description="train on left-right mirrored pictures as well")] = False

    def sizes(self, side: int) -> tuple[tuple[int, int], ...]:
        """Height and width of the square and of `more_sizes`. Raises LatentiaError for what is no size."""
        return (side, side), *(parse_size("data.more_sizes", text) for text in self.more_sizes)


class Pictures(Modality):
    """Pictures, from file to file."""

    name, plural, ending, legacy_size = "image", "pictures", ".png", "image_size"
    Data = PictureData
    stages = STAGES
    writers: Mapping[str, Writer] = {
        **dict.fromkeys(grids.KINDS, grids.write_grid),
        ".npy": grids.write_array,
        ".gif": grids.write_film,
        "": grids.write_folder,
    }
    drawing_options = frozenset({"scale"})
    options = frozenset({"features", "inception_weights"})
    fetchers: Mapping[str, Callable[[], Path]] = {"fashion-mnist": fetch_fashion_mnist, "cifar10": fetch_cifar10}
    uploads = frozenset({"inpaint"})
    shows_way = True
    way_endings = (".gif", ".png")

    def load(self, recipe: Any, folder: Path, first_stage: Path | None) -> ItemSet:
        data = recipe.data
        return picture_items(load_pictures(data.name, "train", data.size, data.on_corrupt, data.root, data.levels))

    def for_denoiser(self, recipe: Any, items: ItemSet, folder: Path) -> ItemSet:
        data = recipe.data
        if data.more_sizes:
            items = self._in_several_sizes(recipe, items)
        if recipe.clusters:
            if recipe.task is not None:
                raise LatentiaError("clusters are for pictures that a denoiser learns to draw: set clusters=0")
            items = with_clusters(items, recipe.clusters, recipe.seed, folder)
        if recipe.task is not None:
            if data.flips:
                raise LatentiaError("task and data.flips exclude each other: set data.flips=false")
            items = with_damage(items, RepairTask(recipe.task.kind, recipe.task.factor))
        return mirrored(items) if data.flips else items

    def _in_several_sizes(self, recipe: Any, items: ItemSet) -> ItemSet:
        """Raises LatentiaError where the recipe does not fit pictures of several sizes."""
        data, side = recipe.data, int(items.size)
        if recipe.task is not None or recipe.clusters:
            raise LatentiaError("data.more_sizes goes without a task and without clusters")
        if not getattr(recipe.denoiser, "rope", True):
            raise LatentiaError("data.more_sizes needs a DiT with rope, or a UNet: set denoiser.rope=true")
        parts = load_framed(data.name, "train", data.sizes(side), data.on_corrupt, data.root, data.levels)
        return replace(joined([picture_items(part) for part in parts], side), codec=PictureCodec(side))

    def stage_options(self, recipe: Any, items: ItemSet, device: Any, say: Say) -> dict[str, Any]:
        """The network of the perceptual loss."""
        from latentia.modalities.image.first_stage.perceptual import features_of

        settings = recipe.first_stage.perceptual
        return {} if settings is None else {"perceptual": features_of(settings, items, recipe.seed, device, say)}

    def train_stage(
        self, recipe: Any, items: ItemSet, folder: Path, accelerator: Any, say: Say, **options: Any
    ) -> FirstStage:
        from latentia.modalities.image.first_stage.train import train_picture_stage

        return train_picture_stage(recipe, items, folder, accelerator, say=say, **options)

    def codec(self, config: Mapping[str, Any], folder: Path) -> PictureCodec:
        size = int(config["size"])
        if not 1 <= size <= MAX_SIDE:
            raise LatentiaError(f"{folder}: pictures have a side of {size}, expected 1 to {MAX_SIDE} pixels")
        return PictureCodec(size)

    def save(self, items: NDArray[np.uint8], path: Path) -> None:
        save_picture(picture_grid(items), path)

    def check(self, model: Any, folder: Path) -> None:
        from latentia.modalities.image.applications.repair import repair_task

        try:
            task = repair_task(model)
        except TypeError as error:
            raise LatentiaError(f"{folder}: the denoiser's task garbles a field: {error}") from None
        if task is not None:
            channels, expected = model.condition("repair").grid_channels, task.channels(model.latent_shape[0])
            if channels != expected:
                raise LatentiaError(f"{folder}: the denoiser takes {channels} channels of what is left, not {expected}")

    def preview(self, items: NDArray[np.uint8], stem: Path, classes: int = 0) -> None:
        picture_grid(items, columns=10 if classes == 10 else 8).save(stem.with_suffix(".png"))

    def evaluate(self, model: Any, out: Path, how: Evaluation) -> str:
        from latentia.modalities.image.evaluation.evaluate import evaluate_picture_model

        return evaluate_picture_model(model, out, how)

    def read(self, path: Path, model: Any, fit: bool = False) -> NDArray[np.uint8]:
        channels, levels = model.first_stage.config["in_channels"], levels_of(model.training)
        return read_one(path, channels, model.codec.size, fit, levels=levels)

    def write_way(self, out: Path, way: NDArray[np.uint8]) -> None:
        """A .gif film there and back, or a .png with all pictures in a row."""
        scale = scale_of(way.shape[1])
        if out.suffix.lower() == ".png":
            save_picture(picture_grid(way, columns=len(way), scale=scale), out)
        elif out.suffix.lower() == ".gif":
            there = [picture_grid(picture[None], scale=scale) for picture in way]
            grids.save_gif([*there, *there[-2:0:-1]], out)
        else:
            raise LatentiaError(f"--out {out}: expected a name that ends in .gif or .png")

    def distance(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> str:
        missed = np.sqrt(np.square(first.astype(np.float64) - second).mean())
        return f"{missed:.2f} grey levels of 255 (root mean square)"

    def write_results(
        self,
        out: Path,
        before: Sequence[NDArray[np.uint8]],
        after: NDArray[np.uint8],
        facts: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """A sheet of pictures before and after, and one PNG for each of those after."""
        sheet = np.stack([*before, *after])
        save_picture(
            picture_grid(sheet, columns=min(len(sheet), 10), scale=scale_of(sheet.shape[1])), out / "sheet.png", facts
        )
        grids.write_pictures(after, np.zeros(len(after), np.int64), (), out, facts)
        return f"sheet.png and {len(after)} pictures"

    def size_of(self, option: str, text: str) -> tuple[int, int]:
        return parse_size(option, text)

    def claims(self, name: str) -> int:
        return 3 if holds(Path(name).expanduser(), SUFFIXES) else 2 if name in BUILT_IN else 1

    def survey(self, name: str, root: str | None) -> Survey:
        return survey_pictures(name, "train", root)

    def plan(self, held: Survey, name: str, root: str | None, minutes: float, device: str) -> Proposal:
        from latentia.modalities.image.plan import proposal

        return proposal(held, name, root, minutes, device)

    def refine(self, held: Survey, name: str, root: str | None, minutes: float, device: str, model: Path) -> Proposal:
        from latentia.modalities.image.plan import refinement

        return refinement(held, name, root, minutes, device, model)

    def examine(self, name: str, root: str | None) -> list[Finding]:
        from latentia.modalities.image import examine

        small = load_pictures(name, "train", examine.SIDE, "skip", root)
        return examine.examine(self.survey(name, root), small)

    def show(self, name: str, split: Any, how: Mapping[str, Any]) -> Summary:
        """`out` gets a grid of pictures of all classes."""
        pictures = load_pictures(name, split, how["size"], how["on_corrupt"], how["root"])
        side, out = pictures.size, how["out"]
        if out:
            same = SHOWN - SHOWN % max(1, len(pictures.class_names))  # as many of each class
            rows = rows_to_show(pictures.labels, len(pictures), same or SHOWN)
            order, columns = rows_by_class(
                np.zeros(len(rows), np.int64) if pictures.labels is None else pictures.labels[rows]
            )
            save_picture(picture_grid(pictures.images[rows[order]], columns, scale_of(side)), out)
        what = f"{len(pictures)} pictures of {side}×{side}×{pictures.channels}"
        return summary(pictures, what, [f"wrote {out}"] if out else [])

    def frame(self, items: NDArray[np.uint8], model: Any) -> Any:
        """A grid for the eye."""
        return picture_grid(items, scale=scale_of(int(model.codec.size), 128))

    def widget(self, **how: Any) -> Any:
        import gradio

        return gradio.Gallery(label="Pictures", format="png", columns=4, **how)

    def component_value(self, items: NDArray[np.uint8], model: Any) -> Any:
        scale = scale_of(int(model.codec.size), 128)
        large = [image.repeat(scale, axis=0).repeat(scale, axis=1) for image in items]
        return [image[..., 0] if image.shape[2] == 1 else image for image in large]

    def add_tabs(self, model: Any, jobs: Any, form: Any) -> None:
        """A tab that repairs pictures, where the model draws them or fills holes."""
        from latentia.modalities.image.page import repair_tab

        repair_tab(model, form)

    def add_routes(self, app: Any, model: Any, answer: Any) -> None:
        from latentia.modalities.image.api import add_inpaint

        add_inpaint(app, model, answer)


MODALITY = Pictures()
