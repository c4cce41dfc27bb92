"""The HTTP interface: what it draws, its limits, and what becomes of clients that go away."""

import base64
import io
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

import latentia
from latentia.modalities.image.readers.builtin import load_pictures
from latentia.web import Limits, api, build_app
from latentia.web.jobs import Busy, Gone, Jobs, TimeUp

TRAINED = Path(__file__).parents[1] / "trained"
LIMITS = Limits(count=4, steps=8, seconds=20, waiting=1, body=100_000)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> latentia.LatentModel:
    return latentia.load(tiny_model)


@pytest.fixture(scope="module")
def client(model: latentia.LatentModel) -> TestClient:
    return TestClient(build_app(model, "digits", LIMITS), base_url="http://localhost")


def picture(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def pixels(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_it_says_what_it_is(client: TestClient) -> None:
    about = client.get("/api/model").json()
    assert about["makes"] == "pictures"
    assert about["classes"] == list("0123456789")
    assert about["limits"]["count"] == 4
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/api/model", "/api/sample", "/api/inpaint"} <= set(paths)


def test_it_draws_what_the_model_draws(client: TestClient, model: latentia.LatentModel) -> None:
    asked = {"label": "3", "count": 2, "steps": 4, "guidance_scale": 2, "seed": 5}
    answer = client.post("/api/sample", json=asked).json()
    wanted = model.generate([3, 3], steps=4, guidance_scale=2.0, seed=5, batch_size=2)
    np.testing.assert_array_equal(np.stack([pixels(text) for text in answer["pictures"]]), wanted[..., 0])
    assert answer["seconds"] > 0
    second = client.post("/api/sample", json=asked | {"count": 1, "index": 1}).json()["pictures"]
    np.testing.assert_allclose(pixels(second[0]).astype(int), wanted[1, ..., 0], atol=1)


def test_a_condition_goes_by_name() -> None:
    words = latentia.load(TRAINED / "squares")
    client = TestClient(build_app(words, "squares", LIMITS), base_url="http://localhost")
    assert client.get("/api/model").json()["conditions"] == ["prompt"]
    asked = {"count": 2, "steps": 2, "seed": 5}
    by_name = client.post("/api/sample", json={**asked, "conditions": {"prompt": "a red square"}}).json()
    wanted = client.post("/api/sample", json={**asked, "prompt": "a red square"}).json()
    assert by_name["pictures"] == wanted["pictures"] != client.post("/api/sample", json=asked).json()["pictures"]
    twice = client.post("/api/sample", json={"prompt": "a", "conditions": {"prompt": "b"}})
    assert twice.status_code == 400
    assert "asked for twice" in twice.text


def test_what_a_repair_starts_from_is_not_asked_for_in_words() -> None:
    client = TestClient(build_app(latentia.load(TRAINED / "inpainter"), "fill", LIMITS), base_url="http://localhost")
    answer = client.post("/api/sample", json={"conditions": {"repair": "x"}})
    assert answer.status_code == 400
    assert "not from words" in answer.text


def test_it_repairs_what_is_hidden_and_nothing_else(client: TestClient) -> None:
    held = load_pictures("digits", "test").images[0, ..., 0]
    mask = np.zeros((8, 8), np.uint8)
    mask[4:] = 255
    asked = {"picture": picture(held), "mask": picture(mask), "count": 2, "steps": 3}
    answer = client.post("/api/inpaint", json=asked)
    assert answer.status_code == 200, answer.text
    for text in answer.json()["pictures"]:
        np.testing.assert_array_equal(pixels(text)[:4], held[:4])


@pytest.mark.parametrize(
    ("path", "asked", "status", "said"),
    [
        ("sample", {"count": 5}, 400, "at most 4"),
        ("sample", {"steps": 9}, 400, "at most 8"),
        ("sample", {"count": 0}, 422, "greater than or equal"),
        ("sample", {"seed": -1}, 422, "greater than or equal"),
        ("sample", {"label": "cat"}, 400, "no class 'cat'"),
        ("sample", {"prompt": "a cat"}, 400, "reads no prompts"),
        ("sample", {"colour": "red"}, 422, "Extra inputs"),
        ("sample", {"conditions": {"weight": "3"}}, 400, "no condition 'weight'"),
        ("sample", {"conditions": {"label": "3"}}, 400, "a class has an option of its own"),
        ("sample", {"conditions": {"weight": "3" * 2001}}, 422, "at most 2000 characters"),
        ("inpaint", {"picture": "?", "mask": "?"}, 400, "not base64"),
        ("inpaint", {"picture": "aGVsbG8=", "mask": "aGVsbG8="}, 400, "cannot be read as a picture"),
        ("inpaint", {"picture": picture(np.zeros((8, 8), np.uint8)), "mask": ""}, 400, "cannot be read"),
    ],
)
def test_bad_requests_are_told_why(client: TestClient, path: str, asked: dict, status: int, said: str) -> None:
    answer = client.post(f"/api/{path}", json=asked)
    assert answer.status_code == status
    assert said in answer.text


def test_other_names_and_large_bodies_are_refused(client: TestClient) -> None:
    assert client.get("/api/model", headers={"host": "evil.example"}).status_code == 400
    large = client.post("/api/sample", content=b"x" * 200_000, headers={"content-type": "application/json"})
    assert large.status_code == 413


def test_jobs_run_one_at_a_time_and_few_wait() -> None:
    jobs, running, most, started = Jobs(Limits(waiting=1)), 0, 0, threading.Event()
    release = threading.Event()

    def work(check: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        started.set()
        release.wait(10)
        running -= 1

    threads = [threading.Thread(target=jobs.run, args=(work, lambda: False)) for _ in range(2)]
    threads[0].start()
    assert started.wait(10)
    threads[1].start()
    time.sleep(0.2)
    with pytest.raises(Busy, match="1 requests wait already"):
        jobs.run(work, lambda: False)
    release.set()
    for thread in threads:
        thread.join(10)
    assert most == 1
    assert jobs.run(lambda check: 7, lambda: False) == 7  # all places are free again


def test_jobs_end_when_time_is_up_or_nobody_waits() -> None:
    jobs = Jobs(Limits(seconds=0.1))

    def forever(check: Any) -> None:
        while True:
            check()
            time.sleep(0.01)

    with pytest.raises(TimeUp, match=r"longer than 0.1 seconds"):
        jobs.run(forever, lambda: False)
    until = time.monotonic() + 0.05
    with pytest.raises(Gone):
        jobs.run(forever, lambda: time.monotonic() > until)
    assert jobs.run(lambda check: 7, lambda: False) == 7


@pytest.fixture
def server(model: latentia.LatentModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, list[str]]]:
    """A real server whose first piece of work never ends by itself; the port, and what happened."""
    events: list[str] = []

    def endless(model: Any, wish: Any, check: Any) -> Any:
        if wish.seed != 1:
            return model.generate([0], steps=1)
        events.append("began")
        try:
            while True:
                check()
                time.sleep(0.01)
        finally:
            events.append("ended")

    monkeypatch.setattr(api, "draw", endless)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = Limits(seconds=60, waiting=1)
    running = uvicorn.Server(uvicorn.Config(build_app(model, "digits", limits), port=port, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.05)
    yield port, events
    running.should_exit = True
    thread.join(20)


def ask(port: int, seed: int) -> socket.socket:
    body = b'{"seed": %d}' % seed
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    head = (
        b"POST /api/sample HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    client.sendall(head % len(body) + body)
    return client


def wait_for(events: list[str], wanted: list[str]) -> None:
    until = time.monotonic() + 20
    while events != wanted and time.monotonic() < until:
        time.sleep(0.05)
    assert events == wanted


def test_a_client_that_goes_away_frees_its_place(server: tuple[int, list[str]]) -> None:
    port, events = server
    first = ask(port, seed=1)
    wait_for(events, ["began"])
    first.close()
    wait_for(events, ["began", "ended"])
    with ask(port, seed=2) as second:
        assert second.recv(65536).startswith(b"HTTP/1.1 200")
