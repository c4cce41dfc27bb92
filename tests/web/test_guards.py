"""Hostile and unlucky requests: each is answered at once, briefly, with a status of 4xx."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

import latentia
from latentia.web import Limits, build_app, guards

LIMITS = Limits(count=4, steps=8, seconds=20, waiting=1, body=2**20, uploads=1000)


@pytest.fixture(scope="module")
def app(tiny_model: Path) -> Any:
    return build_app(latentia.load(tiny_model), "digits", LIMITS)


@pytest.fixture(scope="module")
def client(app: Any) -> TestClient:
    return TestClient(app, base_url="http://localhost")


def test_an_answer_names_ten_faults_at_most_and_repeats_nothing(client: TestClient) -> None:
    answer = client.post("/api/sample", json={f"field{number}": "x" * 40 for number in range(1000)})
    assert answer.status_code == 422
    assert len(answer.json()["detail"]) == guards.MOST_ERRORS
    assert len(answer.content) < 5000


@pytest.mark.parametrize("path", ["/api/sample", "/api/nowhere"])
def test_json_without_items_is_small(path: str, client: TestClient) -> None:
    answer = client.post(path, content=b'{"prompt": "' + b"a" * guards.JSON_BODY + b'"}')
    assert answer.status_code == 413
    assert client.post("/api/inpaint", json={"picture": "a" * guards.JSON_BODY, "mask": ""}).status_code == 400


@pytest.mark.parametrize(
    "value", ["NaN", "1e999", "-1e999", '"\\ud800"', "[[[[[[]]]]]]", "{}", "null", '"' + "9" * 5000 + '"']
)
@pytest.mark.parametrize(
    "name", ["label", "count", "steps", "guidance_scale", "seed", "conditions", "prompt", "\\udfff"]
)
def test_no_value_is_a_fault_of_the_server(name: str, value: str, client: TestClient) -> None:
    body = f'{{"count": 1, "steps": 1, "{name}": {value}}}'
    answer = client.post("/api/sample", content=body.encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 200 or 400 <= answer.status_code < 500
    json.loads(answer.content.decode("ascii"))


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[" * 60_000, b"{", b"1", b"null"])
def test_no_body_is_a_fault_of_the_server(body: bytes, client: TestClient) -> None:
    answer = client.post("/api/sample", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500


def test_pages_of_other_sites_are_refused(client: TestClient) -> None:
    for path in ("/api/sample", "/gradio_api/upload", "/gradio_api/queue/join"):
        for origin in ("http://evil.example", "null", "http://localhost:9", "http://localhost.evil.example"):
            assert client.post(path, json={}, headers={"origin": origin}).status_code == 403
    assert client.post("/api/sample", json={"steps": 1}, headers={"origin": "http://localhost"}).status_code == 200


def test_the_page_takes_so_many_files_an_hour(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [client.post("/gradio_api/upload", files={"files": b"x" * 600}).status_code for _ in range(4)]
    assert answers == [200, 200, 503, 503]
    monkeypatch.setattr(guards, "HOUR", 0.0)
    assert client.post("/gradio_api/upload", files={"files": b"x"}).status_code == 200


def test_the_description_loads_nothing_from_other_hosts(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "http://" not in page.replace("http://localhost", "")
    assert "https://" not in page
    script = page.split('<script src="')[1].split('"')[0]
    assert client.get(script).status_code == 200


@pytest.fixture
def server(app: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(guards, "IDLE", 0.5)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", http=guards.Impatient))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not running.started:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield port
    running.should_exit = True
    thread.join(timeout=20)


def test_connections_that_ask_for_nothing_are_closed(server: int) -> None:
    idle = socket.create_connection(("127.0.0.1", server), timeout=20)
    slow = socket.create_connection(("127.0.0.1", server), timeout=20)
    slow.sendall(b"GET /api/model HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
    assert idle.recv(1) == b""
    assert slow.recv(1) == b""
    honest = socket.create_connection(("127.0.0.1", server), timeout=20)
    honest.sendall(f"GET /api/model HTTP/1.1\r\nHost: 127.0.0.1:{server}\r\n\r\n".encode())
    assert honest.recv(15) == b"HTTP/1.1 200 OK"


PAGE = {"data": [], "fn_index": 0, "session_hash": "a"}


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * 500_000 + b"1]",
        json.dumps({f"key{number}": number for number in range(50_000)}).encode(),
        json.dumps({"conditions": {f"key{number}": "" for number in range(50_000)}}).encode(),
    ],
)
@pytest.mark.parametrize("path", ["/api/inpaint", "/gradio_api/queue/join"])
def test_a_body_of_many_values_is_not_even_parsed(path: str, body: bytes, client: TestClient) -> None:
    answer = client.post(path, content=body[: 2**20], headers={"content-type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [NaN], "fn_index": 0, "session_hash": "a"}',
        b'{"data": [1e999], "fn_index": 0, "session_hash": "a"}',
        b'{"data": ["\\ud800"], "fn_index": 0, "session_hash": "a"}',
        b"[" * 1500,
        b"nothing",
    ],
)
def test_the_page_is_sent_json_alone(body: bytes, client: TestClient) -> None:
    answer = client.post("/gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422


@pytest.mark.parametrize("number", [-1, 99_999, "x", None])
def test_what_the_page_cannot_answer_is_the_senders_fault(number: Any, client: TestClient) -> None:
    for path in ("queue/join", "run/predict", "call/draw", "call/v2/go", "reset", "cancel", "component_server"):
        answer = client.post(f"/gradio_api/{path}", json=PAGE | {"fn_index": number})
        assert answer.status_code in (200, 503) or 400 <= answer.status_code < 500, path
    assert 400 <= client.get("/static/" + "a" * 3000).status_code < 500
    assert 400 <= client.post("/gradio_api/upload", data={"files": "no file"}).status_code < 500


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://a]b"])
def test_an_origin_that_is_no_address_is_foreign(origin: str, client: TestClient) -> None:
    assert client.post("/api/sample", json={"steps": 1}, headers={"origin": origin}).status_code == 403


def test_the_page_takes_no_file_that_nobody_sent(server: int, tmp_path: Path) -> None:
    """A visitor names files of the server's own, and would see them repaired."""
    Image.new("L", (8, 8), 200).save(tmp_path / "private.png")
    with httpx.Client(base_url=f"http://127.0.0.1:{server}", timeout=30) as visitor:
        functions = visitor.get("/config").json()["dependencies"]
        number = next(each["id"] for each in functions if each["targets"] and len(each["inputs"]) == 8)
        file = {"path": str(tmp_path / "private.png"), "meta": {"_type": "gradio.FileData"}}
        editor = {"background": file, "layers": [file], "composite": None}
        asked = {"data": [editor, "", "", "any", 1, 1, 1, 0], "fn_index": number, "session_hash": "thief"}
        assert visitor.post("/gradio_api/queue/join", json=asked).status_code == 200
        with visitor.stream("GET", "/gradio_api/queue/data?session_hash=thief") as stream:
            told = next(line for line in stream.iter_lines() if "process_completed" in line)
    assert '"success":false' in told.replace(" ", "")
    assert "was not uploaded by a user" in told


