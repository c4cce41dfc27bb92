"""Throughput of training against diffusers: whole steps of DiT-S/2, -B/2 and -L/2 on random latents, in one table.

    python benchmarks/throughput.py [--sizes S B L] [--batch N] [--steps 20] [--no-compile] [--budget SECONDS]
    python benchmarks/throughput.py --sizes S --batch 2 --steps 2 --warmup 1 --no-compile   # a minute on a CPU

Latents are 4×32×32 of 1000 classes, sizes those of Peebles & Xie 2023, table 1. A step is forward pass, squared error
to a random target, backward pass and AdamW; weights are moved away from their first zeros, which make products cheap.
Ours runs with the changes of LightningDiT, as its defaults say, and in the classic form, which computes what the peer
does.
Peer: `DiTTransformer2DModel`, made as its users make it. It keeps embedders of timestep and class in every block, which
count among its parameters and cost its optimizer time; its label dropout is off, since ours is none of the network's.

The rows of a size share batch and settings and run one after the other, the peer first; a row has the median of
`--repeats` blocks of `--steps` steps, and "ours / peer" is a ratio of steps a second (above 1: we are faster). The peak
of memory is what the timed steps allocate on the device. MFU is the share of the device's dense bf16 peak that the
model's products take: those of one forward and backward pass, counted by PyTorch's FlopCounterMode on the uncompiled
network on the meta device, where attention is plain products too, so that nothing computed twice counts twice.
"""

import argparse
import copy
import gc
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from diffusers import DiTTransformer2DModel
from peers import DEVICE, machine, randomised
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from latentia.conditions import Label
from latentia.denoiser import Denoiser, DiT, count_parameters

