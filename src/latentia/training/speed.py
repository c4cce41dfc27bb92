"""Measures which settings slow a training down on this machine."""

import copy
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

Say = Callable[[str], None]
NOTABLE = 1.2  # times as slow; a smaller factor may be chance
ROUNDS = 5
ADVICE = {"bf16": "set compute.mixed_precision=no", "compile": "set compute.compile=false"}


def silent(message: str) -> None:
    """Says nothing; for it nothing is measured either."""


def name_brakes(
    module: nn.Module,
    arguments: Sequence[Any],
    named: Mapping[str, Any],
    *,
    title: str,
    bf16: bool,
    compile: bool,
    say: Say,
) -> None:
    """Times forward and backward passes on a batch on the CPU, and prints one line for each setting that slows them.

    `module` must be a copy, since its gradients and running statistics change; random states are left as they were.
    bf16 is compared with float32, and `compile` with the same precision without it.
    """
    runs: dict[str, tuple[nn.Module, bool]] = {"neither": (module, False)}
    if bf16:
        runs["bf16"] = module, True
    if compile:
        compiled = copy.deepcopy(module)
        compiled.compile()
        runs["compile"] = compiled, bf16
    best = least_seconds(runs, [_apart(value) for value in arguments], {name: _apart(v) for name, v in named.items()})
    with tqdm.external_write_mode(sys.stderr):  # the loop's progress bar is on that line
        for before, after in pairwise(best):
            if best[after] > NOTABLE * best[before]:
                say(
                    f"{title}: {after} makes this training slower on this processor, {best[after]:.3g} s a batch "
                    f"instead of {best[before]:.3g} s; {ADVICE[after]}"
                )


def _apart(value: Any) -> Any:
    """A tensor detached from its graph: the passes that are timed send no gradients there, and free nothing."""
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def least_seconds(
    runs: Mapping[str, tuple[nn.Module, bool]], arguments: Sequence[Any], named: Mapping[str, Any]
) -> dict[str, float]:
    """The least time of each run, module and whether in bf16, over rounds in turn: other processes disturb all alike.

    The first round does not count, since it includes compilation.
    """
    generators = [argument for argument in arguments if isinstance(argument, torch.Generator)]
    states = [generator.get_state() for generator in generators]
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        for _ in range(1 + ROUNDS):
            for name, (module, bf16) in runs.items():
                times[name].append(seconds(module, arguments, named, bf16=bf16))
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    return {name: min(values[1:]) for name, values in times.items()}


def seconds(module: nn.Module, arguments: Sequence[Any], named: Mapping[str, Any], *, bf16: bool) -> float:
    """The time of a forward and a backward pass."""
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        result = module(*arguments, **named)
    leaves = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.requires_grad]
    torch.autograd.backward([leaf.float().sum() for leaf in leaves])
    return time.perf_counter() - started
