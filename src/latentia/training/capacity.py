"""How fast this machine trains: operations a second, and those of an update, from which a network's size is chosen."""

import time

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

PASSES = 3  # a backward pass costs twice as much as a forward pass (Kaplan et al. 2020, §2.1)
TRIES = 3  # the fastest of which counts


def flops_of(network: nn.Module, *inputs: Tensor) -> int:
    """Floating-point operations of an update with these inputs; a network on the device "meta" computes nothing."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return PASSES * int(counter.get_total_flops())


def flops_a_second(network: nn.Module, *inputs: Tensor) -> float:
    """Of updates of a network with these inputs, on their device."""
    return flops_of(network, *inputs) / fastest_update(network, *inputs)


def fastest_update(network: nn.Module, *inputs: Tensor) -> float:
    """Seconds of the fastest of some updates."""
    return min(seconds_of_update(network, *inputs) for _ in range(TRIES))


def seconds_of_update(network: nn.Module, *inputs: Tensor) -> float:
    """A forward and a backward pass."""
    on_cpu = inputs[0].device.type == "cpu"
    if not on_cpu:
        torch.accelerator.synchronize()
    started = time.perf_counter()
    network(*inputs).square().mean().backward()  # type: ignore[no-untyped-call]
    if not on_cpu:
        torch.accelerator.synchronize()
    return time.perf_counter() - started
