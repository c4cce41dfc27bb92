"""Before a run begins: some updates and a preview of each network, so that what would fail late fails at once."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from latentia.config import Loop
from latentia.description import weights_of
from latentia.errors import LatentiaError, Stopped, first_line, is_out_of_memory
from latentia.files import in_bytes
from latentia.items import ItemSet
from latentia.latents.cache import cached_latents
from latentia.latents.first_stage import FirstStage
from latentia.modalities.registry import modality_of_stage
from latentia.training.denoiser import train_denoiser
from latentia.training.engine import local_share
from latentia.training.log import read_log
from latentia.training.memory import PARAMETER_BYTES, free_memory, kept_bytes, require_memory
from latentia.training.recipe import Recipe
from latentia.training.speed import Say, silent

FOLDER = ".rehearsal"  # in the run's, removed at the end
UPDATES = 3  # of a batch of full size; the first one is not timed
SAMPLER_STEPS = 2  # of the preview


@contextmanager
def nothing_left(out: Path, *, new: bool) -> Iterator[None]:
    """Removes what the block has put into the folder `out`, and a new folder itself, where it ends in an exception."""
    before = set(out.iterdir())
    try:
        yield
    except BaseException:
        for path in [out] if new else {*out.iterdir()} - before:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Rehearsal:
    """Tries out both stages of a run.

    items, learned: of the first stage and of the denoiser. stage: None where it is to be trained.
    out: the folder of the run. stage_options: of the modality's `train_stage`. say: gets notes of the conditions.
    """

    recipe: Recipe
    items: ItemSet
    learned: ItemSet
    stage: FirstStage | None
    out: Path
    accelerator: Accelerator
    stage_options: dict[str, Any]
    say: Say

    def __call__(self) -> str:
        """Tries one example, which shows what a batch will take, then batches of full size; says what they cost.

        Raises LatentiaError for whatever the run would meet, or where memory will not do, and Stopped on Ctrl-C.
        """
        free, notes = free_memory(self.accelerator.device), list[str]()
        try:
            needed = self.memory(self.attempt(self.accelerator.num_processes, 1, notes.append))
            for name, count in needed.items():
                section = "training" if name == "denoiser" else f"{name}.training"
                require_memory(count, free, f"{section}.batch_size={self.loops[name].batch_size}")
            self.attempt(None, UPDATES, silent)
            self.accelerator.wait_for_everyone()
            times = [f"{name.replace('_', ' ')} {in_words(self.seconds(name))}" for name in needed]
        except Stopped as stopped:
            raise Stopped("stopped before the training began", stopped.number) from None
        except (MemoryError, RuntimeError, ValueError, ArithmeticError) as error:
            if is_out_of_memory(error):
                advice = "make batch_size, data.size or the networks smaller"
                raise LatentiaError(f"there is not enough memory for this recipe: {advice}") from None
            raise LatentiaError(f"this recipe cannot be trained: {first_line(error)}") from error
        finally:
            self.accelerator.free_memory()
            self.clear()
        for line in notes:
            self.say(line)
        return f"{', '.join(times)}; {in_bytes(max(needed.values()))} of memory, {in_bytes(free)} are free"

    @property
    def loops(self) -> dict[str, Loop]:
        return {"first_stage": self.recipe.first_stage.training, "denoiser": self.recipe.training}

    def attempt(self, batch_size: int | None, updates: int, note: Say) -> dict[str, tuple[int, int]]:
        """Trains so many updates of a batch size, None for the recipe's, with the latents of the first items alone.

        Returns the number of weights of each stage that is trained, and the bytes that its backward passes need.
        """
        recipe, folder, device = shortened(self.recipe, batch_size, updates), self.out / FOLDER, self.accelerator.device
        costs: dict[str, tuple[int, int]] = {}
        self.clear()
        self.accelerator.wait_for_everyone()
        with redirect_stderr(io.StringIO()):  # no progress bars; notes are kept until after it
            stage = self.stage
            if stage is None:
                modality = modality_of_stage(recipe.first_stage.kind)
                with kept_bytes() as kept:
                    stage = modality.train_stage(
                        recipe, self.items, folder / "first_stage", self.accelerator, say=silent, **self.stage_options
                    )
                costs["first_stage"] = weights_of(stage), sum(kept.values())
            stage = stage.to(device).eval().requires_grad_(False)
            few = first_rows(self.learned, recipe.training.batch_size)
            with self.accelerator.main_process_first():
                latents = cached_latents(stage, few, folder / "latents", device=device)
            with kept_bytes() as kept:
                model = train_denoiser(
                    recipe,
                    stage,
                    latents,
                    self.learned,
                    folder / "denoiser",
                    self.accelerator,
                    run=self.out,
                    say=silent,
                    note=note,
                )
            costs["denoiser"] = weights_of(model.denoiser), sum(kept.values())
        return costs

    def memory(self, costs: dict[str, tuple[int, int]]) -> dict[str, float]:
        """Bytes that each stage needs in a process, from what one example costs."""
        needed = {}
        for name, (weights, kept) in costs.items():
            share = local_share(self.loops[name].batch_size, self.accelerator)
            parts = self.recipe.compute.microbatches if name == "denoiser" else 1
            needed[name] = PARAMETER_BYTES * weights + kept * (share.stop - share.start) / parts
        return needed

    def seconds(self, name: str) -> float:
        """The time that all updates of a stage will take."""
        rows = read_log(self.out / FOLDER / name / "log.csv")
        return self.loops[name].steps * (rows[-1]["seconds"] - rows[0]["seconds"]) / (len(rows) - 1)

    def clear(self) -> None:
        if self.accelerator.is_main_process:
            shutil.rmtree(self.out / FOLDER, ignore_errors=True)


def shortened(recipe: Recipe, batch_size: int | None, updates: int) -> Recipe:
    """The recipe of so many updates and of that batch size, None for its own, with a short preview."""
    change = {"steps": updates, "log_every": 1, "checkpoint_every": 10**9} | (
        {} if batch_size is None else {"batch_size": batch_size}
    )
    return recipe.model_copy(
        update={
            "first_stage": replace(recipe.first_stage, training=recipe.first_stage.training.model_copy(update=change)),
            "training": recipe.training.model_copy(update=change),
            "sampling": replace(recipe.sampling, steps=min(SAMPLER_STEPS, recipe.sampling.steps)),
            "compute": recipe.compute.model_copy(update={"compile": False}),
        }
    )


def first_rows(items: ItemSet, count: int) -> ItemSet:
    """The first items, of the first part where there are several."""
    items = items.parts[0] if items.parts else items
    count = min(count, len(items))
    return replace(
        items,
        count=count,
        labels=None if items.labels is None else items.labels[:count],
        captions=None if items.captions is None else items.captions[:count],
        values={name: value[:count] for name, value in items.values.items()},
    )


def in_words(seconds: float) -> str:
    """A time to the precision of an estimate."""
    minutes = seconds / 60
    if minutes < 1:
        return "under a minute"
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
