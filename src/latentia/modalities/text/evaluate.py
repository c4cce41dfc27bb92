"""A text model, all metrics: reconstructs under noise, writes, measures against held-out texts, and reports."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from latentia.errors import LatentiaError
from latentia.evaluation.source import data_source
from latentia.files import write_json, write_text
from latentia.language.tokenizer import token_matrix
from latentia.metrics.report import Report
from latentia.modalities.base import Evaluation
from latentia.modalities.text.metrics.classifier import train_text_classifier
from latentia.modalities.text.metrics.judge import trained_judge
from latentia.modalities.text.metrics.report import (
    SMALLEST_MAUVE_SET,
    SentenceNet,
    evaluate_text_reconstruction,
    evaluate_texts,
    sentence_net,
    token_agreement,
)
from latentia.modalities.text.readers.corpora import load_texts
from latentia.modalities.text.texts import TextSet
from latentia.model import LatentModel
from latentia.randomness import normal, seeded, seeded_numpy

AT_ONCE = 256
JUDGE_STEPS = 2000
NOISES = (0.0, 0.25, 0.5, 0.75, 1.0)  # standard deviations added to normalised latents


def evaluate_text_model(model: LatentModel, out: Path, how: Evaluation) -> str:
    """Measures a model of texts; see `Modality.evaluate`.

    The first stage is measured on the held-out texts, also with noise on its latents. The generator writes `count`
    texts, at most as many as are held out, of the classes of those. `how.more` may name `judge_steps`, updates of
    the language model that measures the perplexity. `out` gets report.md, report.json, samples.txt and
    reconstructions.txt.
    """
    codec: Any = model.codec
    name, root, on_corrupt = data_source(model, how)
    train, test = (load_texts(name, split, on_corrupt, root) for split in ("train", "test"))
    if train.class_names != model.class_names:
        raise LatentiaError(f"{train.name} has {train.num_classes} classes, not those {len(model.class_names)} learned")
    how.say(f"data: {train.source}")
    ids, kept, _ = token_matrix(codec.tokenizer, test.texts, codec.size, "skip")
    held = test.subset(kept)
    again = _reconstruct(model, ids, 0.0, how.seed)
    reconstruction = evaluate_text_reconstruction(held, again, ids, tokenizer=codec.tokenizer)
    decoded = {noise: _reconstruct(model, ids, noise, how.seed) if noise else again for noise in NOISES}
    robust = {noise: token_agreement(made, ids)._asdict() for noise, made in decoded.items()}
    texts, rate, figures = _written(model, train, held, how)

    rows = "".join(f"| {noise:g} | {got['tokens']:.2%} | {got['texts']:.2%} |\n" for noise, got in robust.items())
    noisy = f"| noise on the latents | token accuracy | exact matches |\n|---|---|---|\n{rows}"
    speed = f"{rate:.1f} texts a second on {how.device}, sampling {model.sampling | dict(how.sampling)}"
    text = f"{reconstruction.table()}\n{noisy}\n{figures.table()}\n{speed}\n"
    pairs = zip(held.texts[:64], codec.tokenizer.decode(again[:64].tolist()), strict=True)
    write_text(out / "report.md", text)
    write_text(out / "samples.txt", "".join(f"{line}\n" for line in texts[:64]))
    write_text(out / "reconstructions.txt", "".join(f"{x}\n  {y}\n" for x, y in pairs))
    first, under_noise = reconstruction.to_dict(), {str(noise): got for noise, got in robust.items()}
    report = {"first_stage": first, "first_stage_under_noise": under_noise, "generated": figures.to_dict()}
    write_json(out / "report.json", report | {"texts_per_second": rate})
    return text


def _written(model: LatentModel, train: TextSet, held: TextSet, how: Evaluation) -> tuple[list[str], float, Report]:
    """New texts, how many a second, and their figures."""
    codec: Any = model.codec
    judge = trained_judge(
        train,
        codec.tokenizer,
        max_tokens=codec.size,
        steps=how.more.get("judge_steps", JUDGE_STEPS),
        device=how.device,
        progress=True,
    )
    classifier = train_text_classifier(train, seed=how.seed) if train.num_classes > 1 else None
    chosen = seeded_numpy(how.seed, "held-out texts").permutation(len(held))[: how.count]
    network: SentenceNet | None = None
    try:
        network = sentence_net() if len(chosen) >= SMALLEST_MAUVE_SET else None
    except LatentiaError as error:
        how.say(f"no sentence embeddings: {error}")
    labels = np.zeros(len(chosen), np.int64) if held.labels is None else held.labels[chosen]
    started = time.perf_counter()
    texts: list[str] = model.generate(labels, seed=how.seed, progress=True, **how.sampling)
    rate = len(texts) / (time.perf_counter() - started)
    written = TextSet(tuple(texts), None if held.labels is None else labels, model.class_names, "generated texts", "")
    figures = evaluate_texts(
        written,
        train,
        held.subset(chosen),
        judge=judge,
        tokenizer=codec.tokenizer,
        classifier=classifier,
        network=network,
        seed=how.seed,
    )
    return texts, rate, figures


@torch.inference_mode()
def _reconstruct(model: LatentModel, ids: NDArray[np.int32], noise: float, seed: int) -> NDArray[np.int64]:
    """Ids (N, size) decoded from the latents of texts, with noise added to them."""
    generator = seeded(seed, "noise on latents")
    parts = []
    for start in range(0, len(ids), AT_ONCE):
        z = model.first_stage.encode(torch.from_numpy(ids[start : start + AT_ONCE].astype(np.int64)).to(model.device))
        z = z + noise * normal(z.shape, generator).to(z.device)
        parts.append(model.first_stage.decode(z).cpu())
    return torch.cat(parts).numpy()
