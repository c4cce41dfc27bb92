import os
from pathlib import Path

import pytest

from latentia.files import cache_dir

REAL_PLACES = [cache_dir(), *([Path(os.environ["LATENTIA_DATA"])] if os.environ.get("LATENTIA_DATA") else [])]


@pytest.fixture
def real_places() -> list[Path]:
    """Folders in which this computer may hold the public data sets."""
    return REAL_PLACES


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for each test, and no data folder but what the test names."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LATENTIA_CACHE", str(folder))
    monkeypatch.delenv("LATENTIA_DATA", raising=False)
    return folder
