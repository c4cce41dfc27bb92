"""The tab of the page that repairs pictures with a brush."""

from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentia.modalities.image.api import repair
from latentia.modalities.image.applications.repair import repair_task
from latentia.modalities.image.modality import MODALITY
from latentia.modalities.image.pictures import MAX_SIDE, fit_picture
from latentia.model import LatentModel
from latentia.web.page import Form

EDITOR: dict[str, Any] = {"type": "pil", "layers": False, "elem_id": "editor"}


def repair_tab(model: LatentModel, form: Form) -> None:
    """A picture, a brush, and what the model paints under it; not for a model of another repair."""
    Image.MAX_IMAGE_PIXELS = MAX_SIDE**2 // 2  # Pillow refuses twice as many, before it decodes any
    task = repair_task(model)
    if task is not None and task.kind != "inpaint":
        return
    with gr.Tab("Repair"), gr.Row():
        with gr.Column():
            brush = gr.Brush(colors=["#ff0000"], color_mode="fixed", default_size=24)
            label = "A picture; paint over what is to be repaired"
            editor = gr.ImageEditor(label=label, brush=brush, eraser=gr.Eraser(), **EDITOR)
            fields = form.fields()
            button = gr.Button("Repair", variant="primary", elem_id="repair")
        gallery = gr.Gallery(label="Repaired", format="png", columns=4, elem_id="repaired")

    def go(edited: dict[str, Any] | None, *values: Any) -> list[Any]:
        if not edited or edited.get("background") is None:
            raise gr.Error("There is no picture yet")
        ask, (picture, mask) = form.read(values), read_painted(edited, model)
        repaired = form.run(lambda check: repair(model, picture, mask, ask, check))
        pictures: list[Any] = MODALITY.component_value(repaired, model)
        return pictures

    button.click(go, [editor, *fields], gallery, api_visibility="private")


def read_painted(edited: dict[str, Any], model: LatentModel) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The picture (S, S, C) of the editor, on white, and a mask (S, S) of what is painted over."""
    size, channels = model.codec.size, model.first_stage.config["in_channels"]
    opened = edited["background"].convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened)
    fitted = fit_picture(picture.convert("L" if channels == 1 else "RGB"), size)
    mask = np.zeros((size, size), bool)
    for layer in edited.get("layers", []):
        mask |= np.asarray(fit_picture(layer.convert("RGBA").getchannel("A"), size)) > 127
    return np.asarray(fitted).reshape(size, size, channels), mask
