"""One safetensors file from which a run continues: weights, moving average, optimizer state, step.

Random numbers and the data position are functions of (seed, step) (`order.py`), so the step restores both.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from latentia.errors import LatentiaError, first_line
from latentia.files import read_metadata, read_tensors, write_tensors
from latentia.training.ema import EMA

# Whole tensors, whether the module is plain, DDP or FSDP2: in every process, or on the CPU of the first one alone.
WHOLE = StateDictOptions(full_state_dict=True)
GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass
class Trainee:
    """A module in training, with its optimizers and, if it has one, its moving average."""

    module: nn.Module
    optimizers: Sequence[Optimizer]
    ema: EMA | None = None

    def state(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint, in the first process; the others take part and receive none."""
        tensors = {f"module.{name}": value for name, value in self._weights(GATHERED).items()}
        for number, optimizer in enumerate(self.optimizers):
            # Only the state: the groups' hyperparameters come from the recipe and the step.
            state: dict[str, Any] = dict(get_optimizer_state_dict(self.module, optimizer, options=GATHERED))
            for parameter, values in state.get("state", {}).items():
                tensors |= {f"optimizer.{number}.{parameter}.{name}": value for name, value in values.items()}
        if self.ema is not None:
            with self.ema.swapped():
                tensors |= {f"ema.{name}": value for name, value in self._weights(GATHERED).items()}
        return tensors

    def averaged_weights(self) -> dict[str, Tensor]:
        """The module's whole state dict with averaged parameters, in every process."""
        with self.averaged():
            return self._weights(WHOLE)

    def averaged(self) -> AbstractContextManager[None]:
        """Within the block the module has its averaged weights."""
        return nullcontext() if self.ema is None else self.ema.swapped()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        if self.ema is not None:
            set_model_state_dict(self.module, dict(_under(tensors, "ema.")), options=WHOLE)
            self.ema.copy_from_weights()
        set_model_state_dict(self.module, dict(_under(tensors, "module.")), options=WHOLE)
        for number, optimizer in enumerate(self.optimizers):
            state: dict[str, Any] = dict(get_optimizer_state_dict(self.module, optimizer, options=WHOLE))
            for key, value in _under(tensors, f"optimizer.{number}.").items():
                parameter, name = key.rsplit(".", 1)
                state["state"][parameter][name] = value
            set_optimizer_state_dict(self.module, optimizer, state, options=WHOLE)

    def _weights(self, options: StateDictOptions) -> dict[str, Tensor]:
        """A copy of the module's state dict: on the CPU the original would change with the next update."""
        state: dict[str, Any] = get_model_state_dict(self.module, options=options)
        return {name: value.clone() for name, value in state.items()}


@dataclass
class Checkpoint:
    """The file of a run, and the ones before it beside it; `trainees` are the modules that they hold, by name."""

    path: Path
    trainees: dict[str, Trainee]
    identity: str  # must not change between stop and resume; such as the recipe's hash

    def save(self, step: int, *, write: bool = True, keep: int = 1) -> None:
        """Every process gathers; the one with `write` writes the file and leaves `keep` of the last ones."""
        tensors = {
            f"{name}.{key}": value for name, trainee in self.trainees.items() for key, value in trainee.state().items()
        }
        if write:
            if keep > 1 and (before := step_of(self.path)) is not None:
                self.path.rename(self.path.with_stem(f"{self.path.stem}-{before:09d}"))
            write_tensors(self.path, tensors, {"step": str(step), "identity": self.identity})
            self.prune(keep)

    def prune(self, keep: int = 1) -> None:
        """Deletes all files but the newest `keep`."""
        for path in kept_files(self.path)[keep:]:
            path.unlink(missing_ok=True)

    def restore(self) -> int:
        """Loads the newest file and returns its step; 0 where there is none.

        Raises LatentiaError where the file is damaged, or another recipe wrote it.
        """
        files = kept_files(self.path)
        if not files:
            return 0
        path = files[0]
        try:
            tensors, metadata = read_tensors(path), read_metadata(path)
        except LatentiaError as error:
            before = f", which goes on from {files[1].name}" if len(files) > 1 else ", which begins this stage again"
            raise LatentiaError(f"{error}; delete {path}{before}, and resume") from None
        if metadata.get("identity") != self.identity:
            raise LatentiaError(
                f"{path} was written by another recipe or data set; train into another folder, or delete this one"
            )
        try:
            for name, trainee in self.trainees.items():
                trainee.restore(_under(tensors, f"{name}."))
            return int(metadata["step"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise LatentiaError(f"{path} does not fit this run: {first_line(error)}") from None


def kept_files(path: Path) -> list[Path]:
    """The checkpoint `path` and those before it that are kept beside it, the newest first."""
    older = sorted(path.parent.glob(f"{path.stem}-*{path.suffix}"), reverse=True)
    return [path, *older] if path.exists() else older


def step_of(path: Path) -> int | None:
    """The step of a checkpoint; None where it is missing or damaged."""
    try:
        return int(read_metadata(path)["step"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None


def require_own(path: Path) -> None:
    """Raises LatentiaError where Latentia 0.1 wrote the checkpoint of a denoiser: its weights have other names."""
    if not path.exists():
        return
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith("denoiser.module.")]  # noqa: SIM118
    except (SafetensorError, OSError):
        return  # `restore` says what to do about a damaged file
    if names and not any(name.startswith("denoiser.module.core.") for name in names):
        raise LatentiaError(
            f"{path} is of an earlier version of Latentia and cannot be continued; its model folder works as before, "
            "and --init MODEL starts from it"
        )


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
