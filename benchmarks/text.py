"""Text latent diffusion beside an autoregressive and a masked-diffusion model of the same size and training cost.

    python benchmarks/text.py MODEL [--count 2000] [--bf16] [--peers FOLDER]

MODEL is a trained text model. Both peers get as many parameters as its autoencoder and denoiser have together, and as
many training FLOPs (counted on a batch of average length), on the same texts with the same tokenizer. Once trained, on
an accelerator where there is one, they are kept in FOLDER; all else runs on the CPU. All are scored by the same
independent judge and sentence embeddings, beside as many held-out texts.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import autoregressive
import mdlm
import numpy as np
import torch
from peers import DEVICE, machine
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from latentia.denoiser import count_parameters
from latentia.diffusion import EVALUATIONS_PER_STEP, training_loss
from latentia.files import CONFIG_NAME, cache_dir, load_part, save_part
from latentia.language.tokenizer import token_matrix
from latentia.modalities.text.autoencoder import token_loss
from latentia.modalities.text.codec import text_items
from latentia.modalities.text.metrics.judge import JudgeLM, train_judge, trained_judge
from latentia.modalities.text.metrics.report import evaluate_texts, sentence_net
from latentia.modalities.text.readers.corpora import load_texts
from latentia.modalities.text.texts import TextSet
from latentia.model import LatentModel, load

BATCH, WIDTH_STEP, HEADS = 64, 64, 4
RATE, MASKED_RATE = 1e-3, 3e-4  # masked diffusion comes out worse with 6e-4, and at 1e-3 its loss breaks
FIGURES = ("perplexity", "distinct-3", "self-BLEU-4", "4-grams in training", "MAUVE", "Fréchet")


def flops(run: Callable[[], Tensor]) -> int:
    """Floating-point operations of a forward and a backward pass."""
    with FlopCounterMode(display=False) as counter:
        run().backward()
    return counter.get_total_flops()


def model_flops(model: LatentModel, ids: Tensor) -> int:
    """What the training of both stages cost, from the recipe's steps and one batch each."""
    recipe, generator = model.training["recipe"], torch.Generator().manual_seed(0)
    for part in (model.first_stage, model.denoiser):
        part.requires_grad_(True)
    first = flops(lambda: token_loss(model.first_stage(ids, generator).x, ids))
    z = torch.randn(len(ids), *model.latent_shape)
    t = model.process.sample_times(len(ids), generator)
    second = flops(lambda: training_loss(model.denoiser, z, z.flip(0), t, model.process).mean())
    stages = (first, recipe["first_stage"]["training"]), (second, recipe["training"])
    # Half of the denoiser's updates make one more forward pass, a third of a step, for self-conditioning.
    costs = [cost * loop["steps"] * loop["batch_size"] / len(ids) for cost, loop in stages]
    return int(costs[0] + costs[1] * (1 + 1 / 6))


def width_for(parameters: int, build: Callable[[int], nn.Module]) -> int:
    """The width, in multiples of 64, whose model comes nearest to so many parameters."""
    widths = range(WIDTH_STEP, 2048, WIDTH_STEP)
    sizes = []
    for width in widths:
        with torch.device("meta"):
            sizes.append(abs(count_parameters(build(width)) - parameters))
    return widths[int(np.argmin(sizes))]


def kept(folder: Path, train: Callable[[], Any]) -> Any:
    """The peer in `folder`, trained and written there first where it is missing."""
    if not (folder / CONFIG_NAME).is_file():
        peer = train()
        save_part(folder, peer, peer.config)
    return load_part(folder, {"JudgeLM": JudgeLM, "MaskedLM": mdlm.MaskedLM}).eval()


