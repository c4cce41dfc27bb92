"""The page: draw and watch the denoising, and what a modality adds, such as repairs with a brush."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from latentia.applications.requests import askable
from latentia.errors import LatentiaError
from latentia.modalities.registry import modality_named
from latentia.model import LatentModel
from latentia.web.jobs import Gone, Jobs
from latentia.web.work import Ask, draw

ANY = "any"
POLL = 0.1  # seconds
CLEANING, KEPT = 600, 3600  # seconds between two looks at the files of visitors, and until they are deleted


def build_page(model: LatentModel, jobs: Jobs, title: str) -> gr.Blocks:
    """A page with what the model can do."""
    modality, form = modality_named(model.modality), Form(model, jobs)
    page: gr.Blocks = gr.Blocks(title=title, analytics_enabled=False, delete_cache=(CLEANING, KEPT))
    with page:
        gr.Markdown(f"# {title}")
        with gr.Tab(modality.verb):
            _draw_tab(model, jobs, form)
        modality.add_tabs(model, jobs, form)
    page.queue(max_size=jobs.limits.waiting, default_concurrency_limit=jobs.limits.waiting)
    return page


def shown(message: str) -> gr.Error:
    """An error for the visitor, not for the log."""
    return gr.Error(message, print_exception=False)


@dataclass(frozen=True)
class Form:
    """The fields that all tabs have, and how they are read."""

    model: LatentModel
    jobs: Jobs

    @property
    def further(self) -> list[str]:
        """Conditions without a field of their own, such as those of plug-ins."""
        return [name for name in askable(self.model) if name != "prompt"]

    def fields(self) -> list[Any]:
        """Components: prompt, negative prompt, class, count, steps, guidance, seed, and a text for each condition."""
        limits, sampling, names = self.jobs.limits, self.model.sampling, self.model.class_names
        words = self.model.condition("prompt") is not None
        return [
            gr.Textbox(label="Prompt", placeholder="a sad cat", visible=words, elem_id="prompt"),
            gr.Textbox(label="Negative prompt", visible=words),
            gr.Dropdown([ANY, *names], value=ANY, label="Class", visible=bool(names)),
            gr.Slider(1, max(2, limits.count), min(4, limits.count), step=1, label="How many"),
            gr.Slider(1, max(2, limits.steps), min(sampling.get("steps", 20), limits.steps), step=1, label="Steps"),
            gr.Slider(0, 10, sampling.get("guidance_scale", 1.0), step=0.1, label="Guidance"),
            gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1),
            *(gr.Textbox(label=name, elem_id=f"condition-{name}") for name in self.further),
        ]

    def read(self, values: tuple[Any, ...]) -> Ask:
        """What the fields ask for. Values come from the network, whatever the sliders allow."""
        prompt, negative, label, count, steps, guidance, seed, *texts = values
        limits = self.jobs.limits
        try:
            numbers = int(count), int(steps), float(guidance), int(seed or 0)
        except (TypeError, ValueError):
            raise shown("How many, steps, guidance and seed must be numbers") from None
        if not (1 <= numbers[0] <= limits.count and 1 <= numbers[1] <= limits.steps and 0 <= numbers[2] <= 100):
            raise shown(f"At most {limits.count} at once and {limits.steps} steps")
        if not 0 <= numbers[3] < 2**31:
            raise shown("The seed must be 0 or more and less than 2³¹")
        named = None if label in (None, ANY) else str(label)
        asked = {name: str(text) for name, text in zip(self.further, texts, strict=True) if text}
        return Ask(numbers[0], named, str(prompt or ""), str(negative or ""), *numbers[1:], asked)

    def run(self, work: Callable[[Callable[[], None]], Any]) -> Any:
        """The result of work in its turn, an error of it as the page shows errors."""
        try:
            return self.jobs.run(work, lambda: False)
        except LatentiaError as error:
            raise shown(str(error)) from None


def _draw_tab(model: LatentModel, jobs: Jobs, form: Form) -> None:
    modality = modality_named(model.modality)
    with gr.Row():
        with gr.Column():
            fields = form.fields()
            button = gr.Button(modality.verb, variant="primary", elem_id=modality.verb.lower())
        with gr.Column():
            way = gr.Image(label="On the way", format="png", elem_id="way", visible=modality.shows_way)
            result = modality.widget(elem_id=modality.plural)

    def go(*values: Any) -> Iterator[tuple[Any, Any]]:
        ask = form.read(values)
        frames: queue.Queue[Any] = queue.Queue()
        gone = threading.Event()
        outcome: dict[str, Any] = {}

        def work() -> None:
            try:
                outcome["items"] = jobs.run(lambda check: draw(model, ask, check, frames.put), gone.is_set)
            except (LatentiaError, Gone) as error:
                outcome["error"] = error
            finally:
                frames.put(None)

        threading.Thread(target=work, daemon=True).start()
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
            raise shown(str(outcome["error"]))
        yield gr.skip(), modality.component_value(outcome["items"], model)

    button.click(go, fields, [way, result], api_visibility="private")
