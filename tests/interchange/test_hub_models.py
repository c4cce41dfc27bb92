"""Models on the Hugging Face hub, against a server that speaks the little of its protocol that is needed."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

import latentia
from latentia.errors import LatentiaError
from latentia.interchange.hub import card, push_model

COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """One store of repositories for all requests: {name: {path: bytes}}."""

    repos: dict[str, dict[str, bytes]]

    def log_message(self, *arguments: Any) -> None: ...

    def reply(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        for name, files in self.repos.items():
            if path.startswith(f"/api/models/{name}/tree"):
                return self.reply(
                    [{"type": "file", "path": p, "size": len(b), "oid": etag(b)} for p, b in files.items()]
                )
            if path in (f"/api/models/{name}", f"/api/models/{name}/revision/main"):
                siblings = [{"rfilename": file} for file in files]
                return self.reply({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings})
            file = path.removeprefix(f"/{name}/resolve/").partition("/")[2]
            if path.startswith(f"/{name}/resolve/") and file in files:
                return self.reply(files[file], headers={"ETag": f'"{etag(files[file])}"', "X-Repo-Commit": COMMIT})
        return self.reply({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlparse(self.path).path
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.repos.setdefault(name, {})
            return self.reply({"url": f"http://{self.headers['Host']}/{name}", "name": name})
        if "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.reply({"files": files})
        if "/commit/" in path:
            name = path.removeprefix("/api/models/").split("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repos[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.reply(
                {"success": True, "commitOid": COMMIT, "commitUrl": f"http://{self.headers['Host']}/{name}"}
            )
        return self.reply({})


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[dict[str, dict[str, bytes]], dict[str, str]]]:
    """The repositories, and the environment of a process that uses this server."""
    handler = type("OwnHub", (Hub,), {"repos": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    yield (
        handler.repos,
        os.environ
        | {
            "HF_ENDPOINT": endpoint,
            "HF_TOKEN": "hf_test",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        },
    )
    server.shutdown()


def latentia_(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "latentia", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_a_model_goes_to_the_hub_and_comes_back(hub: Any, tiny_model: Path, tmp_path: Path) -> None:
    repos, environment = hub
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.md").write_text("figures of this model")
    result = latentia_(environment, "push", str(tiny_model), "me/digits", "--report", str(tmp_path / "report"))
    assert result.returncode == 0, result.stderr
    files = repos["me/digits"]
    assert {"README.md", "model_index.json", "denoiser/config.json"} <= set(files)
    text = files["README.md"].decode()
    assert 'latentia.load("hf:me/digits")' in text
    assert "figures of this model" in text
    files["evil.py"] = b"raise SystemExit"
    files["denoiser/pytorch_model.bin"] = b"a pickle"
    drawn = [tmp_path / name for name in ("local.npy", "hub.npy")]
    for model, out in zip((str(tiny_model), "hf:me/digits"), drawn, strict=True):
        result = latentia_(environment, "sample", model, "--count", "4", "--steps", "2", "--out", str(out))
        assert result.returncode == 0, result.stderr
    assert drawn[0].read_bytes() == drawn[1].read_bytes()
    names = {path.name for path in (tmp_path / "home").rglob("*")}
    assert "model_index.json" in names
    assert not names & {"evil.py", "pytorch_model.bin"}
    again = "import latentia; print(latentia.load('hf:me/digits@main').class_names)"
    result = subprocess.run([sys.executable, "-c", again], capture_output=True, text=True, env=environment, timeout=120)
    assert result.stdout.strip() == str(latentia.load(tiny_model).class_names), result.stderr


def test_what_the_hub_lacks_is_one_line(hub: Any) -> None:
    _, environment = hub
    result = latentia_(environment, "sample", "hf:me/nothing", "--out", "x.png")
    assert result.returncode == 1
    assert result.stderr.startswith("error: hf:me/nothing cannot be downloaded: ")
    assert result.stderr.count("\n") == 1


def test_a_report_that_is_none_is_refused_before_anything_is_sent(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(LatentiaError, match=r"report\.md cannot be read: .*; see latentia evaluate"):
        push_model(tiny_model, "me/digits", report=tmp_path)
    text = card(tiny_model, "me/digits", None)
    assert text.startswith("---\nlibrary_name: latentia\n")
    assert "| classes | 10: 0, 1, 2" in text