def seconds(run: Callable[[int], object], count: int) -> float:
    """Seconds a text, the best of three."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        run(count)
        times.append((time.perf_counter() - started) / count)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--depth", type=int, default=6, help="layers of both peers")
    parser.add_argument("--bf16", action="store_true", help="train both peers in mixed precision")
    parser.add_argument("--peers", type=Path, default=cache_dir() / "peers", help="where trained peers are kept")
    arguments = parser.parse_args()
    print(machine())
    model = load(arguments.model)
    data = model.training["recipe"]["data"]
    train, test = (load_texts(data["name"], split, data["on_corrupt"], data["root"]) for split in ("train", "test"))
    tokens = text_items(train, model.codec, "skip")
    held = test.subset(token_matrix(model.codec.tokenizer, test.texts, model.codec.size, "skip").kept)
    lengths_of = tokens.values["length"]
    tokenizer, size, vocabulary = model.codec.tokenizer, model.codec.size, model.codec.tokenizer.vocab_size
    ids = tokens.tensor(slice(None))
    mean = round(float(lengths_of.mean()) + 1)
    batch = ids[lengths_of + 1 >= mean][:BATCH, :mean]

    budget = model_flops(model, batch)
    parameters = count_parameters(model.first_stage) + count_parameters(model.denoiser)
    print(f"latent diffusion: {parameters:,} parameters, {budget:.3g} FLOPs of training", flush=True)

    def build_ar(width: int) -> JudgeLM:
        return JudgeLM(vocabulary, width, arguments.depth, HEADS, size)

    def build_masked(width: int) -> mdlm.MaskedLM:
        return mdlm.MaskedLM(vocabulary, width, arguments.depth, HEADS, size)

    wide_ar, wide_masked = width_for(parameters, build_ar), width_for(parameters, build_masked)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    trial, masked = build_ar(wide_ar), build_masked(wide_masked)
    steps_ar = max(1, round(budget / flops(lambda: trial.losses(batch).mean())))
    steps_masked = max(1, round(budget / flops(lambda: mdlm.loss(masked, batch, generator))))
    for name, network, steps in (("autoregressive", trial, steps_ar), ("masked", masked, steps_masked)):
        print(f"{name}: {count_parameters(network):,} parameters, {steps} steps of {BATCH}", flush=True)
    # Without its cache, which would keep the weights of the first step until the context is left.
    precision = torch.autocast(DEVICE.type, torch.bfloat16, arguments.bf16, cache_enabled=False)

    def train_ar() -> JudgeLM:
        sizes = {"width": wide_ar, "depth": arguments.depth, "heads": HEADS}
        loop = {"steps": steps_ar, "learning_rate": RATE, "seed": 1, "progress": True}  # the judge has seed 0
        with precision:
            return train_judge(tokens.values["ids"], vocabulary, **sizes, **loop, device=DEVICE).cpu()

    def train_masked() -> mdlm.MaskedLM:
        with precision:
            mdlm.train(masked.to(DEVICE), ids, steps=steps_masked, batch_size=BATCH, learning_rate=MASKED_RATE)
        return masked.cpu()

    def folder(kind: str, rate: float, width: int, steps: int) -> Path:
        made_of = f"{tokens.fingerprint}-{arguments.depth}-{rate:g}{'-bf16' * arguments.bf16}"
        return arguments.peers / f"{kind}-{made_of}-{width}-{steps}"

    ar = kept(folder("autoregressive", RATE, wide_ar, steps_ar), train_ar)
    masked = kept(folder("masked", MASKED_RATE, wide_masked, steps_masked), train_masked)

    judge = trained_judge(train, tokenizer, max_tokens=size, progress=True)
    network = sentence_net()
    count = min(arguments.count, len(held))
    chosen = np.random.default_rng(0).permutation(len(held))[:count]
    labels = np.zeros(count, np.int64) if held.labels is None else held.labels[chosen]
    evaluations = model.sampling["steps"] * EVALUATIONS_PER_STEP[model.sampling["sampler"]] + 1

    def draw_latent(n: int) -> list[str]:
        texts: list[str] = model.generate(np.resize(labels, n), batch_size=256)
        return texts

    def draw_ar(n: int) -> list[str]:
        return tokenizer.decode(autoregressive.generate(ar, n, generator=generator).tolist())

    def draw_masked(n: int) -> list[str]:
        rng = np.random.default_rng(0)
        lengths = torch.from_numpy(rng.choice(lengths_of, n) + 1)
        parts = lengths.sort().values.split(256)  # alike in length, so that little is spent on padding
        made = [mdlm.generate(masked, part, evaluations, generator) for part in parts]
        texts = [text for part in made for text in tokenizer.decode(part.tolist())]
        return [texts[i] for i in rng.permutation(n)]

    rows = {}
    draws = {
        f"latent diffusion, {evaluations} evaluations at most": draw_latent,
        "autoregressive": draw_ar,
        f"masked diffusion, {evaluations} evaluations": draw_masked,
    }
    for name, draw in draws.items():
        texts = tuple(draw(count))
        written = TextSet(texts, None, (), name, "Generated.")
        unlabelled = TextSet(held.subset(chosen).texts, None, (), test.name, test.source)
        report = evaluate_texts(written, train, unlabelled, judge=judge, tokenizer=tokenizer, network=network)
        rows[name] = report, seconds(draw, 1), seconds(draw, 64)
    print(f"\n{network.name}; n = {count}; the judge's own held-out perplexity is in the last row\n")
    print("| model | " + " | ".join(FIGURES) + " | s/text, batch 1 | s/text, batch 64 |")
    print("|---" * (len(FIGURES) + 3) + "|")
    for name, (report, one, many) in rows.items():
        found = [next(figure for figure in report.figures if part in figure.name) for part in FIGURES]
        print(f"| {name} | " + " | ".join(f"{figure.value:.4g}" for figure in found) + f" | {one:.3f} | {many:.4f} |")
    print("| held-out texts | " + " | ".join(f"{figure.reference:.4g}" for figure in found) + " | | |")


if __name__ == "__main__":
    main()
