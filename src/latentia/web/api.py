"""The HTTP interface: JSON in, JSON out, described by OpenAPI at /docs."""

import asyncio
import base64
import binascii
import io
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from latentia.applications.requests import askable
from latentia.errors import LatentiaError, is_out_of_memory
from latentia.modalities.registry import modality_named
from latentia.model import LatentModel
from latentia.version import __version__
from latentia.web.guards import CLIENT_GONE
from latentia.web.jobs import Busy, Gone, Jobs, TimeUp
from latentia.web.work import Ask, draw

LOOK_EVERY = 0.1  # seconds between two looks whether the client is still there
MOST_TEXT = 2000  # characters

Text = Annotated[str, Field(max_length=MOST_TEXT)]

Work = Callable[[Ask, Callable[[], None]], Any]
"""work(ask, check) → items; it calls `check()` often."""

Answer = Callable[["Fields", Request, Work], Awaitable["Items"]]
"""answer(fields, request, work) runs the work in its turn and answers with its items."""


class Fields(BaseModel):
    """What all requests share."""

    model_config = ConfigDict(extra="forbid")

    label: str | None = Field(None, max_length=MOST_TEXT, description="class by name or number; null: none")
    count: int = Field(1, ge=1, description="how many")
    steps: int | None = Field(None, ge=1, description="steps of the sampler; null: the model's own")
    guidance_scale: float | None = Field(None, ge=0, le=100, description="guidance; 1: none")
    seed: int = Field(0, ge=0, lt=2**31, description="the same seed gives the same result")
    index: int = Field(0, ge=0, lt=2**31, description="number of the first: 17 draws what is item 17 of many")
    conditions: dict[str, Text] = Field({}, max_length=16, description="further conditions of the model by name")


class Sample(Fields):
    prompt: str = Field("", max_length=MOST_TEXT, description="what the items show, for models that read it")
    negative_prompt: str = Field("", max_length=MOST_TEXT, description="what guidance leads away from")


class Items(BaseModel):
    """The items under the name of their modality's items, such as `pictures` (PNGs in base64) or `texts`."""

    model_config = ConfigDict(extra="allow")

    seconds: float = Field(description="how long the work took, without waiting")


class About(BaseModel):
    version: str
    makes: str = Field(description="what the model makes, such as pictures or texts")
    size: int | list[int] = Field(description="side of a picture in pixels, most tokens of a text, …")
    classes: list[str]
    conditions: list[str] = Field(description="what `conditions` of a request may name")
    reads_prompts: bool
    sampling: dict[str, Any] = Field(description="defaults")
    limits: dict[str, float]


def add_routes(app: FastAPI, model: LatentModel, jobs: Jobs) -> None:
    """`GET /api/model`, `POST /api/sample` and what the model's modality adds.

    A request that is wrong gets status 400 or 422 and says why, one too many 503, one that takes too long 504. Work for
    a client that goes away is ended at the next step.
    """
    modality = modality_named(model.modality)

    @app.get("/api/model")
    def about() -> About:
        """What the model is, and what may be asked of it."""
        return About(
            version=__version__,
            makes=modality.plural,
            size=model.codec.size,
            classes=list(model.class_names),
            conditions=askable(model),
            reads_prompts=model.condition("prompt") is not None,
            sampling=model.sampling,
            limits=asdict(jobs.limits),
        )

    async def answer(fields: Fields, request: Request, work: Work) -> Items:
        ask = _ask(fields, jobs)
        items, seconds = await _run(request, jobs, lambda check: work(ask, check))
        return Items(seconds=seconds, **{modality.plural: modality.answer(items)})

    @app.post("/api/sample")
    async def sample(fields: Sample, request: Request) -> Items:
        """Draw items."""
        return await answer(fields, request, lambda ask, check: draw(model, ask, check))

    modality.add_routes(app, model, answer)


def _ask(fields: Fields, jobs: Jobs) -> Ask:
    limits = jobs.limits
    for name, value, most in (("count", fields.count, limits.count), ("steps", fields.steps or 1, limits.steps)):
        if value > most:
            raise HTTPException(400, f"{name} is {value}, at most {most} may be asked for")
    known = {name: value for name, value in fields.model_dump().items() if name in Ask.__dataclass_fields__}
    return Ask(**known)


async def _run(request: Request, jobs: Jobs, work: Callable[[Callable[[], None]], Any]) -> tuple[Any, float]:
    """The result of the work and its seconds; it runs in a thread, while an eye is kept on the client."""
    gone = threading.Event()
    seconds = 0.0

    def timed(check: Callable[[], None]) -> Any:
        nonlocal seconds
        started = time.perf_counter()
        result = work(check)
        seconds = time.perf_counter() - started
        return result

    try:
        with jobs.place():
            task = asyncio.get_running_loop().run_in_executor(jobs.threads, jobs.in_turn, timed, gone.is_set)
            while not task.done():
                await asyncio.wait({task}, timeout=LOOK_EVERY)
                if await request.is_disconnected():
                    gone.set()
            result = task.result()
    except Busy as error:
        raise HTTPException(503, str(error)) from None
    except TimeUp as error:
        raise HTTPException(504, str(error)) from None
    except Gone:
        raise HTTPException(CLIENT_GONE, "the client is gone") from None
    except LatentiaError as error:
        raise HTTPException(400, str(error)) from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise HTTPException(503, "there is not enough memory for this; ask for less") from None
    finally:
        gone.set()  # also where the server stops this request
    return result, seconds


def decoded(text: str, name: str) -> io.BytesIO:
    """The bytes of base64. Raises LatentiaError that names the field."""
    try:
        return io.BytesIO(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise LatentiaError(f"{name} is not base64") from None
