"""What stands between the network and the application: sizes of bodies, foreign pages, idle connections, errors."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_ERRORS, MOST_WORDS = 10, 300  # of an answer to a wrong request; characters of each
JSON_BODY = 2**16  # bytes of a body that holds no items
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
    """Refuses bodies that are too large, whatever their header says, and requests from pages of other sites.

    most: the largest body in bytes. small: whether a path takes JSON without items, which has 64 KiB at most.
    quota: the bytes of files that the page takes in an hour.
    """

    def __init__(self, app: Any, most: int, small: Callable[[str], bool], quota: int) -> None:
        self.app, self.most, self.small, self.quota = app, most, small, quota
        self.uploads: deque[tuple[float, int]] = deque()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in SAFE:
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        most = min(self.most, JSON_BODY) if self.small(scope["path"]) else self.most
        declared = headers.get("content-length", "0")
        uploads = scope["path"].endswith(UPLOAD)
        if is_foreign(headers):
            await refuse(send, 403, "this page may not be called from another site")
        elif not (declared.isascii() and declared.isdigit()) or int(declared) > most:
            await refuse(send, 413, f"at most {most} bytes are read")
        elif uploads and self.uploaded() > self.quota:
            await refuse(send, 503, "too many files in the last hour; try again later")
        else:
            await self.app(scope, self.counted(receive, most, uploads), send)

    def uploaded(self) -> int:
        """Bytes that were taken as files in the last hour."""
        while self.uploads and self.uploads[0][0] < time.monotonic() - HOUR:
            self.uploads.popleft()
        return sum(size for _, size in self.uploads)

    def counted(self, receive: Receive, most: int, uploads: bool) -> Receive:
        """`receive`, which ends a connection that sends more than `most` bytes."""
        read = 0

        async def next_part() -> Message:
            nonlocal read
            message = await receive()
            size = len(message.get("body", b""))
            read += size
            if uploads:
                self.uploads.append((time.monotonic(), size))
            return {"type": "http.disconnect"} if read > most else message

        return next_part


def is_foreign(headers: Mapping[str, str]) -> bool:
    """Whether a browser sends a request from the page of another site."""
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


async def refuse(send: Send, status: int, reason: str) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": reason.encode()})


class Impatient(H11Protocol):
    """HTTP/1.1, whose connections end where no whole request comes for a while."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.deadline = self.loop.call_later(IDLE, self.give_up)

    def give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():  # no request has begun
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.deadline.cancel()
        super().connection_lost(exc)