def test_a_byte_now_and_then_does_not_keep_a_connection(server: int) -> None:
    slow = socket.create_connection(("127.0.0.1", server), timeout=20)
    slow.sendall(f"GET /api/model HTTP/1.1\r\nHost: 127.0.0.1:{server}\r\n\r\n".encode())
    answer = slow.recv(100_000)
    slow.sendall(b"G")
    while answer:
        answer = slow.recv(100_000)
    assert answer == b""


def test_a_body_that_does_not_come_is_not_waited_for(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "PATIENCE", 0.05)
    guard = guards.Guard(None, 2**20, lambda path: True, 1000)
    sent: list[Any] = []

    async def never() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/api/inpaint", "headers": []}
    asyncio.run(guard(scope, never, send))
    assert sent[0]["status"] == 408
    assert guard.held == 0


def test_bodies_of_all_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "HELD", 1000)
    guard = guards.Guard(None, 2**20, lambda path: True, 1000)

    async def main() -> list[int]:
        async def ask() -> int:
            sent: list[Any] = []

            async def receive() -> Any:
                await asyncio.sleep(0.01)
                return {"type": "http.request", "body": b"x" * 300, "more_body": True}

            async def send(message: Any) -> None:
                sent.append(message)

            await guard({"type": "http", "method": "POST", "path": "/api/inpaint", "headers": []}, receive, send)
            return int(sent[0]["status"])

        return list(await asyncio.gather(*(ask() for _ in range(4))))

    assert 503 in asyncio.run(main())
    assert guard.held == 0
