"""The page and the HTTP interface on one port."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentia.errors import LatentiaError
from latentia.modalities.registry import modality_named
from latentia.model import LatentModel, load
from latentia.threads import keep_memory_together
from latentia.version import __version__
from latentia.web.jobs import Jobs, Limits

UVICORN_FAILS = (1, 3)  # statuses with which it ends where it cannot start
MOST_CONNECTIONS = 256  # more are answered 503
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def build_app(model: LatentModel, title: str, limits: Limits, hosts: tuple[str, ...] = LOOPBACK) -> Any:
    """The FastAPI application: JSON under /api, its description under /docs, the page under /.

    hosts: the names by which it may be called; a page of another site that resolves to this machine is refused.
    Raises LatentiaError where the extra `web` is not installed.
    """
    try:
        import gradio
        from fastapi.exceptions import RequestValidationError
        from fastapi_offline import FastAPIOffline  # whose /docs loads nothing from other hosts
        from starlette.exceptions import HTTPException
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        from latentia.web.api import add_routes
        from latentia.web.guards import Guard, PlainJSON, first_errors, http_error
        from latentia.web.page import build_page
    except ImportError as error:
        raise LatentiaError(f"the web page needs gradio ({error}): pip install 'latentia[web]'") from None
    app = FastAPIOffline(title=f"Latentia: {title}", version=__version__, default_response_class=PlainJSON)
    app.add_exception_handler(RequestValidationError, first_errors)
    app.add_exception_handler(HTTPException, http_error)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["*"] if "0.0.0.0" in hosts else [*hosts, "[::1]"])
    routes = {f"/api/{name}" for name in modality_named(model.modality).uploads}
    app.add_middleware(Guard, most=limits.body, takes_items=routes.__contains__, quota=limits.uploads)
    jobs = Jobs(limits)
    add_routes(app, model, jobs)
    for module in (gradio.queueing, gradio.routes, gradio.route_utils):
        module.traceback = OneLine  # type: ignore[attr-defined]
    page = build_page(model, jobs, title)
    page.has_launched = True  # only then does gradio refuse files that no visitor has sent
    return gradio.mount_gradio_app(app, page, path="/")


class OneLine:
    """What gradio prints of an error that a visitor causes, in the place of a traceback."""

    @staticmethod
    def print_exc() -> None:
        error = sys.exc_info()[1]
        print(f"page: {type(error).__name__}: {str(error)[:200]!r}", file=sys.stderr)


def serve(
    folder: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "cpu",
    limits: Limits | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serves a model folder until Ctrl-C, and says where. Raises LatentiaError where it cannot be read or the port is
    taken."""
    keep_memory_together()
    app = build_app(load(folder, device), Path(folder).resolve().name, limits or Limits(), (*LOOPBACK, host))
    import uvicorn

    from latentia.web.guards import Impatient

    say(f"http://{host}:{port} shows {folder}; Ctrl-C ends it")
    try:
        uvicorn.run(app, host=host, port=port, log_level="warning", http=Impatient, limit_concurrency=MOST_CONNECTIONS)
    except SystemExit as ended:
        if ended.code not in UVICORN_FAILS:  # it was asked to end
            raise
        # uvicorn has printed why, on stderr
        raise LatentiaError(f"cannot listen on {host}:{port}; choose another --port") from None
