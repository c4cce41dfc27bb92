"""A picture model, all metrics: reconstructs, generates, measures, and writes a report with pictures beside it."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentia.errors import LatentiaError
from latentia.evaluation.source import data_source
from latentia.files import write_json, write_text
from latentia.metrics.report import Figure, Report
from latentia.modalities.base import Evaluation
from latentia.modalities.image.grids import picture_grid, save_png
from latentia.modalities.image.metrics.features import FeatureNet, classifier_net, imagenet_net, inception_net
from latentia.modalities.image.metrics.neighbours import neighbour_sheet, retrieval
from latentia.modalities.image.metrics.report import evaluate_pictures, evaluate_reconstruction
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.model import LatentModel

SHEET_ROWS, SHEET_NEIGHBOURS, GRID = 16, 8, 64


def evaluate_picture_model(model: LatentModel, out: Path, how: Evaluation) -> str:
    """Measures a model of pictures; see `Modality.evaluate`.

    The first stage is measured on the test split, the generator by `count` pictures of all classes equally often, or,
    where the model reads prompts, by one picture for each of the first `count` held-out captions. `how.more` may name
    `features`, the network whose features are compared: "classifier" (trained here; the model's own latents where there
    are no classes), "imagenet" (EfficientNet-Lite0) or "inception", the only one whose distance is a FID, with its
    `inception_weights`. `out` gets report.md, report.json, samples.png, reconstructions.png and neighbours.png
    (generated pictures beside their nearest training pictures).
    """
    train, test = _splits(model, how)
    how.say(f"data: {train.source}")
    network = _feature_net(model, train, test, how)
    batches = [model.decode(model.encode(test.images[i : i + 256])) for i in range(0, len(test), 256)]
    reconstructed = np.concatenate(batches)
    reconstruction = evaluate_reconstruction(test, reconstructed, network)

    count, classes, captions = how.count, len(model.class_names), None
    if model.condition("prompt") is not None and test.captions is not None:
        captions = [caption.splitlines()[0] for caption in test.captions[:count]]
        count = len(captions)
    labels = np.arange(count) % classes if classes else np.zeros(count, np.int64)
    started = time.perf_counter()
    images = model.generate(labels, prompts=captions, seed=how.seed, progress=True, **how.sampling)
    rate = count / (time.perf_counter() - started)
    generated = PictureSet(images, labels if classes else None, model.class_names, "generated pictures", "Generated.")
    options: dict[str, Any] = {"seed": how.seed, "device": how.device, "progress": True}
    figures = evaluate_pictures(generated, train, test, feature_net=network, score=classes > 0, **options)
    if captions is not None:
        figures = _with_retrieval(figures, network, images, test.images[:count], reconstructed[:count])
    _write_sheets(out, images, train, test, reconstructed, classes)
    speed = f"{rate:.1f} pictures a second on {how.device}, sampling {model.sampling | dict(how.sampling)}"
    text = f"{reconstruction.table()}\n{figures.table()}\n{speed}\n"
    write_text(out / "report.md", text)
    report = {"first_stage": reconstruction.to_dict(), "generated": figures.to_dict(), "pictures_per_second": rate}
    write_json(out / "report.json", report)
    return text


def _feature_net(model: LatentModel, train: PictureSet, test: PictureSet, how: Evaluation) -> FeatureNet:
    features = how.more.get("features", "classifier")
    if features == "inception":
        return inception_net(how.more.get("inception_weights"), device=how.device)
    if features == "imagenet":
        return imagenet_net(device=how.device)
    if train.labels is None:
        return latent_net(model)
    return classifier_net(train, test, seed=how.seed, device=how.device, progress=True)


def _write_sheets(
    out: Path,
    images: NDArray[np.uint8],
    train: PictureSet,
    test: PictureSet,
    reconstructed: NDArray[np.uint8],
    classes: int,
) -> None:
    """Samples, their nearest training pictures, and reconstructions under their originals."""
    sheet = images[:SHEET_ROWS]
    columns = classes if 2 < classes <= 16 else None
    save_png(picture_grid(images[: (GRID // columns) * columns if columns else GRID], columns), out / "samples.png")
    save_png(neighbour_sheet(sheet, train.images, SHEET_NEIGHBOURS), out / "neighbours.png")
    both = np.concatenate([test.images[:16], reconstructed[:16]])
    save_png(picture_grid(both, min(16, len(test))), out / "reconstructions.png")


def latent_net(model: LatentModel) -> FeatureNet:
    """The model's own latents as features, for sets that have no classes to train a network on."""

    def extract(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = [model.encode(images[i : i + 256]).flatten(1).cpu().numpy() for i in range(0, len(images), 256)]
        return np.concatenate(parts)

    return FeatureNet(f"latents of the model's own {type(model.first_stage).__name__}", extract)


def _with_retrieval(
    report: Report,
    network: FeatureNet,
    made: NDArray[np.uint8],
    real: NDArray[np.uint8],
    reconstructed: NDArray[np.uint8],
) -> Report:
    """The report and how often a picture drawn from a caption is nearest to the one that has this caption."""
    features, floor, targets = (network.extract(images) for images in (made, reconstructed, real))
    figures = tuple(
        Figure(
            f"retrieval of the captioned picture, top {k}",
            retrieval(features, targets, k),
            retrieval(floor, targets, k),
            "higher",
            len(made),
        )
        for k in (1, 5)
        if k <= len(made)
    )
    note = f"retrieval: among {len(real)} held-out pictures, chance {1 / len(real):.2%}; reference: reconstructions"
    return replace(report, figures=(*report.figures, *figures), notes=(*report.notes, note))


def _splits(model: LatentModel, how: Evaluation) -> tuple[PictureSet, PictureSet]:
    """Train and test pictures at the model's size; by default those that the model was trained on."""
    name, root, on_corrupt = data_source(model, how)
    train, test = (load_pictures(name, split, model.codec.size, on_corrupt, root) for split in ("train", "test"))
    if train.channels != model.first_stage.config["in_channels"] or train.class_names != model.class_names:
        raise LatentiaError(
            f"{train.name} has {train.channels} channels, classes {', '.join(train.class_names) or 'none'}; the model "
            f"was trained for {model.first_stage.config['in_channels']} and {', '.join(model.class_names) or 'none'}"
        )
    return train, test
