"""The page: draw, watch the denoising, repair with a brush, write."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from latentia.errors import LatentiaError
from latentia.modalities.image.codec import PictureCodec
from latentia.modalities.image.pictures import fit_picture
from latentia.model import LatentModel
from latentia.web.jobs import Gone, Jobs
from latentia.web.work import Wish, draw, enlarged, repair

ANY = "any"
POLL = 0.1  # seconds


def build_page(model: LatentModel, jobs: Jobs, title: str) -> gr.Blocks:
    """A page with what the model can do."""
    pictures = isinstance(model.codec, PictureCodec)
    page: gr.Blocks = gr.Blocks(title=title, analytics_enabled=False)
    with page:
        gr.Markdown(f"# {title}")
        if pictures:
            with gr.Tab("Draw"):
                _draw_tab(model, jobs)
            if model.task is None or model.task.kind == "inpaint":
                with gr.Tab("Repair"):
                    _repair_tab(model, jobs)
        else:
            with gr.Tab("Write"):
                _write_tab(model, jobs)
    page.queue(max_size=jobs.limits.waiting, default_concurrency_limit=jobs.limits.waiting)
    return page


def _settings(model: LatentModel, jobs: Jobs) -> list[Any]:
    """The fields that all tabs have: prompt, negative prompt, class, count, steps, guidance, seed."""
    limits, sampling = jobs.limits, model.sampling
    words = model.prompts is not None
    return [
        gr.Textbox(label="Prompt", placeholder="a sad cat", visible=words, elem_id="prompt"),
        gr.Textbox(label="Negative prompt", visible=words),
        gr.Dropdown([ANY, *model.class_names], value=ANY, label="Class", visible=bool(model.class_names)),
        gr.Slider(1, limits.count, min(4, limits.count), step=1, label="How many"),
        gr.Slider(1, limits.steps, min(sampling.get("steps", 20), limits.steps), step=1, label="Steps"),
        gr.Slider(0, 10, sampling.get("guidance_scale", 1.0), step=0.1, label="Guidance"),
        gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1),
    ]


def _wish(jobs: Jobs, values: tuple[Any, ...]) -> Wish:
    """What the fields say. Values come from the network, whatever the sliders allow."""
    prompt, negative, label, count, steps, guidance, seed = values
    limits = jobs.limits
    try:
        numbers = int(count), int(steps), float(guidance), int(seed or 0)
    except (TypeError, ValueError):
        raise gr.Error("How many, steps, guidance and seed must be numbers") from None
    if not (1 <= numbers[0] <= limits.count and 1 <= numbers[1] <= limits.steps and 0 <= numbers[2] <= 100):
        raise gr.Error(f"At most {limits.count} at once and {limits.steps} steps")
    if not 0 <= numbers[3] < 2**31:
        raise gr.Error("The seed must be 0 or more and less than 2³¹")
    named = None if label in (None, ANY) else str(label)
    return Wish(numbers[0], named, str(prompt or ""), str(negative or ""), numbers[1], numbers[2], numbers[3])


def _draw_tab(model: LatentModel, jobs: Jobs) -> None:
    with gr.Row():
        with gr.Column():
            fields = _settings(model, jobs)
            button = gr.Button("Draw", variant="primary", elem_id="draw")
        with gr.Column():
            way = gr.Image(label="On the way", format="png", elem_id="way")
            gallery = gr.Gallery(label="Pictures", format="png", columns=4, elem_id="pictures")

    def go(*values: Any) -> Iterator[tuple[Any, Any]]:
        wish = _wish(jobs, values)
        frames: queue.Queue[Any] = queue.Queue()
        gone = threading.Event()
        outcome: dict[str, Any] = {}

        def work() -> None:
            try:
                outcome["pictures"] = jobs.run(lambda check: draw(model, wish, check, frames.put), gone.is_set)
            except (LatentiaError, Gone) as error:
                outcome["error"] = error
            finally:
                frames.put(None)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while True:
                try:
                    frame = frames.get(timeout=POLL)
                except queue.Empty:
                    continue
                if frame is None:
                    break
                yield frame, None
        finally:
            gone.set()  # the browser left, or all is done
        if "error" in outcome:
            raise gr.Error(str(outcome["error"]))
        yield gr.skip(), enlarged(model, outcome["pictures"])

    button.click(go, fields, [way, gallery], api_visibility="private")


def _repair_tab(model: LatentModel, jobs: Jobs) -> None:
    with gr.Row():
        with gr.Column():
            editor = gr.ImageEditor(
                label="A picture; paint over what shall be repaired",
                type="pil",
                brush=gr.Brush(colors=["#ff0000"], color_mode="fixed", default_size=24),
                eraser=gr.Eraser(),
                layers=False,
                elem_id="editor",
            )
            fields = _settings(model, jobs)
            button = gr.Button("Repair", variant="primary", elem_id="repair")
        gallery = gr.Gallery(label="Repaired", format="png", columns=4, elem_id="repaired")

    def go(edited: dict[str, Any] | None, *values: Any) -> list[Any]:
        if not edited or edited.get("background") is None:
            raise gr.Error("There is no picture yet")
        wish = _wish(jobs, values)
        size, channels = model.codec.size, model.first_stage.config["in_channels"]
        opened = edited["background"].convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened)
        fitted = fit_picture(picture.convert("L" if channels == 1 else "RGB"), size)
        painted = [layer.convert("RGBA").getchannel("A") for layer in edited.get("layers", [])]
        mask = np.zeros((size, size), bool)
        for alpha in painted:
            mask |= np.asarray(fit_picture(alpha, size)) > 127
        whole = np.asarray(fitted).reshape(size, size, channels)
        try:
            return enlarged(model, list(jobs.run(lambda check: repair(model, whole, mask, wish, check), lambda: False)))
        except LatentiaError as error:
            raise gr.Error(str(error)) from None

    button.click(go, [editor, *fields], gallery, api_visibility="private")


def _write_tab(model: LatentModel, jobs: Jobs) -> None:
    fields = _settings(model, jobs)
    button = gr.Button("Write", variant="primary", elem_id="write")
    texts = gr.Textbox(label="Texts", lines=8, elem_id="texts")

    def go(*values: Any) -> str:
        wish = _wish(jobs, values)
        try:
            return "\n".join(jobs.run(lambda check: draw(model, wish, check), lambda: False))
        except LatentiaError as error:
            raise gr.Error(str(error)) from None

    button.click(go, fields, texts, api_visibility="private")
