"""What the editor of the page hands over, and what becomes of pictures that are none or too large."""

import base64
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from gradio import FileData
from gradio.components.image_editor import EditorData
from PIL import Image

import latentia
from latentia.errors import LatentiaError
from latentia.modalities.image.page import file_editor, read_painted
from latentia.modalities.image.readers.image_cache import shrink
from latentia.web import Limits, build_app


def test_a_picture_is_decoded_in_its_turn_and_within_the_limit(tiny_model: Path, tmp_path: Path) -> None:
    """The editor hands over files; what has too many pixels, or is no picture, is refused with a word."""
    model = latentia.load(tiny_model)
    Image.new("RGB", (40, 30), "navy").save(tmp_path / "sea.png")
    layer = Image.new("RGBA", (40, 30))
    layer.paste((255, 0, 0, 255), (0, 0, 40, 15))
    layer.save(tmp_path / "layer.png")
    editor = file_editor(layers=False)
    handed = editor.preprocess(
        EditorData(
            background=FileData(path=str(tmp_path / "sea.png")), layers=[FileData(path=str(tmp_path / "layer.png"))]
        )
    )
    assert handed["background"] == tmp_path / "sea.png"
    picture, mask = read_painted(handed, model)
    assert picture.shape == (8, 8, 1)
    assert mask[:4].all()
    assert not mask[4:].any()
    (tmp_path / "no.png").write_bytes(b"no picture")
    Image.new("1", (5000, 5000)).save(tmp_path / "huge.png")
    for name, reason in {"no.png": "not a picture", "huge.png": "at most 8,388,608"}.items():
        with pytest.raises(LatentiaError, match=f"the picture cannot be read: .*{reason}"):
            read_painted({"background": tmp_path / name, "layers": []}, model)


def test_the_interface_has_the_same_limit(tiny_model: Path, tmp_path: Path) -> None:
    Image.new("1", (5000, 5000)).save(tmp_path / "huge.png")
    Image.new("1", (8, 8)).save(tmp_path / "small.png")
    huge, small = (base64.b64encode((tmp_path / name).read_bytes()).decode() for name in ("huge.png", "small.png"))
    client = TestClient(build_app(latentia.load(tiny_model), "digits", Limits()), base_url="http://localhost")
    for fields in ({"picture": huge, "mask": small}, {"picture": small, "mask": huge}):
        answer = client.post("/api/inpaint", json=fields)
        assert answer.status_code == 400
        assert "it has 5000×5000 pixels, at most 8,388,608 are taken" in answer.json()["detail"]


def test_a_long_picture_is_shrunk_by_its_short_side() -> None:
    picture = Image.new("RGB", (100, 8000))
    shrink(picture, 2**23, 64)
    assert picture.size == (100, 8000)
    picture = Image.new("RGB", (800, 8000))
    shrink(picture, 2**23, 64)
    assert picture.size == (256, 2560)
