"""The toy plug-ins, found by their entry points as an installed package is: a folder with a dist-info on the path."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentia.conditions import conditions
from latentia.diffusion.objectives import objectives
from latentia.modalities.registry import first_stages, modalities

TOYS = Path(__file__).parent / "toys"
TABLES = (conditions, objectives, modalities, first_stages)


@pytest.fixture(scope="module", autouse=True)
def _toys() -> Iterator[None]:
    """The toys are there in the tests of this folder alone."""
    sys.path.insert(0, str(TOYS))
    for table in TABLES:
        table.cache_clear()
    yield
    sys.path.remove(str(TOYS))
    for table in TABLES:
        table.cache_clear()
