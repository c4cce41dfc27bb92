"""What a modality is: one folder, or one installed package, that knows a kind of data from file to file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentia.errors import LatentiaError
from latentia.items import Codec, ItemSet
from latentia.latents.first_stage import FirstStage

Say = Callable[[str], None]

Draw = Callable[..., Any]
"""draw(callback=…, batch_size=…) → items."""

Writer = Callable[[Any, Draw, Any, Path], None]
"""writer(model, draw, labels, path) writes the items that `draw`, called once, gives for these labels."""


@dataclass(frozen=True)
class Evaluation:
    """How a model is measured: against which data, by how many items, drawn how; `more` are a modality's options."""

    data: str | None = None
    root: str | Path | None = None
    count: int = 10_000
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    say: Say = print
    more: Mapping[str, Any] = field(default_factory=dict)


class Modality:
    """A kind of data. A package names an object of a subclass by an entry point of the group `latentia.modalities`.

    name: as in model_index.json. plural: what messages call its items. Data: the configuration of a recipe's section
    `data`. stages: first stages by class name; one that can be trained has a configuration `Recipe`, a recipe's section
    `first_stage`, with a field `kind` (its name) and a field `training`. objective: that of its denoisers unless a
    recipe names another. writers: by a file name's ending, "" for a folder. options: of `Evaluation.more`.
    legacy_size: the field of an index of Latentia 0.1 that held an item's size, or None.
    """

    name: str
    plural: str
    Data: type[Any]
    stages: Mapping[str, type[FirstStage]]
    objective: str = "denoising"
    writers: Mapping[str, Writer]
    options: frozenset[str] = frozenset()
    legacy_size: str | None = None

    def load(self, recipe: Any, folder: Path, first_stage: Path | None) -> ItemSet:
        """The training items of a recipe, as its first stage sees them; what must last is kept in the run's `folder`.

        `first_stage` is the folder of one to build on. Raises LatentiaError where data and recipe do not fit.
        """
        raise NotImplementedError

    def train_stage(
        self, recipe: Any, items: ItemSet, folder: Path, accelerator: Any, say: Say, **options: Any
    ) -> FirstStage:
        """Trains, or continues, the recipe's first stage, with log, checkpoint and previews in `folder`."""
        raise NotImplementedError

    def codec(self, config: Mapping[str, Any], folder: Path) -> Codec:
        """The codec of a model folder, from its configuration."""
        raise NotImplementedError

    def preview(self, items: Any, stem: Path, classes: int = 0) -> None:
        """Writes items of that many classes in turn, to be looked at: `stem` and the ending that suits them."""
        raise NotImplementedError

    def evaluate(self, model: Any, out: Path, how: Evaluation) -> str:
        """Measures a model, writes report.md and report.json into `out`, returns the report."""
        raise NotImplementedError

    def answer(self, items: Any) -> Sequence[str]:
        """Items for a JSON answer: as they are, or files in base64."""
        raise NotImplementedError

    def widget(self, **how: Any) -> Any:
        """The component of the page that shows items."""
        raise NotImplementedError

    def shown(self, items: Any, model: Any) -> Any:
        """Items as that component takes them."""
        raise NotImplementedError

    def for_denoiser(self, recipe: Any, items: ItemSet, folder: Path) -> ItemSet:
        """The items and views that the denoiser learns from, such as mirrored or damaged ones."""
        return items

    def check(self, model: Any, folder: Path) -> None:
        """Raises LatentiaError where the parts of a loaded model do not fit each other."""

    def read(self, path: Path, model: Any, fit: bool = False) -> Any:
        """One item of a user's file, as the model takes it; `fit` cuts or stretches one of another size."""
        raise LatentiaError(f"{path} cannot be read: this command is not for {self.plural}")

    def stack(self, items: Sequence[Any]) -> Any:
        """Single items as a batch of them."""
        return list(items)

    def write_results(self, out: Path, before: Sequence[Any], after: Any) -> str:
        """Writes items beside those that they were made from into the folder `out`; returns what was written."""
        raise LatentiaError(f"this command is not for {self.plural}")

    def write_way(self, out: Path, way: Any) -> None:
        """Writes items on the way from one to another."""
        raise LatentiaError(f"this command is not for {self.plural}")

    def distance(self, first: Any, second: Any) -> str:
        """How far items are from others, in words."""
        raise LatentiaError(f"this command is not for {self.plural}")

    def show(self, name: str, split: str, how: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What a data set holds; None where the name is that of another modality's set."""
        return None

    def frame(self, items: Any, model: Any) -> Any:
        """A picture of items on the way of a sampler, for the page; None for nothing to see."""
        return None

    def add_tabs(self, model: Any, jobs: Any, form: Any) -> None:
        """Adds tabs of its own to the page."""

    def add_routes(self, app: Any, model: Any, answer: Any) -> None:
        """Adds routes of its own to the HTTP interface."""

    def add_commands(self, app: Any, data_app: Any) -> None:
        """Adds commands of its own to the command line and to its group `data`."""
