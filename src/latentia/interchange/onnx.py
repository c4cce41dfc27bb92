"""A picture model as ONNX graphs: encoder, decoder and denoiser, for ONNX Runtime and whatever else reads them."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentia.errors import LatentiaError
from latentia.files import CONFIG_NAME, WEIGHTS_NAME, new_folder, read_json
from latentia.modalities.image.codec import PictureCodec
from latentia.model import PROMPT, LatentModel, load

DENOISER, ENCODER, DECODER = "denoiser/model.onnx", "first_stage/encoder.onnx", "first_stage/decoder.onnx"
INSTALL = "pip install 'latentia[onnx]'"
EXAMPLES = 2  # in the batch that is traced; any number goes afterwards


def export_onnx(model: LatentModel, out: Path) -> None:
    """Writes a model folder whose weights are ONNX graphs; the rest of it is as `LatentModel.save` leaves it.

    `first_stage/encoder.onnx` takes pictures (B, C, S, S) in [-1, 1] to normalised latents, `decoder.onnx` is the way
    back, and `denoiser/model.onnx` takes latent (B, C, *grid), time (B,) as `Process.network_time` gives it and label
    (B,), then hints, prompt ids and emphasis (B, L), where the model has them, to what the process predicts. The
    batch may have any size. Raises LatentiaError for a text model, where `out` exists or the extra `onnx` is missing.
    """
    if not isinstance(model.codec, PictureCodec):
        raise LatentiaError("only picture models become ONNX graphs: a text is decoded in a loop")
    model.to("cpu")
    channels = model.first_stage.config["in_channels"]
    z = torch.randn(EXAMPLES, *model.latent_shape)
    label = torch.zeros(EXAMPLES, dtype=torch.int64)
    conditions = {"label": label}
    if model.task is not None:
        conditions["hints"] = torch.randn(EXAMPLES, model.task.hint_channels(z.shape[1]), *z.shape[2:])
    if model.prompts is not None:
        conditions |= zip(PROMPT, model.prompts.to_ids(["a"] * EXAMPLES), strict=True)
    inputs = {"latent": z, "time": torch.rand(EXAMPLES) * 1000, **conditions}
    with new_folder(out) as folder:
        model.save(folder)
        _export(_Named(model.denoiser, list(conditions)), inputs, "prediction", folder / DENOISER)
        pictures = torch.rand(EXAMPLES, channels, model.codec.size, model.codec.size) * 2 - 1
        _export(_Call(model.first_stage.encode), {"picture": pictures}, "latent", folder / ENCODER)
        _export(_Call(model.first_stage.decode), {"latent": z}, "picture", folder / DECODER)
        for part in ("first_stage", "denoiser"):
            (folder / part / WEIGHTS_NAME).unlink()


def load_onnx(folder: str | Path) -> LatentModel:
    """The model in a folder that `export_onnx` wrote, run by ONNX Runtime on the CPU; it draws what the original draws.

    Raises LatentiaError where a part is missing or damaged, or the extra `onnx` is not installed.
    """
    folder = Path(folder)
    parts = {
        "first_stage": lambda: _OnnxFirstStage(read_json(folder / "first_stage" / CONFIG_NAME), folder),
        "denoiser": lambda: _OnnxDenoiser(read_json(folder / "denoiser" / CONFIG_NAME), folder / DENOISER),
    }
    return load(folder, parts=parts)


class _Call(nn.Module):
    """A function as a module, which is what can be exported."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class _Named(nn.Module):
    """A denoiser whose conditions come by their place, which is what can be exported."""

    def __init__(self, denoiser: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.denoiser, self.names = denoiser, names
        self.eval()

    def forward(self, latent: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        out: Tensor = self.denoiser(latent, time, **dict(zip(self.names, conditions, strict=True)))
        return out


def _export(module: nn.Module, inputs: dict[str, Tensor], output: str, path: Path) -> None:
    try:
        import onnxscript  # noqa: F401  # what torch.onnx needs and does not bring
    except ImportError:
        raise LatentiaError(f"exporting needs onnx and onnxscript: {INSTALL}") from None
    batch = torch.export.Dim("batch", min=1, max=2**16)
    each = [{0: batch} for _ in inputs]
    shapes = (*each[:2], tuple(each[2:])) if isinstance(module, _Named) else tuple(each)  # its conditions are one
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter talks about itself
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=[output],
            verbose=False,
        )
    assert program is not None
    program.save(str(path))


class _Graph:
    """An ONNX graph as a function of tensors by name."""

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise LatentiaError(f"running ONNX graphs needs onnxruntime: {INSTALL}") from None
        if not path.is_file():
            raise LatentiaError(f"{path} does not exist")
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # the library documents no common class for what a damaged file makes it raise
            raise LatentiaError(f"{path} is no ONNX graph: {str(error).splitlines()[0][:200]}") from None
        self.names = [value.name for value in self.session.get_inputs()]

    def __call__(self, **values: Tensor) -> Tensor:
        given = {name: values[name].numpy() for name in self.names}
        return torch.from_numpy(self.session.run(None, given)[0])


class _OnnxDenoiser(nn.Module):
    """Answers as the denoiser that it was exported from."""

    def __init__(self, config: dict[str, Any], path: Path) -> None:
        super().__init__()
        self.config, self.graph = config, _Graph(path)

    def forward(self, x: Tensor, time: Tensor, **conditions: Tensor) -> Tensor:
        return self.graph(latent=x.float(), time=time.float(), **conditions).to(x.dtype)


class _OnnxFirstStage(nn.Module):
    """Encodes and decodes as the autoencoder that it was exported from."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = _Graph(folder / ENCODER), _Graph(folder / DECODER)
        self.latent_mean = torch.zeros(config["latent_channels"])
        self.shape = tuple(self.encoder.session.get_outputs()[0].shape[1:])

    def latent_shape(self, size: int) -> tuple[int, ...]:
        return self.shape

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(picture=x)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(latent=z.float())
