"""The latent cache: what it holds, how it goes on after a stop, and what it refuses to believe."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from latentia.errors import LatentiaError
from latentia.items import ItemSet, joined
from latentia.latents import cache
from latentia.latents.cache import JoinedCache, LatentCache, build_latent_cache, cached_latents
from latentia.modalities.image.first_stage.kl import AutoencoderKL
from latentia.modalities.image.items import mirrored, picture_items
from latentia.modalities.image.pictures import PictureSet, to_float


def make_pictures(count: int = 21, seed: int = 0, labelled: bool = True, width: int = 8) -> PictureSet:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 8, width, 1), dtype=np.uint8)
    labels = rng.integers(0, 3, count) if labelled else None
    return PictureSet(images, labels, ("a", "b", "c") if labelled else (), "test", "made by a test")


def make_items(views: int = 1, **how) -> ItemSet:
    items = picture_items(make_pictures(**how))
    return items if views == 1 else mirrored(items)


def make_model(seed: int = 0) -> AutoencoderKL:
    torch.manual_seed(seed)
    model = AutoencoderKL(latent_channels=2, channels=(4, 8))
    model.latent_std.fill_(0.5)
    return model


def build(folder: Path, model: AutoencoderKL | None = None, items: ItemSet | None = None, **options) -> LatentCache:
    options = {"batch_size": 4, "progress": False} | options
    return build_latent_cache(model or make_model(), items or make_items(), folder, **options)


def only_folder(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """The sizes of the batches that were encoded."""
    sizes: list[int] = []
    encode = AutoencoderKL.encode

    def counting(self, x):
        sizes.append(len(x))
        return encode(self, x)

    monkeypatch.setattr(AutoencoderKL, "encode", counting)
    return sizes


@pytest.mark.parametrize("views", [1, 2])
def test_rows_are_what_encode_gives(views, tmp_path):
    model, pictures = make_model(), make_pictures()
    held = build(tmp_path, model, make_items(views))
    rows = torch.tensor([20, 3, 3, 0])
    x = to_float(pictures.images)[rows]
    z = held.batch(rows)
    torch.testing.assert_close(z, model.encode(x).detach(), rtol=1e-5, atol=1e-5)
    assert z.dtype == torch.float32
    assert torch.equal(z, held.batch(rows, ["plain"] * 4))
    assert (len(held), held.latents.shape[1:]) == (21, (views, 2, 4, 4))
    flipped = torch.tensor([True, False, True, False])
    names = ["mirror" if one else "plain" for one in flipped]
    if views == 2:
        x_mixed = torch.where(flipped[:, None, None, None], x.flip(-1), x)
        torch.testing.assert_close(held.batch(rows, names), model.encode(x_mixed).detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(held.batch(rows, "mirror"), model.encode(x.flip(-1)).detach(), rtol=1e-5, atol=1e-5)
    for view in (names, "gap"):
        if views == 1 or view == "gap":
            with pytest.raises(LatentiaError, match=r"latent cache has no view '(mirror|gap)', only plain"):
                held.batch(rows, view)


def test_parts_of_other_sizes_are_one_cache(tmp_path):
    model = make_model()
    parts = [picture_items(make_pictures()), picture_items(make_pictures(count=5, seed=1, width=12))]
    held = cached_latents(model, joined(parts, 8), tmp_path, progress=False)
    assert isinstance(held, JoinedCache)
    assert len(held) == 26
    assert held.part_of.tolist() == [0] * 21 + [1] * 5
    assert held.batch(torch.tensor([20, 0])).shape == (2, 2, 4, 4)
    wide = held.batch(torch.tensor([25, 21]))
    x = parts[1].tensor(np.array([4, 0]))
    torch.testing.assert_close(wide, model.encode(x).detach(), rtol=1e-5, atol=1e-5)
    assert wide.shape == (2, 2, 4, 6)
    with pytest.raises(LatentiaError, match="of 2 parts of a latent cache"):
        held.batch(torch.tensor([20, 21]))
    for rows in ([26], [-1]):
        with pytest.raises(LatentiaError, match="latent cache of 26"):
            held.batch(torch.tensor(rows))
    assert isinstance(cached_latents(model, parts[0], tmp_path, progress=False), LatentCache)


@pytest.mark.parametrize("rows", [[21], [-1]])
def test_rows_that_do_not_exist_are_refused(rows, tmp_path):
    with pytest.raises(LatentiaError, match="latent cache of 21"):
        build(tmp_path).batch(torch.tensor(rows))


def test_a_finished_cache_is_only_opened(tmp_path, encoded):
    first = build(tmp_path).latents.tobytes()
    assert encoded == [4, 4, 4, 4, 4, 1]
    again = build(tmp_path)
    assert len(encoded) == 6
    assert again.latents.tobytes() == first


def test_the_first_stage_keeps_its_mode(tmp_path):
    model = make_model().train()
    build(tmp_path, model)
    assert model.training


@pytest.mark.parametrize("views", [1, 2])
def test_an_interrupted_cache_goes_on_and_ends_with_the_same_bytes(views, tmp_path, encoded, monkeypatch):
    whole = build(tmp_path / "whole", items=make_items(views)).latents.tobytes()
    encode_views = cache.encode_views

    def interrupted(first_stage, items, rows, *rest):
        if rows.start == 12:
            raise KeyboardInterrupt
        return encode_views(first_stage, items, rows, *rest)

    monkeypatch.setattr(cache, "encode_views", interrupted)
    model = make_model().train()
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "stopped", model, make_items(views))
    assert model.training
    assert json.loads((only_folder(tmp_path / "stopped") / "meta.json").read_text())["rows"] == 12
    monkeypatch.setattr(cache, "encode_views", encode_views)
    encoded.clear()
    resumed = build(tmp_path / "stopped", items=make_items(views))
    assert sum(encoded) == 9 * views
    assert resumed.latents.tobytes() == whole


def test_a_killed_process_leaves_a_cache_that_goes_on(tmp_path):
    script = """
        import os, signal, sys
        sys.path.insert(0, sys.argv[2])
        from pathlib import Path
        import test_latent_cache as here
        from latentia.latents import cache
        cache.SECONDS = 0.0
        encode_views = cache.encode_views
        def killed(first_stage, items, rows, *rest):
            if rows.start == 12:
                os.kill(os.getpid(), signal.SIGKILL)
            return encode_views(first_stage, items, rows, *rest)
        cache.encode_views = killed
        here.build(Path(sys.argv[1]))
    """
    path = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "killed"), str(Path(__file__).parent)]
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert json.loads((only_folder(tmp_path / "killed") / "meta.json").read_text())["rows"] == 12
    assert build(tmp_path / "killed").latents.tobytes() == build(tmp_path / "whole").latents.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda: {"model": make_model(seed=1)},
        lambda: {"items": make_items(seed=1)},
        lambda: {"items": make_items(labelled=False)},
        lambda: {"items": make_items(views=2)},
    ],
    ids=["weights", "pictures", "labels", "views"],
)
def test_another_input_means_another_cache(change: Callable[[], dict], tmp_path, encoded):
    build(tmp_path)
    encoded.clear()
    build(tmp_path, **change())
    assert sum(encoded) >= 21


def test_other_latent_statistics_mean_another_cache(tmp_path):
    model = make_model()
    before = torch.from_numpy(np.array(build(tmp_path, model).latents))
    model.latent_std.fill_(2.0)
    torch.testing.assert_close(torch.from_numpy(np.array(build(tmp_path, model).latents)), before / 4)


def _truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _edit_meta(**changes: object) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        meta = json.loads((path / "meta.json").read_text())
        (path / "meta.json").write_text(json.dumps(meta | changes))

    return edit


DAMAGE = {
    "latents truncated": lambda path: _truncate(path / "latents.npy"),
    "latents empty": lambda path: (path / "latents.npy").write_bytes(b""),
    "latents missing": lambda path: (path / "latents.npy").unlink(),
    "latents of another shape": lambda path: np.save(path / "latents.npy", np.zeros((21, 1, 2, 4, 2), np.float32)),
    "latents of another type": lambda path: np.save(path / "latents.npy", np.zeros((21, 1, 2, 4, 4), np.float64)),
    "latents a pickle": lambda path: np.save(path / "latents.npy", np.array([{}]), allow_pickle=True),
    "meta missing": lambda path: (path / "meta.json").unlink(),
    "meta truncated": lambda path: _truncate(path / "meta.json"),
    "meta a list": lambda path: (path / "meta.json").write_text("[]"),
    "meta of another format": _edit_meta(format=0),
    "meta of another first stage": _edit_meta(first_stage="0" * 16),
    "meta of other items": _edit_meta(items="0" * 16),
    "meta of other views": _edit_meta(views=["mirror"]),
    "meta promising too much": _edit_meta(rows=22),
    "meta promising nonsense": _edit_meta(rows="all"),
    "meta without rows": lambda path: _edit_meta(rows=None)(path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_built_anew(damage, tmp_path, encoded):
    latents = build(tmp_path).latents.tobytes()
    DAMAGE[damage](only_folder(tmp_path))
    encoded.clear()
    again = build(tmp_path)
    assert sum(encoded) == 21
    assert again.latents.tobytes() == latents


def test_latents_that_are_not_finite_are_refused_every_time(tmp_path):
    model = make_model()
    model.encoder.head.bias.data[0] = float("nan")
    for _ in range(2):
        with pytest.raises(LatentiaError, match="NaN or infinite among items 0 to 3"):
            build(tmp_path, model)


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(LatentiaError, match="free some, or choose another folder"):
        build(tmp_path)
    assert not (only_folder(tmp_path) / "latents.npy").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LatentiaError, match="cannot be written"):
        build(tmp_path / "file")


def test_pictures_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    odd = PictureSet(np.zeros((3, 9, 9, 1), np.uint8), None, (), "odd", "made by a test")
    with pytest.raises(LatentiaError, match="picture size 9"):
        build(tmp_path, items=picture_items(odd))
    assert list(tmp_path.iterdir()) == []


def test_two_that_start_together_encode_once(tmp_path, encoded):
    models, together = [make_model(), make_model()], threading.Barrier(2)

    def start(model: AutoencoderKL) -> bytes:
        together.wait()
        return build(tmp_path / "both", model).latents.tobytes()

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(start, models)
    assert sum(encoded) == 21
    assert first == second == build(tmp_path / "alone").latents.tobytes()
