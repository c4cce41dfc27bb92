"""The use of Accelerate in both stages: device, precision, a wrapped module with its optimizers, a share of a batch."""

import copy
import os
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from latentia.config import Loop
from latentia.errors import LatentiaError
from latentia.training.checkpoint import Trainee
from latentia.training.ema import EMA
from latentia.training.optimizer import build_optimizers, rate_factor, set_learning_rate
from latentia.training.recipe import Compute
from latentia.training.speed import Say, name_brakes, silent
from latentia.training.trackers import known_trackers


def build_accelerator(compute: Compute) -> Accelerator:
    """One process, or one of many under `accelerate launch` or torchrun."""
    precision = compute.mixed_precision
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()  # an earlier training of this process had another
    # Without `cpu`, several processes on a machine without an accelerator would each train alone.
    on_cpu = not torch.accelerator.is_available()
    return Accelerator(mixed_precision=precision, cpu=on_cpu, log_with=known_trackers(compute.trackers) or None)


def prepare(
    module: nn.Module, loop: Loop, accelerator: Accelerator, *, title: str, compile: bool, say: Say
) -> tuple[Callable[..., Any], Trainee]:
    """The module for the training step to call, and the same with its optimizers and EMA for the checkpoint.

    On a CPU the first call prints one line for each of bf16 and `compile` that slows it down; `title` names the stage.
    """
    bf16 = accelerator.mixed_precision == "bf16"
    timed = accelerator.device.type == "cpu" and (bf16 or compile) and say is not silent
    plain = copy.deepcopy(module) if timed else None
    if compile:
        say(f"{title}: compiling, which takes the first step a minute or so")
        separate_compiled_code(os.environ)
        module.compile()
    wrapped = accelerator.prepare(module)
    optimizers = build_optimizers(
        wrapped, kind=loop.optimizer, learning_rate=loop.learning_rate, weight_decay=loop.weight_decay, beta2=loop.beta2
    )
    ema = EMA(wrapped, decay=loop.ema_decay, sigma_rel=loop.ema_sigma_rel)

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal plain
        if plain is not None:
            name_brakes(plain, arguments, named, title=title, bf16=bf16, compile=compile, say=say)
            plain = None
        return wrapped(*arguments, **named)

    return call, Trainee(wrapped, optimizers, ema)


def separate_compiled_code(environ: MutableMapping[str, str]) -> None:
    """Gives PyTorch's compiler a folder for this kind of processor, unless the user has chosen one.

    The compiler names compiled code by the network alone. Code for AVX-512 that a process limited to AVX2 reuses, or
    another machine with the same folder for temporary files, computes NaN (torch 2.13).
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    kind, usual = torch.backends.cpu.get_cpu_capability().lower().replace(" ", "-"), default_cache_dir()
    if environ.get("TORCHINDUCTOR_CACHE_DIR", usual) == usual:  # PyTorch itself sets it to that
        environ["TORCHINDUCTOR_CACHE_DIR"] = f"{usual}_{kind}"


def apply_gradients(trainee: Trainee, loop: Loop, step: int, accelerator: Accelerator) -> None:
    """Clips, sets the learning rate of `step`, updates and clears the gradients."""
    accelerator.clip_grad_norm_(trainee.module.parameters(), loop.clip_norm)
    factor = rate_factor(step, warmup=loop.warmup, steps=loop.steps, decay=loop.decay)
    set_learning_rate(trainee.optimizers, factor * loop.learning_rate)
    for optimizer in trainee.optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def local_share(batch_size: int, accelerator: Accelerator) -> slice:
    """The rows of a global batch that belong to this process."""
    count = accelerator.num_processes
    if batch_size % count:
        raise LatentiaError(f"batch_size {batch_size} does not divide over {count} processes")
    part = batch_size // count
    return slice(accelerator.process_index * part, (accelerator.process_index + 1) * part)


def averaged(values: Mapping[str, Tensor], accelerator: Accelerator) -> dict[str, Tensor]:
    """The mean of each 0-d tensor over the processes."""
    if accelerator.num_processes == 1:
        return dict(values)
    together: Any = accelerator.reduce(
        torch.stack([value.detach().float() for value in values.values()]), reduction="mean"
    )
    return dict(zip(values, together.unbind(), strict=True))
