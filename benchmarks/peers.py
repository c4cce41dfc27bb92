"""Our models with the weights of their peers, and what every benchmark says of its machine."""

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Module = TypeVar("Module", bound=torch.nn.Module)

DEVICE = torch.accelerator.current_accelerator() or torch.device("cpu")  # as training chooses it, too


def randomised(model: Module, scale: float = 0.2, seed: int = 0) -> Module:
    """Moves every weight away from its start, so that nothing is hidden by the zeros of adaLN-Zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def in_turn(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, A B A B …, after one uncounted round: a machine that drifts slows both alike."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> float:
    """The median of the paired ratios."""
    return statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))


def machine() -> str:
    """Processor, accelerator, threads, library and day, to stand next to every figure."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    accelerator = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    return f"{cpu}, {os.cpu_count()} cores{accelerator}, {threads}, {datetime.date.today()}"
