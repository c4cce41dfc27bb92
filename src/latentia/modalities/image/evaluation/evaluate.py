"""A picture model, all metrics: reconstructs, generates, measures, and writes a report with pictures beside it."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentia.errors import LatentiaError
from latentia.evaluation.source import data_source
from latentia.files import write_json, write_text
from latentia.metrics.checks import Pictures, check_alike, check_features
from latentia.metrics.distances import coverage, frechet_distance, kernel_distance
from latentia.metrics.report import Figure, Report, draw
from latentia.modalities.base import Evaluation
from latentia.modalities.image.grids import picture_grid, save_picture
from latentia.modalities.image.metrics.classifier import accuracy, classification_accuracy_score
from latentia.modalities.image.metrics.features import (
    IMAGENET_NAME,
    INCEPTION_NAME,
    FeatureNet,
    classifier_net,
    imagenet_net,
    inception_net,
)
from latentia.modalities.image.metrics.neighbours import FLOOR_QUANTILE, memorisation, neighbour_sheet, retrieval
from latentia.modalities.image.metrics.reconstruction import psnr, ssim
from latentia.modalities.image.pictures import PictureSet, levels_of
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.model import LatentModel
from latentia.randomness import seeded_numpy

FAR = 0.5  # share of a figure of real pictures, below which a set is far from them
SHEET_ROWS, SHEET_NEIGHBOURS, GRID = 16, 8, 64
NEIGHBOURS = 5  # of a point, which its ball reaches to, for coverage
SMALLEST_SET = NEIGHBOURS + 1
FURTHER = 5000  # pictures of a set for a second network, which is a large one
COVERED = 5000  # pictures whose neighbourhoods are compared: the time grows with the square of their number
ENOUGH_FRECHET, ENOUGH_CLOUD, ENOUGH_SCORE = 1000, 200, 500  # pictures of which the figures begin to mean something
COPIED = "share nearer than 99 % of test"
LOOKED_UP = 2000  # pictures whose nearest neighbours are compared: a median settles long before that


def evaluate_picture_model(model: LatentModel, out: Path, how: Evaluation) -> str:
    """Measures a model of pictures; see `Modality.evaluate`.

    The first stage is measured on the test split, the generator by `count` pictures of all classes equally often, or,
    where the model reads prompts, by one picture for each of the first `count` held-out captions. `how.more` may name
    `features`, the network whose features are compared: "classifier" (trained here; the model's own latents where there
    are no classes), "imagenet" (EfficientNet-Lite0) or "inception", the only one whose distance is a FID, with its
    `inception_weights`. Pictures in colour get a Fréchet distance of EfficientNet-Lite0's features beside those of
    another network, where the extra `imagenet` is there. `out` gets report.md, report.json, samples.png,
    reconstructions.png and neighbours.png (generated pictures beside their nearest training pictures).
    """
    train, test = _splits(model, how)
    how.say(f"data: {train.source}")
    require_enough(how.count, train, test)
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
    images = model.generate(labels, captions=captions, seed=how.seed, progress=True, **how.sampling)
    rate = count / (time.perf_counter() - started)
    generated = PictureSet(images, labels if classes else None, model.class_names, "generated pictures", "Generated.")
    options: dict[str, Any] = {"seed": how.seed, "device": how.device, "progress": True}
    second, notes = _second_net(train, network, how)
    figures = evaluate_pictures(generated, train, test, feature_net=network, also=second, score=classes > 0, **options)
    figures = replace(figures, notes=(*figures.notes, *notes))
    if captions is not None:
        figures = _with_retrieval(figures, network, images, test.images[:count], reconstructed[:count])
    columns = classes if 2 < classes <= 16 else None
    save_picture(picture_grid(images[: (GRID // columns) * columns if columns else GRID], columns), out / "samples.png")
    save_picture(neighbour_sheet(images[:SHEET_ROWS], train.images, SHEET_NEIGHBOURS), out / "neighbours.png")
    both = np.concatenate([test.images[:16], reconstructed[:16]])  # reconstructions under their originals
    save_picture(picture_grid(both, min(16, len(test))), out / "reconstructions.png")
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
    if train.labels is not None:
        return classifier_net(train, test, seed=how.seed, device=how.device, progress=True)

    def latents(images: Pictures) -> NDArray[np.float32]:
        parts = [model.encode(images[i : i + 256]).flatten(1).cpu().numpy() for i in range(0, len(images), 256)]
        return np.concatenate(parts)

    return FeatureNet(f"latents of the model's own {type(model.first_stage).__name__}", latents)


def _second_net(train: PictureSet, first: FeatureNet, how: Evaluation) -> tuple[list[FeatureNet], list[str]]:
    """ImageNet's features for colour pictures that are measured by others, and a note where they are not installed."""
    if train.channels == 1 or first.name in (IMAGENET_NAME, INCEPTION_NAME):
        return [], []
    try:
        return [imagenet_net(device=how.device)], []
    except LatentiaError as error:
        return [], [str(error)]


