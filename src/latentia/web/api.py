"""The HTTP interface: JSON in, JSON out, described by OpenAPI at /docs."""

import asyncio
import base64
import binascii
import io
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from latentia.errors import LatentiaError
from latentia.modalities.image.codec import PictureCodec
from latentia.modalities.image.readers.single import read_mask, read_one
from latentia.model import LatentModel
from latentia.version import __version__
from latentia.web.jobs import Busy, Gone, Jobs, TimeUp
from latentia.web.work import Wish, draw, repair

LOOK_EVERY = 0.1  # seconds between two looks whether the client is still there
MOST_TEXT = 2000  # characters
CLIENT_GONE = 499  # what nginx calls it; nobody reads it


class Ask(BaseModel):
    """What both requests share."""

    model_config = ConfigDict(extra="forbid")

    label: str | None = Field(None, max_length=MOST_TEXT, description="class by name or number; null: none")
    count: int = Field(1, ge=1, description="how many")
    steps: int | None = Field(None, ge=1, description="steps of the sampler; null: the model's own")
    guidance_scale: float | None = Field(None, ge=0, le=100, description="classifier-free guidance; 1: none")
    seed: int = Field(0, ge=0, lt=2**31, description="the same seed gives the same result")


class Sample(Ask):
    prompt: str = Field("", max_length=MOST_TEXT, description="what the pictures shall show, for models that read it")
    negative_prompt: str = Field("", max_length=MOST_TEXT, description="what guidance leads away from")


class Inpaint(Ask):
    picture: str = Field(description="a PNG, JPEG or WebP in base64; resized and cropped to the model's size")
    mask: str = Field(description="a picture of the same shape in base64: white is repaired, black is kept")


class Answer(BaseModel):
    pictures: list[str] = Field([], description="PNGs in base64")
    texts: list[str] = Field([], description="texts")
    seconds: float = Field(description="how long the work took, without waiting")


class About(BaseModel):
    version: str
    makes: str = Field(description="pictures or texts")
    size: int = Field(description="side of a picture in pixels, or most tokens of a text")
    classes: list[str]
    reads_prompts: bool
    sampling: dict[str, Any] = Field(description="defaults")
    limits: dict[str, float]


def add_routes(app: FastAPI, model: LatentModel, jobs: Jobs) -> None:
    """`GET /api/model`, `POST /api/sample` and `POST /api/inpaint`.

    A request that is wrong gets status 400 or 422 and says why, one too many 503, one that takes too long 504. Work for
    a client that goes away is ended at the next step.
    """
    pictures = isinstance(model.codec, PictureCodec)

    @app.get("/api/model")
    def about() -> About:
        """What the model is, and what may be asked of it."""
        return About(
            version=__version__,
            makes="pictures" if pictures else "texts",
            size=model.codec.size,
            classes=list(model.class_names),
            reads_prompts=model.prompts is not None,
            sampling=model.sampling,
            limits=asdict(jobs.limits),
        )

    @app.post("/api/sample")
    async def sample(ask: Sample, request: Request) -> Answer:
        """Draw pictures or write texts."""
        wish = _wish(ask, jobs)
        return await _answer(request, jobs, lambda check: draw(model, wish, check))

    @app.post("/api/inpaint")
    async def fill(ask: Inpaint, request: Request) -> Answer:
        """Repair what a mask hides of a picture."""
        wish = _wish(ask, jobs)

        def work(check: Callable[[], None]) -> Any:
            size = model.codec.size
            channels = model.first_stage.config["in_channels"]
            picture = read_one(_bytes(ask.picture, "picture"), channels, size, fit=True)
            return repair(model, picture, read_mask(_bytes(ask.mask, "mask"), size, fit=True), wish, check)

        if not pictures:
            raise HTTPException(400, "the model makes texts, not pictures")
        return await _answer(request, jobs, work)


def _wish(ask: Ask, jobs: Jobs) -> Wish:
    limits = jobs.limits
    for name, value, most in (("count", ask.count, limits.count), ("steps", ask.steps or 1, limits.steps)):
        if value > most:
            raise HTTPException(400, f"{name} is {value}, at most {most} may be asked for")
    return Wish(**ask.model_dump(exclude={"picture", "mask"}))


async def _answer(request: Request, jobs: Jobs, work: Callable[[Callable[[], None]], Any]) -> Answer:
    """The result of the work, which runs in a thread, while an eye is kept on the client."""
    gone = threading.Event()
    seconds = 0.0

    def timed(check: Callable[[], None]) -> Any:
        nonlocal seconds
        started = time.perf_counter()
        result = work(check)
        seconds = time.perf_counter() - started
        return result

    task = asyncio.ensure_future(asyncio.to_thread(jobs.run, timed, gone.is_set))
    try:
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
    finally:
        gone.set()  # also where the server stops this request
    if isinstance(result, list):
        return Answer(texts=result, seconds=seconds)
    return Answer(pictures=[_png(image) for image in result], seconds=seconds)


def _png(image: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _bytes(text: str, name: str) -> io.BytesIO:
    try:
        return io.BytesIO(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise LatentiaError(f"{name} is not base64") from None
