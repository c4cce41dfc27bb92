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
from diffusers import DiTTransformer2DModel

from latentia.denoiser import DiT

Module = TypeVar("Module", bound=torch.nn.Module)
CLASSIC = {"rope": False, "swiglu": False, "qk_norm": False, "rms_norm": False}  # Peebles & Xie 2023


def dit_from_diffusers(theirs: DiTTransformer2DModel) -> DiT:
    """Our classic DiT with the weights of diffusers' class-conditional one."""
    config, their = theirs.config, theirs.state_dict()
    embedder = theirs.transformer_blocks[0].norm1.emb
    size = config.sample_size
    ours = DiT(
        in_channels=config.in_channels,
        grid=(size, size),
        patch=config.patch_size,
        width=config.num_attention_heads * config.attention_head_dim,
        depth=config.num_layers,
        heads=config.num_attention_heads,
        num_classes=config.num_embeds_ada_norm,
        out_channels=config.out_channels,
        **CLASSIC,
    )
    state = {
        "patch_embed.weight": their["pos_embed.proj.weight"].flatten(1),
        "patch_embed.bias": their["pos_embed.proj.bias"],
        "label_embed.table.weight": their["transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"],
    }
    renamed = {
        "time_embed.hidden": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1",
        "time_embed.out": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2",
        "final_modulation": "proj_out_1",
        "final": "proj_out_2",
    }
    for i in range(config.num_layers):
        block, origin = f"blocks.{i}", f"transformer_blocks.{i}"
        renamed[f"{block}.modulation"] = f"{origin}.norm1.linear"
        renamed[f"{block}.attention.out"] = f"{origin}.attn1.to_out.0"
        renamed[f"{block}.mlp.0"] = f"{origin}.ff.net.0.proj"
        renamed[f"{block}.mlp.2"] = f"{origin}.ff.net.2"
        for kind in ("weight", "bias"):
            state[f"{block}.attention.qkv.{kind}"] = torch.cat(
                [their[f"{origin}.attn1.to_{part}.{kind}"] for part in "qkv"]
            )
        # diffusers keeps one copy of the embedders in every block; the first is the one the final layer sees
        theirs.transformer_blocks[i].norm1.emb.load_state_dict(embedder.state_dict())
    for name, origin in renamed.items():
        for kind in ("weight", "bias"):
            state[f"{name}.{kind}"] = their[f"{origin}.{kind}"]
    ours.load_state_dict(state)
    return ours


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
    """Processor, threads, library and day, to stand next to every figure."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cpu}, {os.cpu_count()} cores"
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {datetime.date.today()}"
