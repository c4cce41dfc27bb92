"""What stands between the network and the application: sizes of bodies, foreign pages, idle connections, errors."""

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from latentia.errors import first_line
from latentia.threads import LARGE, give_back_memory

MOST_ERRORS, MOST_WORDS = 10, 300  # of an answer to a wrong request; characters of each
JSON_BODY = 2**16  # bytes of a body that holds no items
MOST_VALUES = 2000  # of a JSON body: parsing and refusing each takes time, in which nobody else is answered
HELD = 20 * 2**20  # bytes of bodies that are not answered yet, of all together
PATIENCE = 30.0  # seconds in which a body arrives
CLIENT_GONE = 499  # what nginx calls it; nobody reads it
OWN = "/api/"  # where the paths of the interface begin; all others are the page's
UPLOAD = "/upload"  # the end of the path by which the page takes files
HOUR = 3600.0
IDLE = 20.0  # seconds in which a connection asks for something
SAFE = ("GET", "HEAD", "OPTIONS")

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]


class PlainJSON(JSONResponse):
    """JSON in ASCII, which can hold whatever text a request brings, also half of a surrogate pair."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


async def first_errors(request: Request, error: Exception) -> PlainJSON:
    """Status 422 with the first faults of a request; what it held is not sent back."""
    assert isinstance(error, RequestValidationError)
    faults = [
        {
            "loc": [str(part)[:MOST_WORDS] for part in fault["loc"]],
            "msg": fault["msg"][:MOST_WORDS],
            "type": fault["type"],
        }
        for fault in error.errors()[:MOST_ERRORS]
    ]
    return PlainJSON({"detail": faults}, 422)


async def http_error(request: Request, error: Exception) -> PlainJSON:
    """The status and the words of an HTTPException."""
    assert isinstance(error, HTTPException)
    return PlainJSON({"detail": error.detail}, error.status_code, error.headers)


class Guard:
    """Reads the body of a request before the application does, and refuses what would harm it.

    That is: requests from pages of other sites, bodies that are too large, too slow or hold too many values, and text
    that is no JSON for the page. Where the page fails on what a request holds, the answer is 400.

    most: the largest body in bytes. takes_items: whether a path takes JSON with items; other JSON has 64 KiB at most.
    quota: the bytes of files that the page takes in an hour.
    """

    def __init__(self, app: Any, most: int, takes_items: Callable[[str], bool], quota: int) -> None:
        self.app, self.most, self.takes_items, self.quota = app, most, takes_items, quota
        self.uploads: deque[tuple[float, int]] = deque()
        self.held = 0  # bytes of bodies that are not answered yet

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] in SAFE:
            await self.answer(scope, receive, send)
            return
        parts: list[bytes] = []
        size = 0
        try:
            size = await self.read(scope, receive, parts)
            parts[:] = [b"".join(parts)]
            self.check(scope, parts[0])
            await self.answer(scope, replayed(parts, receive), send)
        except Refused as refusal:
            await refuse(send, refusal.status, str(refusal))
        finally:
            self.held -= size
            parts.clear()
            if size > LARGE:
                give_back_memory()

    async def read(self, scope: Message, receive: Receive, parts: list[bytes]) -> int:
        """Reads the whole body; its bytes, which are returned, count among those that are held. Raises Refused."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        upload = scope["path"].endswith(UPLOAD)
        most = self.most if upload or self.takes_items(scope["path"]) else min(self.most, JSON_BODY)
        declared, size = headers.get("content-length", "0"), 0
        if is_foreign(headers):
            raise Refused(403, "this page may not be called from another site")
        if upload and self.uploaded() > self.quota:
            raise Refused(503, "too many files in the last hour; try again later")
        if not (declared.isascii() and declared.isdigit()) or int(declared[:20]) > most:
            raise Refused(413, f"at most {most} bytes are read")
        try:
            async for part in arriving(receive):
                parts.append(part)
                size, self.held = size + len(part), self.held + len(part)
                if size > most:
                    raise Refused(413, f"at most {most} bytes are read")
                if self.held > HELD:
                    raise Refused(503, "too much is being sent at once; try again later")
        except BaseException:
            self.held -= size
            raise
        if upload:
            self.uploads.append((time.monotonic(), size))
        return size

    def check(self, scope: Message, body: bytes) -> None:
        """Raises Refused where JSON would take long to parse, or the page could not answer to it."""
        path: str = scope["path"]
        if path.endswith(UPLOAD):
            return
        if sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES:
            raise Refused(413, f"at most {MOST_VALUES} values are read")
        if not path.startswith(OWN) and body:
            try:
                json.dumps(json.loads(body), allow_nan=False, ensure_ascii=False).encode()
            except (ValueError, RecursionError):
                raise Refused(422, "this is not JSON in UTF-8, without NaN and infinities") from None

    async def answer(self, scope: Message, receive: Receive, send: Send) -> None:
        """The application's answer, but 400 where the page's own code fails on what it was sent."""
        own, failed = scope["path"].startswith(OWN), False

        async def careful(message: Message) -> None:
            nonlocal failed
            if not own and message["type"] == "http.response.start" and message["status"] == 500:
                failed = True
                await refuse(send, 400, "the page cannot answer to this request")
            elif not failed:
                await send(message)

        try:
            await self.app(scope, receive, careful)
        except Exception as error:
            if own:
                raise
            if not failed and not isinstance(error, ConnectionError):
                print(f"{scope['method']} {scope['path'][:100]!r}: {first_line(error)[:200]!r}", file=sys.stderr)

    def uploaded(self) -> int:
        """Bytes that were taken as files in the last hour."""
        while self.uploads and self.uploads[0][0] < time.monotonic() - HOUR:
            self.uploads.popleft()
        return sum(size for _, size in self.uploads)


class Refused(Exception):
    """A request that does not reach the application."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


async def arriving(receive: Receive) -> AsyncIterator[bytes]:
    """The parts of a body as they come. Raises Refused where they take too long, or the client goes."""
    until, more = time.monotonic() + PATIENCE, True
    while more:
        try:
            message = await asyncio.wait_for(receive(), until - time.monotonic())
        except TimeoutError:
            raise Refused(408, f"the request took longer than {PATIENCE:g} seconds to arrive") from None
        if message["type"] == "http.disconnect":
            raise Refused(CLIENT_GONE, "the client is gone")
        more = message.get("more_body", False)
        yield message.get("body", b"")


def replayed(parts: list[bytes], receive: Receive) -> Receive:
    """A `receive` that gives the body that was read, `parts`, once, and then what comes after it."""

    async def next_part() -> Message:
        if not parts:
            return await receive()
        return {"type": "http.request", "body": parts.pop(), "more_body": False}

    return next_part


def is_foreign(headers: Mapping[str, str]) -> bool:
    """Whether a browser sends a request from the page of another site."""
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc != headers.get("host")
    except ValueError:  # no address at all
        return True


async def refuse(send: Send, status: int, reason: str) -> None:
    closing = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": closing})
    await send({"type": "http.response.body", "body": reason.encode()})


class Impatient(H11Protocol):
    """HTTP/1.1, whose connections end where the head of a request does not come for a while."""

    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.watch()

    def waits(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def watch(self) -> None:
        """Starts to wait, but never again while it waits: a byte now and then does not keep a connection."""
        if not self.waits():
            self.relax()
        elif self.deadline is None:
            self.deadline = self.loop.call_later(IDLE, self.give_up)

    def relax(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def give_up(self) -> None:
        self.deadline = None
        if self.waits() and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.relax()
        super().connection_lost(exc)
