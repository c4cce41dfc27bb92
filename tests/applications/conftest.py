"""A tiny model of real digits, and the digits, for the tests that apply it."""

from pathlib import Path

import pytest

import latentia
from latentia.data import PictureSet, load_pictures
from latentia.model import LatentModel


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LatentModel:
    return latentia.load(tiny_model)


@pytest.fixture(scope="module")
def digits(_own_cache: None) -> PictureSet:
    return load_pictures("digits")