def _with_retrieval(
    report: Report, network: FeatureNet, made: Pictures, real: Pictures, reconstructed: Pictures
) -> Report:
    """The report and how often a picture drawn from a caption is nearest to the one that has this caption."""
    features, floor, targets = (network.extract(images) for images in (made, reconstructed, real))
    figures = []
    for k in (1, 5) if len(made) >= 5 else (1,):
        of = retrieval(features, targets, k), retrieval(floor, targets, k)
        figures.append(Figure(f"retrieval of the captioned picture, top {k}", *of, "higher", len(made)))
    note = f"retrieval: among {len(real)} held-out pictures, chance {1 / len(real):.2%}; reference: reconstructions"
    return replace(report, figures=(*report.figures, *figures), notes=(*report.notes, note))


def _splits(model: LatentModel, how: Evaluation) -> tuple[PictureSet, PictureSet]:
    """Train and test pictures at the model's size; by default those that the model was trained on."""
    name, root, on_corrupt = data_source(model, how)
    levels = levels_of(model.training)
    train, test = (
        load_pictures(name, split, model.codec.size, on_corrupt, root, levels) for split in ("train", "test")
    )
    if train.channels != model.first_stage.config["in_channels"] or train.class_names != model.class_names:
        held, asked = (", ".join(names) or "none" for names in (train.class_names, model.class_names))
        trained = f"the model was trained for {model.first_stage.config['in_channels']} and {asked}"
        raise LatentiaError(f"{train.name} has {train.channels} channels, classes {held}; {trained}")
    return train, test


def evaluate_pictures(
    generated: PictureSet,
    train: PictureSet,
    test: PictureSet,
    *,
    feature_net: FeatureNet,
    also: Sequence[FeatureNet] = (),
    seed: int = 0,
    score: bool = True,
    **how: Any,
) -> Report:
    """Measures generated pictures against the training set, and as many unseen test pictures likewise.

    n = min(len(generated), len(test)) pictures are drawn from both with `seed`, so that each figure and its reference
    are biased alike. Fréchet and kernel distance are to the whole training set, coverage is to as many training
    pictures, at most 5000. The networks `also` give a Fréchet distance more each, of 5000 pictures of each set at most.
    With labels, the requested classes, the report has the share that a classifier network
    agrees with and, with `score`, the classification accuracy score (`how`: arguments of `train_classifier`).
    Raises LatentiaError where sets differ in size, channels or classes or have fewer than 6 pictures.
    """
    check_alike("generated pictures", generated.images, train.name, train.images)
    check_alike(train.name, train.images, test.name, test.images)
    labelled = generated.labels is not None
    if labelled and not generated.class_names == train.class_names == test.class_names:
        raise LatentiaError(f"{generated.name}, {train.name} and {test.name} do not name the same classes")
    generator = seeded_numpy(seed, "subsets")
    n = min(len(generated), len(test))
    require_enough(len(generated), train, test)
    made, unseen = draw(generated, n, generator), draw(test, n, generator)
    figures = _distance_figures(made, train, unseen, feature_net, generator)
    figures += [_further_distance(net, made, train, unseen, generator) for net in also]
    figures += _agreement_figure(feature_net, made, unseen)
    if score and labelled:
        cas = classification_accuracy_score(generated, train, test, seed=seed, **how)
        name = "classification accuracy score"
        figures.append(Figure(name, cas.generated, cas.real, "higher", cas.n, enough=ENOUGH_SCORE))
    few = min(n, LOOKED_UP)
    made, unseen = (draw(part, few, generator) for part in (made, unseen))
    memory, near = memorisation(made.images, train.images, unseen.images), "near reference"
    figures += [
        Figure("pixel distance to nearest training picture", memory.generated, memory.test, near, few),
        Figure(COPIED, memory.share_below_floor, FLOOR_QUANTILE, near, few),
    ]
    reference = "the same figure for as many real test pictures (accuracy score: for real training pictures)"
    title = f"{generated.name} against {train.name}"
    return Report(title, reference, feature_net.name, feature_net.accuracy, tuple(figures), (verdict(figures),))


def require_enough(count: int, train: PictureSet, test: PictureSet) -> None:
    """Raises LatentiaError where a set is too small for any figure."""
    if min(count, len(train), len(test)) < SMALLEST_SET:
        sizes = f"generated has {count}, train {len(train)}, test {len(test)}"
        raise LatentiaError(f"each set needs at least {SMALLEST_SET} pictures: {sizes}")


