"""The tab of the page that repairs pictures with a brush."""

from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentia.errors import LatentiaError
from latentia.modalities.image.api import repair
from latentia.modalities.image.applications.repair import repair_task
from latentia.modalities.image.modality import MODALITY
from latentia.modalities.image.pictures import MOST_PIXELS, fit_picture
from latentia.modalities.image.readers.image_cache import FORMATS, reason_of, shrink
from latentia.model import LatentModel
from latentia.web.page import Form, shown


def file_editor(**how: Any) -> gr.ImageEditor:
    """An editor that hands over files: they are decoded in the queue, one at a time, not as soon as they come."""
    editor = gr.ImageEditor(**how)
    editor.convert_and_format_image = handed  # type: ignore[method-assign,assignment]
    return editor


def handed(file: Any, flatten_on_white: bool = False) -> Path | BytesIO | None:
    """The path of a file that the page took, or its bytes."""
    if file is None:
        return None
    return BytesIO(file) if isinstance(file, bytes | bytearray | memoryview) else Path(file.path)


def repair_tab(model: LatentModel, form: Form) -> None:
    """A picture, a brush, and what the model paints under it; not for a model of another repair."""
    task = repair_task(model)
    if task is not None and task.kind != "inpaint":
        return
    with gr.Tab("Repair"), gr.Row():
        with gr.Column():
            brush = gr.Brush(colors=["#ff0000"], color_mode="fixed", default_size=24)
            label = "A picture; paint over what is to be repaired"
            editor = file_editor(label=label, brush=brush, eraser=gr.Eraser(), layers=False, elem_id="editor")
            fields = form.fields()
            button = gr.Button("Repair", variant="primary", elem_id="repair")
        gallery = gr.Gallery(label="Repaired", format="png", columns=4, elem_id="repaired")

    def go(edited: dict[str, Any] | None, *values: Any) -> list[Any]:
        if not edited or edited.get("background") is None:
            raise shown("There is no picture yet")
        ask = form.read(values)
        repaired = form.run(lambda check: repair(model, *read_painted(edited, model), ask, check))
        pictures: list[Any] = MODALITY.component_value(repaired, model)
        return pictures

    button.click(go, [editor, *fields], gallery, api_visibility="private")


def read_painted(edited: dict[str, Any], model: LatentModel) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The picture (S, S, C) of the editor's files, on white, and a mask (S, S) of what is painted over.

    Raises LatentiaError where a file is no picture, or has too many pixels.
    """
    size, channels = model.codec.size, model.first_stage.config["in_channels"]
    opened = _opened(edited["background"], size)
    picture = Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened)
    fitted = fit_picture(picture.convert("L" if channels == 1 else "RGB"), size)
    mask = np.zeros((size, size), bool)
    for layer in edited.get("layers", []):
        mask |= np.asarray(fit_picture(_opened(layer, size).getchannel("A"), size)) > 127
    return np.asarray(fitted).reshape(size, size, channels), mask


def _opened(source: Path | BytesIO, size: int) -> Image.Image:
    try:
        with Image.open(source, formats=FORMATS) as picture:
            shrink(picture, MOST_PIXELS, size)
            return picture.convert("RGBA")
    except Exception as error:  # decoders raise almost anything on hostile bytes
        raise LatentiaError(f"the picture cannot be read: {reason_of(error)}") from None
