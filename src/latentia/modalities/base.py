"""What a modality is: one folder, or one installed package, that knows a kind of data from file to file."""

import base64
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentia.errors import LatentiaError
from latentia.files import MANIFEST_NAME, write_manifest
from latentia.items import Codec, ItemSet
from latentia.latents.first_stage import FirstStage

FEW, FEW_OF_A_CLASS = 500, 20  # items
UNEVEN = 10  # times as many of one class as of another
NAMED = 5  # classes

Say = Callable[[str], None]

Draw = Callable[..., Any]
"""draw(callback=…, batch_size=…) → items."""


@dataclass(frozen=True)
class Drawing:
    """Items that a model is to draw, once: by `draw`, for `labels` (N,) or None for texts by a template.

    facts: how each item comes to be (see `applications.provenance`), to be written beside it; () to leave it out.
    options: of the writer, by the names in `Modality.drawing_options`.
    """

    model: Any
    draw: Draw
    labels: Any
    facts: Sequence[Mapping[str, Any]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


Writer = Callable[[Drawing, Path], None]
"""writer(drawing, path) draws the items and writes them."""


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


class Finding(NamedTuple):
    """Something about data, a run or a model, and what to do about it; "" where that is nothing."""

    what: str
    advice: str = ""


def class_findings(labels: NDArray[np.int64] | None, names: Sequence[str], plural: str) -> list[Finding]:
    """Classes of which there are few items, or far more than of others."""
    if labels is None:
        return []
    counts = np.bincount(labels, minlength=len(names))
    least, most = int(counts.argmin()), int(counts.argmax())
    found = []
    if few := [names[number] for number in np.flatnonzero(counts < FEW_OF_A_CLASS).tolist()]:
        named = ", ".join(few[:NAMED]) + (", …" if len(few) > NAMED else "")
        advice = "they will hardly be learned: add some, or merge classes"
        found.append(Finding(f"{len(few)} classes have fewer than {FEW_OF_A_CLASS} {plural}: {named}", advice))
    if counts[most] > UNEVEN * counts[least]:
        advice = "the rare ones are learned worse: add some, or leave some of the others out"
        found.append(Finding(f"{names[most]} has {counts[most]} {plural}, {names[least]} {counts[least]}", advice))
    return found


def class_line(labels: NDArray[np.int64], names: Sequence[str], plural: str) -> str:
    """How many classes there are, and how many items of each."""
    counts = np.bincount(labels, minlength=len(names))
    return f"{len(names)} classes of {counts.min()} to {counts.max()} {plural}"


def count_findings(count: int, plural: str) -> list[Finding]:
    """Whether there are so few items that a model copies them."""
    if count >= FEW:
        return []
    advice = "a model trained on them alone copies them: add more, or train few minutes"
    return [Finding(f"{count} {plural} are few", advice)]


class Proposal(NamedTuple):
    """A recipe as a tree, in lines what its data set holds, and in words what was chosen."""

    tree: dict[str, Any]
    found: Sequence[str]
    choice: str


class Summary(NamedTuple):
    """A data set in words: names and values of what is known of it, and lines that follow."""

    facts: Mapping[str, Any]
    lines: Sequence[str] = ()


def summary(held: Any, what: str, lines: Sequence[str] = ()) -> Summary:
    """The summary of a set with a source, class names, a fingerprint and reasons why examples were skipped."""
    facts = {
        "source": held.source,
        "holds": what,
        "classes": ", ".join(held.class_names) or "none",
        "fingerprint": held.fingerprint,
        "skipped": len(held.skipped),
    }
    return Summary(facts, (*(f"  {reason}" for reason in held.skipped[:20]), *lines))


class Modality:
    """A kind of data. A package names an object of a subclass by an entry point of the group `latentia.modalities`.

    Commands of its own it adds by a function add_commands(app, data_app) under an entry point of `latentia.commands`.

    name: as in model_index.json. plural: what messages call its items. Data: the configuration of a recipe's section
    `data`. stages: first stages by class name; one that can be trained has a configuration `Recipe`, a recipe's section
    `first_stage`, with a field `kind` (its name) and a field `training`. objective: that of its denoisers unless a
    recipe names another. ending: of the files that `save` writes. writers: more ways to write items, by a file name's
    ending, "" for a folder. drawing_options: names of their options, such as "scale". options: of `Evaluation.more`.
    fetchers: what puts public data sets into the cache, by their names. prints: whether items are lines to be printed.
    verb: what a model does, on the page; shows_way: whether `frame` shows a sampler's way there. way_endings: of the
    files that `write_way` writes; () for `ending` alone.
    uploads: names of its own routes under /api/ whose requests hold items, and so may be large.
    legacy_size: the field of an index of Latentia 0.1 that held an item's size, or None.
    """

    name: str
    plural: str
    Data: type[Any]
    stages: Mapping[str, type[FirstStage]]
    objective: str = "denoising"
    ending: str
    writers: Mapping[str, Writer] = MappingProxyType({})
    drawing_options: frozenset[str] = frozenset()
    uploads: frozenset[str] = frozenset()
    options: frozenset[str] = frozenset()
    fetchers: Mapping[str, Callable[[], Path]] = MappingProxyType({})
    prints: bool = False
    verb: str = "Draw"
    shows_way: bool = False
    way_endings: tuple[str, ...] = ()
    legacy_size: str | None = None

    def load(self, recipe: Any, folder: Path, first_stage: Path | None) -> ItemSet:
        """The training items of a recipe, as its first stage sees them; what must last is kept in the run's `folder`.

        `first_stage` is the folder of one to build on. Raises LatentiaError where data and recipe do not fit.
        """
        raise NotImplementedError

    def stage_options(self, recipe: Any, items: ItemSet, device: Any, say: Say) -> dict[str, Any]:
        """What `train_stage` gets beside the recipe: networks that are trained, or fetched, before anything else."""
        return {}

    def train_stage(
        self, recipe: Any, items: ItemSet, folder: Path, accelerator: Any, say: Say, **options: Any
    ) -> FirstStage:
        """Trains, or continues, the recipe's first stage, with log, checkpoint and previews in `folder`."""
        raise NotImplementedError

    def codec(self, config: Mapping[str, Any], folder: Path) -> Codec:
        """The codec of a model folder, from its configuration."""
        raise NotImplementedError

    def save(self, items: Any, path: Path) -> None:
        """Writes items into one file that ends in `ending`, whole or not at all."""
        raise NotImplementedError

    def evaluate(self, model: Any, out: Path, how: Evaluation) -> str:
        """Measures a model, writes report.md and report.json into `out`, returns the report."""
        raise NotImplementedError

    def widget(self, **how: Any) -> Any:
        """The component of the page that shows items."""
        raise NotImplementedError

    def component_value(self, items: Any, model: Any) -> Any:
        """Items as that component takes them."""
        raise NotImplementedError

    def all_writers(self) -> dict[str, Writer]:
        """Every way to write items, by a file name's ending."""
        return {self.ending: lambda drawing, path: self.save(drawing.draw(), path), **self.writers}

    def preview(self, items: Any, stem: Path, classes: int = 0) -> None:
        """Writes items of that many classes in turn, to be looked at: `stem` and the ending that suits them."""
        self.save(items, stem.with_suffix(self.ending))

    def answer(self, items: Any) -> Sequence[str]:
        """Items for a JSON answer: as they are, or files in base64."""
        files = []
        with tempfile.TemporaryDirectory() as folder:
            for item in items:
                path = Path(folder) / f"item{self.ending}"
                self.save(self.stack([item]), path)
                files.append(base64.b64encode(path.read_bytes()).decode())
        return files

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
        return np.stack(items)

    def write_results(
        self, out: Path, before: Sequence[Any], after: Any, facts: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """Writes items, made from those before, into the folder `out`; returns in words what was written.

        facts: as of a `Drawing`.
        """
        names = [f"{number:06d}{self.ending}" for number in range(len(after))]
        for name, item in zip(names, after, strict=True):
            self.save(self.stack([item]), out / name)
        rows = [{"file": name, **own} for name, own in zip(names, facts, strict=False)]
        write_manifest(out / MANIFEST_NAME, rows, names)
        return f"{len(after)} {self.plural}"

    def write_way(self, out: Path, way: Any) -> None:
        """Writes items on the way from one to another."""
        self.save(way, out)

    def distance(self, first: Any, second: Any) -> str:
        """How far items are from others, in words."""
        return f"{np.sqrt(np.square(np.asarray(first, np.float64) - second).mean()):.4g} (root mean square)"

    def size_of(self, option: str, text: str) -> Any:
        """The size of items, as `LatentModel.generate` takes it, from the text of an option of that name."""
        raise LatentiaError(f"{option} is not for {self.plural}")

    def complete(
        self, model: Any, count: int, *, prefix: str | None = None, infill: str | None = None, **options: Any
    ) -> tuple[Any, int]:
        """`count` items that continue a beginning or fill a template, and how many of them do not keep it.

        `options` are a `label`, None for no class, and those of `LatentModel.generate`.
        """
        raise LatentiaError(f"--prefix and --infill are not for a model that makes {self.plural}")

    def between(self, model: Any, first: str, last: str, count: int) -> Any:
        """`count` items on the way from one to another, both written out."""
        raise LatentiaError(f"--between is not for a model that makes {self.plural}")

    def claims(self, name: str) -> int:
        """How surely a data set of that name has such items: the surest modality reads it.

        3: it holds files of such items, which may have others beside them, such as captions. 2: its name, or all that
        it holds, says so. 1: unless another modality is sure. 0: not.
        """
        return 0

    def survey(self, name: str, root: str | None) -> Any:
        """What a data set holds, as `plan` and `refine` take it. Raises LatentiaError where it cannot be read."""
        raise LatentiaError(f"there is no plan for {self.plural} yet: name a recipe")

    def plan(self, held: Any, name: str, root: str | None, minutes: float, device: str) -> Proposal:
        """Settings for a data set, of which `held` is the survey, and so many minutes of training on the device.

        The denoiser's updates are a guess, which the run corrects.
        """
        raise LatentiaError(f"there is no plan for {self.plural} yet: name a recipe")

    def refine(self, held: Any, name: str, root: str | None, minutes: float, device: str, model: Path) -> Proposal:
        """The same for training the model in a folder further. Raises LatentiaError where it does not fit."""
        raise LatentiaError(f"there is no plan to train a model of {self.plural} further yet: name a recipe")

    def examine(self, name: str, root: str | None) -> list[Finding]:
        """What is good to know of a data set before it is learned. Raises LatentiaError where it cannot be read."""
        raise LatentiaError(f"data sets of {self.plural} cannot be examined")

    def show(self, name: str, split: str, how: Mapping[str, Any]) -> Summary:
        """What a data set holds. `how`: root, on_corrupt, size (None for the set's own) and out (a file, or None)."""
        raise LatentiaError(f"data sets of {self.plural} cannot be looked at")

    def frame(self, items: Any, model: Any) -> Any:
        """A picture of items on the way of a sampler, for the page; None for nothing to see."""
        return None

    def add_tabs(self, model: Any, jobs: Any, form: Any) -> None:
        """Adds tabs of its own to the page."""

    def add_routes(self, app: Any, model: Any, answer: Any) -> None:
        """Adds routes of its own to the HTTP interface."""