def verdict(figures: Sequence[Figure]) -> str:
    """What the figures say together, in one line: a single good one, such as precision, may be that of rubbish."""
    by_name = {figure.name: figure for figure in figures}
    far = []
    if (seen := by_name.get("label agreement")) and seen.value < FAR * seen.reference:
        far.append(f"the classifier recognises {seen.value:.0%} of the classes, {seen.reference:.0%} of real pictures")
    for name in ("recall", "coverage"):
        if by_name[name].value < FAR * by_name[name].reference:
            far.append(f"{name} is {by_name[name].value:.2g}, {by_name[name].reference:.2g} of real pictures")
    copied = by_name[COPIED].value
    if copied > FAR:
        far.append(f"{copied:.0%} are nearer to a training picture than 99 % of real ones: copies")
    few = [figure.name for figure in figures if figure.n < figure.enough]
    if not far and {"recall", "coverage"} <= set(few):
        return f"verdict: too few pictures for one (for {', '.join(few)})"
    caution = f" (too few pictures for {', '.join(few)})" if few else ""
    if far:
        return f"verdict: far from the data: {'; '.join(far)}{caution}"
    return f"verdict: no figure is far from that of real pictures{caution}"


def evaluate_reconstruction(original: PictureSet, reconstructed: Pictures, feature_net: FeatureNet) -> Report:
    """PSNR, SSIM and the Fréchet distance (rFID with Inception) of reconstructed pictures.

    `reconstructed` is uint8 (N, H, W, C), the pictures of `original` in the same order. A classifier network adds how
    many keep their label. Raises LatentiaError where the shapes differ.
    """
    n = len(original)
    figures = [
        Figure("PSNR (dB)", psnr(original.images, reconstructed), math.inf, "higher", n),
        Figure("SSIM", ssim(original.images, reconstructed), 1.0, "higher", n),
    ]
    name = "rFID" if feature_net.frechet_name == "FID" else feature_net.frechet_name
    distance = frechet_distance(feature_net.extract(original.images), feature_net.extract(reconstructed))
    figures.append(Figure(name, distance, 0.0, "lower", n))
    figures += _agreement_figure(feature_net, replace(original, images=reconstructed), original)
    title, reference = f"reconstructions of {original.name}", "the originals themselves"
    return Report(title, reference, feature_net.name, feature_net.accuracy, tuple(figures))


def _distance_figures(
    made: PictureSet, train: PictureSet, unseen: PictureSet, feature_net: FeatureNet, generator: np.random.Generator
) -> list[Figure]:
    n = len(made)
    real, fake, floor = (
        check_features(f"{feature_net.name} of {part.name}", feature_net.extract(part.images))
        for part in (train, made, unseen)
    )
    kernel, kernel_floor = (kernel_distance(real, other, generator=generator) for other in (fake, floor))
    clouds = min(n, COVERED)  # coverage compares two clouds of one density
    sample, *others = (part[generator.permutation(len(part))[:clouds]] for part in (real, fake, floor))
    covered, covered_floor = (coverage(sample, other, NEIGHBOURS)._asdict() for other in others)
    return [
        Figure(
            feature_net.frechet_name,
            frechet_distance(real, fake),
            frechet_distance(real, floor),
            "lower",
            n,
            enough=ENOUGH_FRECHET,
        ),
        Figure("kernel distance", kernel.mean, kernel_floor.mean, "lower", n, kernel.std, ENOUGH_CLOUD),
        *(
            Figure(name, value, covered_floor[name], "higher", clouds, enough=ENOUGH_CLOUD)
            for name, value in covered.items()
        ),
    ]


def _further_distance(
    net: FeatureNet, made: PictureSet, train: PictureSet, unseen: PictureSet, generator: np.random.Generator
) -> Figure:
    n = min(len(made), FURTHER)
    real, fake, floor = (net.extract(draw(part, min(n, len(part)), generator).images) for part in (train, made, unseen))
    distances = frechet_distance(real, fake), frechet_distance(real, floor)
    return Figure(f"{net.frechet_name} of {net.name}", *distances, "lower", n, enough=ENOUGH_FRECHET)


def _agreement_figure(feature_net: FeatureNet, made: PictureSet, real: PictureSet) -> list[Figure]:
    """How often the network sees the requested class, beside how often it is right on real pictures."""
    if feature_net.classifier is None or made.labels is None or real.labels is None:
        return []
    share = accuracy(feature_net.classifier, made.images, made.labels)
    right = accuracy(feature_net.classifier, real.images, real.labels)
    return [Figure("label agreement", share, right, "higher", len(made))]
