"""Repair by a latent diffusion model beside classical methods, on test pictures.

    python benchmarks/repair.py MODEL [--inpainter MODEL] [--count 500] [--tasks …] [--methods …] [--out FOLDER]

MODEL is a model folder trained on the data; it is told no class, but for a row that says so. The inpainter is one that
`latentia train --task inpaint` has made; of its draws the first is taken, the most typical of eight, and one that is
told, and guided towards, the class that a classifier sees in the visible part. That one is trained on training pictures
hidden likewise. The Fréchet distance and the accuracy are by the repo's classifier, trained on the real training split.
The first row of each task is the picture as it was, the second what was given. Total variation and Richardson-Lucy run
at the strength, of several, that gives these very pictures their best PSNR, which no user could know. Writes a sheet of
each task into FOLDER: what was, what was given, then each method.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from peers import machine
from skimage.restoration import denoise_tv_chambolle, richardson_lucy

from latentia.metrics.distances import frechet_distance
from latentia.modalities.image.applications.repair import NOISE_STD, Method, inpaint, most_typical, restore
from latentia.modalities.image.degrade import Degradation, blur, cover, gaussian_kernel, keep_all, motion_kernel, shrink
from latentia.modalities.image.evaluation.label import guess_classes
from latentia.modalities.image.grids import picture_grid, save_png
from latentia.modalities.image.metrics.classifier import accuracy, classifier_features, trained_classifier
from latentia.modalities.image.metrics.reconstruction import psnr, ssim
from latentia.modalities.image.pictures import PictureSet, to_float, to_uint8
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.model import LatentModel, load

Pictures = NDArray[np.uint8]
Masks = NDArray[np.bool_]
Labels = NDArray[np.int64]

NOISE = 25.5  # grey levels, a tenth of the range
BLOCK = 4  # pixels: side of the blocks of the 50 % mask
SHOWN = 10


def quarter(images: Pictures) -> Masks:
    """A square of half the side, a quarter of the picture, anywhere."""
    count, size = images.shape[:2]
    generator, masks = np.random.default_rng(0), np.zeros(images.shape[:3], bool)
    for mask, (top, left) in zip(masks, generator.integers(0, size - size // 2 + 1, (count, 2)), strict=True):
        mask[top : top + size // 2, left : left + size // 2] = True
    return masks


def scattered(images: Pictures) -> Masks:
    """Half of all blocks."""
    count, size = images.shape[:2]
    across = -(-size // BLOCK)
    order = np.random.default_rng(0).random((count, across * across)).argsort(1)
    blocks = (order < across * across / 2).reshape(count, across, across)
    return blocks.repeat(BLOCK, 1).repeat(BLOCK, 2)[:, :size, :size]


def lower_half(images: Pictures) -> Masks:
    masks = np.zeros(images.shape[:3], bool)
    masks[:, images.shape[1] // 2 :] = True
    return masks


MASKS: dict[str, Callable[[Pictures], Masks]] = {
    "square, 25 %": quarter,
    "blocks, 50 %": scattered,
    "lower half": lower_half,
}
KERNELS = {"deblur, 1.5 pixels": gaussian_kernel(1.5), "motion deblur, 7 pixels": motion_kernel(7, 30)}
DEGRADATIONS: dict[str, Degradation] = {
    "enlarge ×2": shrink(2),
    "enlarge ×4": shrink(4),
    **{task: blur(kernel) for task, kernel in KERNELS.items()},
    "denoise, 25.5 levels": keep_all,
}


def by_opencv(images: Pictures, masks: Masks, method: int) -> Pictures:
    repaired = [
        cv2.inpaint(np.ascontiguousarray(image), mask.astype(np.uint8), 3, method)
        for image, mask in zip(images, masks, strict=True)
    ]
    return np.stack(repaired).reshape(images.shape)


def by_bicubic(given: Pictures, size: int) -> Pictures:
    large = [cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC) for image in given]
    return np.stack(large).reshape(len(given), size, size, -1)


def best_psnr(images: Pictures, tries: Iterable[Pictures]) -> Pictures:
    return max(tries, key=lambda made: psnr(images, made))


def by_total_variation(given: Pictures, images: Pictures) -> Pictures:
    def run(weight: float) -> Pictures:
        made = [denoise_tv_chambolle(image / 255.0, weight=weight, channel_axis=-1) for image in given]
        return np.rint(255 * np.stack(made)).astype(np.uint8)

    return best_psnr(images, map(run, (0.03, 0.06, 0.1, 0.15, 0.25)))


def by_richardson_lucy(given: Pictures, images: Pictures, kernel: NDArray[np.float32]) -> Pictures:
    def run(turns: int) -> Pictures:
        made = [richardson_lucy(image[..., 0] / 255.0, kernel, num_iter=turns, filter_epsilon=1e-3) for image in given]
        return np.rint(255 * np.clip(np.stack(made), 0, 1)).astype(np.uint8)[..., None]

    return best_psnr(images, map(run, (3, 5, 10, 20, 40)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--inpainter", type=Path)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tasks", nargs="+", choices=[*MASKS, *DEGRADATIONS], default=[*MASKS, *DEGRADATIONS])
    parser.add_argument("--methods", nargs="+", default=[""], help="only those whose names hold one of these words")
    parser.add_argument("--out", type=Path, default=Path("repair"))
    arguments = parser.parse_args()
    print(machine())
    model = load(arguments.model)
    inpainter = load(arguments.inpainter) if arguments.inpainter else None
    train, test = (load_pictures(arguments.data, split) for split in ("train", "test"))
    assert test.labels is not None
    rows = np.random.default_rng(0).permutation(len(test))[: arguments.count]
    images, labels = test.images[rows], test.labels[rows]
    nobody = np.full(len(rows), len(model.class_names))
    classifier = trained_classifier(train, progress=True)
    features = classifier_features(classifier, images)
    print(f"{arguments.data}, {len(rows)} test pictures; classifier's accuracy on {len(test)}: ", end="")
    print(f"{accuracy(classifier, test.images, test.labels):.3f}; {arguments.steps} steps\n")
    print("| task | method | PSNR | SSIM | Fréchet (classifier) | accuracy | s/picture |")
    print("|---|---|---|---|---|---|---|")

    def report(task: str, method: str, made: Pictures, seconds: float) -> None:
        figures = f"{psnr(images, made):.2f} | {ssim(images, made):.3f}" if method != "the pictures" else "∞ | 1"
        distance = frechet_distance(features, classifier_features(classifier, made))
        took = f"{seconds / len(made):.3f}" if seconds else ""
        right = accuracy(classifier, made, labels)
        print(f"| {task} | {method} | {figures} | {distance:.2f} | {right:.3f} | {took} |", flush=True)

    def compare(task: str, given: Pictures, methods: dict[str, Callable[[], Pictures]]) -> None:
        report(task, "the pictures", images, 0.0)
        report(task, "as given", given, 0.0)
        sheet = [images[:SHOWN], given[:SHOWN]]
        for name, run in methods.items():
            if not any(word in name for word in arguments.methods):
                continue
            started = time.perf_counter()
            made = run()
            report(task, name, made, time.perf_counter() - started)
            sheet.append(made[:SHOWN])
        name = "".join(letter if letter.isalnum() else "-" for letter in task)
        save_png(picture_grid(np.concatenate(sheet), columns=SHOWN, scale=2), arguments.out / f"{name}.png")

    for task in [task for task in arguments.tasks if task in MASKS]:
        masks = MASKS[task](images)
        shown = cover(images, masks)
        compare(task, shown, inpainters(model, inpainter, shown, masks, nobody, train, arguments.steps))
    size = model.codec.size
    for task in [task for task in arguments.tasks if task in DEGRADATIONS]:
        degradation = DEGRADATIONS[task]
        degraded = degradation(to_float(images))
        if degradation is keep_all:
            generator = torch.Generator().manual_seed(0)
            degraded = degraded + NOISE / 127.5 * torch.randn(degraded.shape, generator=generator)
        small = to_uint8(degraded)
        factor = size // small.shape[1]
        given = small.repeat(factor, 1).repeat(factor, 2)
        methods: dict[str, Callable[[], Pictures]] = {}
        if factor > 1:
            methods["bicubic"] = partial(by_bicubic, small, size)
        elif task in KERNELS:
            methods["Richardson-Lucy"] = partial(by_richardson_lucy, given, images, KERNELS[task].numpy())
        else:
            methods["total variation"] = partial(by_total_variation, given, images)
        std = NOISE / 127.5 if degradation is keep_all else NOISE_STD
        options = {"noise_std": std, "steps": arguments.steps, "progress": True}
        methods["ours, posterior"] = partial(restore, model, degraded, degradation, nobody, **options)
        compare(task, given, methods)


def inpainters(
    model: LatentModel,
    trained: LatentModel | None,
    shown: Pictures,
    masks: Masks,
    nobody: Labels,
    train: PictureSet,
    steps: int,
) -> dict[str, Callable[[], Pictures]]:
    def by(model: LatentModel, seed: int = 0, method: Method | None = None, labels: Labels = nobody) -> Pictures:
        return inpaint(model, shown, masks, labels, method=method, steps=steps, seed=seed, progress=True)

    methods: dict[str, Callable[[], Pictures]] = {
        "OpenCV, Telea": lambda: by_opencv(shown, masks, cv2.INPAINT_TELEA),
        "OpenCV, Navier-Stokes": lambda: by_opencv(shown, masks, cv2.INPAINT_NS),
        "ours, RePaint": lambda: by(model, method="repaint"),
        "ours, posterior": lambda: by(model),
    }
    if trained is not None:
        methods["ours, trained"] = lambda: by(trained)
        methods["ours, trained, most typical of 8"] = lambda: most_typical([by(trained, seed) for seed in range(8)])
        methods["ours, trained, told the guessed class"] = lambda: by(
            trained, labels=guess_classes(trained, train, shown, masks, progress=True)
        )
    return methods


if __name__ == "__main__":
    main()
