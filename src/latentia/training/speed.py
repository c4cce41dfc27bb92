"""Says which settings slow a training down on this machine: it is measured, never assumed."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

Say = Callable[[str], None]
NOTABLE = 1.1  # times as slow; less may be chance
REPEATS = 3


def name_brakes(
    module: nn.Module, arguments: Sequence[Any], named: Mapping[str, Any], *, bf16: bool, compile: bool, say: Say
) -> None:
    """Times forward and backward passes on a batch on the CPU, and says in one line each what makes them slower.

    `module` must be a copy, since its gradients and running statistics change; random states are left as they were.
    bf16 is compared with float32, and `compile` with the same precision without it.
    """
    generators = [argument for argument in arguments if isinstance(argument, torch.Generator)]
    states = [generator.get_state() for generator in generators]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        before = seconds(module, arguments, named, bf16=False)
        for name, chosen in (("compute.mixed_precision=bf16", bf16), ("compute.compile=true", compile)):
            if not chosen:
                continue
            if name == "compute.compile=true":
                module.compile()
            after = seconds(module, arguments, named, bf16=bf16)
            if after > NOTABLE * before:
                with tqdm.external_write_mode(sys.stderr):  # the loop's bar is on the line
                    say(
                        f"{name} slows this processor down: a batch takes {after:.3g} s with it, {before:.3g} s without"
                    )
            before = after
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)


def seconds(module: nn.Module, arguments: Sequence[Any], named: Mapping[str, Any], *, bf16: bool) -> float:
    """The least of some times of a forward and a backward pass, after one that does not count (`compile` works)."""
    times = []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = module(*arguments, **named)
        leaves = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor) and leaf.requires_grad]
        torch.autograd.backward([leaf.float().sum() for leaf in leaves])
        times.append(time.perf_counter() - started)
    return min(times[1:])
