"""The page in a real browser: Debian's Chromium, headless, led by Playwright."""

import contextlib
import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not on this computer")
PATIENCE = 60_000  # milliseconds


@pytest.fixture(scope="module")
def address(tiny_model: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "latentia", "serve", str(tiny_model), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/api/model", timeout=5).read()
            break
        except OSError:
            assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
            time.sleep(0.1)
    yield url
    process.terminate()
    process.wait(20)


@pytest.fixture
def page(address: str) -> Iterator["sync_api.Page"]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        yield page
        browser.close()


def test_a_click_draws_pictures_and_shows_the_way(page: "sync_api.Page") -> None:
    page.locator("#draw").click()
    page.locator("#pictures img").first.wait_for()
    assert page.locator("#way img").count() == 1
    assert page.locator("#pictures button img").count() >= 4


def test_a_brush_says_what_to_repair(page: "sync_api.Page") -> None:
    page.get_by_role("tab", name="Repair").click()
    buffer = io.BytesIO()
    Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))).resize((256, 256)).save(buffer, "PNG")
    file = {"name": "picture.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    invitation = page.get_by_text("Upload an image")
    for _ in range(5):  # a file that comes before the page listens for it is lost
        page.locator("#editor input[type=file]").first.set_input_files(file)
        with contextlib.suppress(sync_api.TimeoutError):
            invitation.wait_for(state="hidden", timeout=PATIENCE / 6)
            break
    canvas = page.locator("#editor canvas").first
    canvas.wait_for()
    for patience in (PATIENCE / 4, PATIENCE / 4, PATIENCE):  # a stroke while the picture still fades in is lost
        page.wait_for_timeout(1500)
        box = canvas.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] * 0.45, box["y"] + box["height"] * 0.5)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.5, steps=8)
        page.mouse.up()
        page.wait_for_timeout(500)
        page.locator("#repair").click()
        with contextlib.suppress(sync_api.TimeoutError):
            page.locator("#repaired img").first.wait_for(timeout=patience)
            break
    assert page.locator("#repaired img").count() >= 1