CHANNELS, SIDE, PATCH, CLASSES = 4, 32, 2, 1000
TOKENS = (SIDE // PATCH) ** 2
PEAKS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100": 312e12}  # dense bf16, by name's start
COLUMNS = (
    "model", "whose", "parameters", "batch", "steps a second", "tokens a second", "peak GB", "MFU", "ours / peer"
)  # fmt: skip


class Size(NamedTuple):
    width: int
    depth: int
    heads: int
    batch: int  # on an accelerator


SIZES = {"S": Size(384, 12, 6, 256), "B": Size(768, 12, 12, 256), "L": Size(1024, 24, 16, 128)}


class Ours(nn.Module):
    """Calls our network as every row does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return self.network(x, time, label=label)


class Theirs(nn.Module):
    """Calls theirs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return self.network(x, timestep=time, class_labels=label).sample


def build_ours(size: Size, classic: bool) -> nn.Module:
    form = dict.fromkeys(("rope", "swiglu", "qk_norm", "rms_norm"), False) if classic else {}
    core = DiT(
        in_channels=CHANNELS, grid=(SIDE, SIDE), patch=PATCH, shared_modulation=False,
        width=size.width, depth=size.depth, heads=size.heads, **form,
    )  # fmt: skip
    return Denoiser(core, {"label": Label(core.signal_width, [str(number) for number in range(CLASSES)])})


def build_theirs(size: Size) -> nn.Module:
    network = DiTTransformer2DModel(
        num_attention_heads=size.heads, attention_head_dim=size.width // size.heads, num_layers=size.depth,
        in_channels=CHANNELS, sample_size=SIDE, patch_size=PATCH, num_embeds_ada_norm=CLASSES, norm_eps=1e-6,
    )  # fmt: skip
    for block in network.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    return network


MODELS: dict[str, Callable[[Size], nn.Module]] = {
    "diffusers": lambda size: Theirs(build_theirs(size)),
    "latentia, classic": lambda size: Ours(build_ours(size, classic=True)),
    "latentia": lambda size: Ours(build_ours(size, classic=False)),
}


class Batch(NamedTuple):
    x: Tensor
    time: Tensor
    label: Tensor
    target: Tensor


def make_batch(count: int, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x, target = torch.randn((2, count, CHANNELS, SIDE, SIDE), generator=generator)
    time = 1000 * torch.rand(count, generator=generator)
    label = torch.randint(CLASSES, (count,), generator=generator)
    return Batch(*(value.to(device) for value in (x, time, label, target)))


def flops_of_step(module: nn.Module, count: int) -> int:
    """Floating-point operations of the products in a forward and a backward pass; a fused multiply-add is two."""
    meta = torch.device("meta")
    twin, batch = copy.deepcopy(module).to(meta), make_batch(count, meta)
    with FlopCounterMode(display=False) as counter:
        F.mse_loss(twin(batch.x, batch.time, batch.label), batch.target).backward()
    return counter.get_total_flops()


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 operations a second that the device promises; None where that is unknown."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = [peak for start, peak in PEAKS.items() if name.startswith(start) and "NVL" not in name]
    return known[0] if known else None


def training_step(module: nn.Module, batch: Batch, device: torch.device, bf16: bool) -> Callable[[], Tensor]:
    """A function that does one step and returns its loss, still on the device."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=device.type == "cuda")

    def step() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            answer = module(batch.x, batch.time, batch.label)
        loss = F.mse_loss(answer.float(), batch.target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def synchronised(device: torch.device) -> float:
    """The time, when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Measured(NamedTuple):
    rate: float  # steps a second
    peak: float | None  # GB


def measure(step: Callable[[], Tensor], arguments: argparse.Namespace) -> Measured:
    """Raises FloatingPointError where the last loss is not finite: such numbers may be quick to compute."""
    device: torch.device = arguments.device
    for _ in range(arguments.warmup):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(arguments.repeats):
        started = synchronised(device)
        for _ in range(arguments.steps):
            loss = step()
        seconds.append(synchronised(device) - started)
    if not math.isfinite(loss.item()):
        raise FloatingPointError(f"the loss is {loss.item()} after {arguments.repeats * arguments.steps} steps")
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    return Measured(arguments.steps / statistics.median(seconds), peak)


def run_row(model: str, whose: str, peer: float | None, arguments: argparse.Namespace) -> float | None:
    """Prints a row; returns its steps a second, None where the memory did not do. `peer` is that of the peer's row."""
    size, device = SIZES[model], arguments.device
    count = arguments.batch or (4 if device.type == "cpu" else size.batch)
    torch.manual_seed(0)
    module = randomised(MODELS[whose](size), scale=0.02).train()
    flops, parameters = flops_of_step(module, count), count_parameters(module) / 1e6
    start = (f"DiT-{model}/{PATCH}", whose, f"{parameters:.1f} M", count)
    module.to(device)
    if arguments.compile:
        module.compile(mode=arguments.mode, dynamic=False)
    try:
        rate, peak = measure(training_step(module, make_batch(count, device), device, arguments.bf16), arguments)
    except torch.OutOfMemoryError:
        print_row(*start, "out of memory", *["-"] * (len(COLUMNS) - 5))
        return None
    promised = peak_flops(device) if arguments.bf16 else None
    print_row(
        *start,
        f"{rate:.3g}",
        f"{rate * count * TOKENS:,.0f}",
        "-" if peak is None else f"{peak:.1f}",
        "-" if promised is None else f"{flops * rate / promised:.1%}",
        "-" if peer is None else f"{rate / peer:.2f}",
    )
    return rate


def print_row(*cells: object) -> None:
    print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batch", type=int, help="latents a step (default: by size on an accelerator, 4 on a CPU)")
    parser.add_argument("--steps", type=int, default=20, help="steps in a block that is timed")
    parser.add_argument("--repeats", type=int, default=3, help="blocks")
    parser.add_argument("--warmup", type=int, default=5, help="steps before, in which the compiler works")
    parser.add_argument("--device", type=torch.device, default=DEVICE)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, help="autocast (default: on CUDA)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile (default: on CUDA)")
    parser.add_argument("--mode", choices=("default", "max-autotune-no-cudagraphs"), default="default")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds after which no further row is begun")
    arguments = parser.parse_args()
    cuda = arguments.device.type == "cuda"
    arguments.bf16 = cuda if arguments.bf16 is None else arguments.bf16
    arguments.compile = cuda if arguments.compile is None else arguments.compile
    return arguments


def main() -> None:
    started, arguments = time.perf_counter(), parse_arguments()
    if arguments.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    precision = "bf16 autocast" if arguments.bf16 else "float32"
    compiled = f"torch.compile, mode {arguments.mode}" if arguments.compile else "not compiled"
    blocks = f"median of {arguments.repeats} × {arguments.steps} steps after {arguments.warmup}"
    print(f"{machine()}\non {arguments.device}, {precision}, {compiled}, {blocks}\n")
    print_row(*COLUMNS)
    print_row(*["---"] * len(COLUMNS))
    left_out = []
    for model in arguments.sizes:
        peer = None
        for whose in MODELS:
            if time.perf_counter() - started > arguments.budget:
                left_out.append(f"DiT-{model}/{PATCH} of {whose}")
                continue
            rate = run_row(model, whose, peer, arguments)
            peer = rate if whose == "diffusers" else peer
            torch.compiler.reset()  # else the next network may be compiled for sizes that vary
            gc.collect()  # a compiled network holds itself
            if arguments.device.type == "cuda":
                torch.cuda.empty_cache()
    if left_out:
        print(f"\nleft out, as {arguments.budget:g} s were over: {', '.join(left_out)}")


if __name__ == "__main__":
    main()
