"""A tiny model of real digits, and the digits, for the tests that apply it."""

import copy
from pathlib import Path

import pytest
import torch

import latentia
from latentia.modalities.image.metrics.classifier import PictureClassifier
from latentia.modalities.image.pictures import PictureSet
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.model import LatentModel


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LatentModel:
    return latentia.load(tiny_model)


@pytest.fixture(scope="module")
def digits(_own_cache: None) -> PictureSet:
    return load_pictures("digits")


@pytest.fixture(scope="session")
def misled(classifier: PictureClassifier) -> PictureClassifier:
    """The same, but each digit counts as the next one."""
    other = copy.deepcopy(classifier)
    with torch.no_grad():
        for value in (other.head.weight, other.head.bias):
            value.copy_(value.roll(1, 0))
    return other
