"""A text model, all metrics: reconstructs under noise, writes, measures against held-out texts, and reports."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentia.errors import LatentiaError
from latentia.evaluation.source import data_source
from latentia.files import write_json, write_text
from latentia.modalities.text.codec import TextCodec, TokenSet
from latentia.modalities.text.metrics.classifier import train_text_classifier
from latentia.modalities.text.metrics.judge import trained_judge
from latentia.modalities.text.metrics.report import evaluate_text_reconstruction, evaluate_texts, token_agreement
from latentia.modalities.text.metrics.sentences import SMALLEST_MAUVE_SET, SentenceNet, sentence_net
from latentia.modalities.text.readers.corpora import load_texts
from latentia.modalities.text.texts import TextSet
from latentia.model import LatentModel

AT_ONCE = 256
NOISES = (0.0, 0.25, 0.5, 0.75, 1.0)  # standard deviations added to normalised latents


def evaluate_text_model(
    model: LatentModel,
    out: Path,
    *,
    data: str | None,
    root: str | Path | None,
    count: int,
    judge_steps: int,
    sampling: dict[str, Any],
    seed: int,
    device: str,
    say: Callable[[str], None],
) -> str:
    """`evaluate_model` for texts.

    The first stage is measured on the held-out texts, also with noise on its latents. The generator writes `count`
    texts, but no more than are held out, of the classes that those have. `out` gets report.md, report.json, samples.txt
    and reconstructions.txt.
    """
    assert isinstance(model.codec, TextCodec)
    train, test = _splits(model, data, root)
    say(f"data: {train.source}")
    held = TokenSet.of(test, model.codec, "skip")
    again = _reconstruct(model, held, 0.0, seed)
    reconstruction = evaluate_text_reconstruction(held.texts, again, held.ids, tokenizer=model.codec.tokenizer)
    robust = {}
    for noise in NOISES:
        agreement = token_agreement(again if noise == 0 else _reconstruct(model, held, noise, seed), held.ids)
        robust[noise] = {"tokens": agreement.tokens, "texts": agreement.texts}

    judge = trained_judge(
        train,
        model.codec.tokenizer,
        max_tokens=model.codec.size,
        steps=judge_steps,
        device=device,
        progress=True,
    )
    classifier = train_text_classifier(train, seed=seed) if train.num_classes > 1 else None
    chosen = np.random.default_rng(seed).permutation(len(held))[:count]
    network: SentenceNet | None = None
    try:
        network = sentence_net() if len(chosen) >= SMALLEST_MAUVE_SET else None
    except LatentiaError as error:
        say(f"no sentence embeddings: {error}")
    labels = np.zeros(len(chosen), np.int64) if held.labels is None else held.labels[chosen]
    started = time.perf_counter()
    texts = model.generate(labels, seed=seed, progress=True, **sampling)
    rate = len(texts) / (time.perf_counter() - started)
    written = TextSet(tuple(texts), None if held.labels is None else labels, model.class_names, "generated texts", "")
    figures = evaluate_texts(
        written,
        train,
        held.texts.subset(chosen),
        judge=judge,
        tokenizer=model.codec.tokenizer,
        classifier=classifier,
        embed=network or False,
        seed=seed,
    )

    rows = "".join(f"| {noise:g} | {got['tokens']:.2%} | {got['texts']:.2%} |\n" for noise, got in robust.items())
    noisy = f"| noise on the latents | token accuracy | exact matches |\n|---|---|---|\n{rows}"
    speed = f"{rate:.1f} texts a second on {device}, sampling {model.sampling | sampling}"
    text = f"{reconstruction.table()}\n{noisy}\n{figures.table()}\n{speed}\n"
    pairs = zip(held.texts.texts[:64], model.codec.tokenizer.decode(again[:64].tolist()), strict=True)
    write_text(out / "report.md", text)
    write_text(out / "samples.txt", "".join(f"{line}\n" for line in texts[:64]))
    write_text(out / "reconstructions.txt", "".join(f"{x}\n  {y}\n" for x, y in pairs))
    report = {
        "first_stage": reconstruction.to_dict(),
        "first_stage_under_noise": {str(noise): got for noise, got in robust.items()},
        "generated": figures.to_dict(),
        "texts_per_second": rate,
    }
    write_json(out / "report.json", report)
    return text


@torch.inference_mode()
def _reconstruct(model: LatentModel, texts: TokenSet, noise: float, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Ids (N, size) that come back from the latents of texts, with noise added to them."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, len(texts), AT_ONCE):
        z = model.first_stage.encode(texts.tensor(slice(start, start + AT_ONCE)).to(model.device))
        z = z + noise * torch.randn(z.shape, generator=generator).to(z.device)
        parts.append(model.first_stage.decode(z).cpu())
    return torch.cat(parts).numpy()


def _splits(model: LatentModel, data: str | None, root: str | Path | None) -> tuple[TextSet, TextSet]:
    """Training and held-out texts; by default those that the model was trained on."""
    name, root, on_corrupt = data_source(model, data, root)
    train, test = (load_texts(name, split, on_corrupt, root) for split in ("train", "test"))
    if train.class_names != model.class_names:
        raise LatentiaError(f"{train.name} has {train.num_classes} classes, not those {len(model.class_names)} learned")
    return train, test
