"""The page and the HTTP interface on one port."""

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from latentia.errors import LatentiaError
from latentia.model import LatentModel, load
from latentia.version import __version__
from latentia.web.jobs import Jobs, Limits

LOOPBACK = ("127.0.0.1", "localhost", "::1")
Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class BodyLimit:
    """Refuses bodies of more than so many bytes, whatever their header says."""

    def __init__(self, app: Any, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.most:
            await send({"type": "http.response.start", "status": 413, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": f"at most {self.most} bytes are read".encode()})
            return
        read = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most:
                return {"type": "http.disconnect"}
            return message

        await self.app(scope, counted, send)


def build_app(model: LatentModel, title: str, limits: Limits, hosts: tuple[str, ...] = LOOPBACK) -> Any:
    """The FastAPI application: JSON under /api, its description under /docs, the page under /.

    hosts: the names by which it may be called; a page of another site that resolves to this machine is refused.
    Raises LatentiaError where the extra `web` is not installed.
    """
    try:
        import gradio
        from fastapi import FastAPI
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        from latentia.web.api import add_routes
        from latentia.web.page import build_page
    except ImportError as error:
        raise LatentiaError(f"the web page needs gradio ({error}): pip install 'latentia[web]'") from None
    app = FastAPI(title=f"Latentia: {title}", version=__version__)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["*"] if "0.0.0.0" in hosts else [*hosts, "[::1]"])
    app.add_middleware(BodyLimit, most=limits.body)
    jobs = Jobs(limits)
    add_routes(app, model, jobs)
    return gradio.mount_gradio_app(app, build_page(model, jobs, title), path="/")


def serve(
    folder: str | Path, *, host: str = "127.0.0.1", port: int = 7860, device: str = "cpu", limits: Limits | None = None
) -> None:
    """Serves a model folder until Ctrl-C. Raises LatentiaError where it cannot be read or the port is taken."""
    app = build_app(load(folder, device), Path(folder).resolve().name, limits or Limits(), (*LOOPBACK, host))
    import uvicorn

    try:
        uvicorn.run(app, host=host, port=port, log_level="warning")
    except SystemExit:  # uvicorn has printed why, on stderr
        raise LatentiaError(f"cannot listen on {host}:{port}; choose another --port") from None
