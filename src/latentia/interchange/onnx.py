"""A model as ONNX graphs: encoder, decoder and denoiser, for ONNX Runtime and whatever else reads them."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentia.denoiser import Denoiser
from latentia.denoiser.legacy import upgraded
from latentia.errors import LatentiaError
from latentia.files import CONFIG_NAME, WEIGHTS_NAME, new_folder, read_json, without_weights
from latentia.model import LatentModel, load

GRAPH, ENCODER, DECODER = "model.onnx", "first_stage/encoder.onnx", "first_stage/decoder.onnx"
INSTALL = "pip install 'latentia[onnx]'"
EXAMPLES = 2  # in the batch that is traced; any number goes afterwards
FORMER = {"hints": "remains"}  # names of values in the graphs of earlier versions, and today's


def export_onnx(model: LatentModel, out: Path) -> None:
    """Writes a model folder whose weights are ONNX graphs; the rest of it is as `LatentModel.save` leaves it.

    `first_stage/encoder.onnx` takes items as the codec's tensors (B, ...) to normalised latents, `decoder.onnx` is the
    way back, and `denoiser/model.onnx` takes latent (B, C, *grid), time (B,) as `Process.network_time` gives it, then
    the values of the model's conditions by name, such as label (B,) or prompt (B, L), to what the process predicts, and
    so does `weaker/model.onnx` where the model has a snapshot for autoguidance. The
    batch may have any size. Raises LatentiaError for a model whose codec does not name "onnx" among its exports, where
    `out` exists or the extra `onnx` is missing.
    """
    if "onnx" not in model.codec.exports:
        raise LatentiaError(
            f"no first stage but plain tensor functions becomes ONNX graphs, not that of {model.codec.describe()}"
        )
    model.to("cpu")
    z = torch.randn(EXAMPLES, *model.latent_shape)
    values: dict[str, Tensor] = {}
    for condition in model.denoiser.known.values():
        values |= condition.null(z)
    inputs = {"latent": z, "time": torch.rand(EXAMPLES) * 1000, **values}
    with torch.no_grad():
        items = model.first_stage.decode(z)
    denoisers = {name: part.eval() for name, part in model.parts.items() if isinstance(part, Denoiser)}

    def named(denoiser: Denoiser) -> Callable[..., Tensor]:
        def denoise(latent: Tensor, time: Tensor, *numbers: Tensor) -> Tensor:
            out: Tensor = denoiser(latent, time, **dict(zip(values, numbers, strict=True)))
            return out

        return denoise

    with new_folder(out) as folder:
        model.save(folder)
        for name, denoiser in denoisers.items():
            _export(named(denoiser), inputs, "prediction", folder / name / GRAPH)
        _export(model.first_stage.encode, {"item": items}, "latent", folder / ENCODER)
        _export(model.first_stage.decode, {"latent": z}, "item", folder / DECODER)
        for part in model.parts:
            (folder / part / WEIGHTS_NAME).unlink()


def load_onnx(folder: str | Path) -> LatentModel:
    """The model in a folder that `export_onnx` wrote, run by ONNX Runtime on the CPU; it draws what the original draws.

    Raises LatentiaError where a part is missing or damaged, or the extra `onnx` is not installed.
    """
    folder = Path(folder)
    parts: dict[str, Callable[[], Any]] = {"first_stage": lambda: _OnnxFirstStage(folder)}
    parts |= {name: partial(_denoiser, folder / name) for name in ("denoiser", "weaker")}
    return load(folder, parts=parts)


class _Call(nn.Module):
    """A function as a module, which is what can be exported."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def _export(function: Callable[..., Tensor], inputs: Mapping[str, Tensor], output: str, path: Path) -> None:
    try:
        import onnxscript  # noqa: F401  # what torch.onnx needs and does not bring
    except ImportError:
        raise LatentiaError(f"exporting needs onnx and onnxscript: {INSTALL}") from None
    batch = torch.export.Dim("batch", min=1, max=2**16)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter talks about itself
        program = torch.onnx.export(
            _Call(function).eval(),
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=(tuple({0: batch} for _ in inputs),),  # `forward` has one argument, *inputs
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

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        inputs = {name: values[FORMER.get(name, name)].numpy() for name in self.names}
        return torch.from_numpy(self.session.run(None, inputs)[0])

    def of_one(self, x: Tensor) -> Tensor:
        """The answer of a graph of one input."""
        return self({self.names[0]: x.float()})


class _OnnxDenoiser(Denoiser):
    """Answers as the denoiser that it was exported from; its conditions know requests, the graph has the weights."""

    graph: _Graph

    def forward(self, x: Tensor, time: Tensor, observe: bool = False, **values: Tensor) -> Any:
        for condition in self.known.values():
            values = condition.null(x) | values
        numbers = {name: value.float() if value.is_floating_point() else value for name, value in values.items()}
        return self.graph({"latent": x.float(), "time": time.float(), **numbers}).to(x.dtype)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "_OnnxDenoiser":
        """Moves nothing: the graph stays on the CPU, and the weights here are placeholders without memory."""
        return self

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        raise LatentiaError("the weights of a model of ONNX graphs are in the graphs; save the model it was made of")


def _denoiser(path: Path) -> _OnnxDenoiser:
    config = read_json(path / CONFIG_NAME)
    if config.pop("_class_name", None) != "Denoiser":
        config, _ = upgraded(path, {})
    made = without_weights(path, lambda: _OnnxDenoiser.from_config(config))
    made.graph = _Graph(path / GRAPH)
    return made


class _OnnxFirstStage(nn.Module):
    """Encodes and decodes as the autoencoder that it was exported from."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.config = read_json(folder / "first_stage" / CONFIG_NAME)
        self.encoder, self.decoder = _Graph(folder / ENCODER), _Graph(folder / DECODER)
        self.latent_mean = torch.zeros(self.config["latent_channels"])
        self.shape = tuple(self.encoder.session.get_outputs()[0].shape[1:])

    def latent_shape(self, size: Any) -> tuple[int, ...]:
        return self.shape

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder.of_one(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder.of_one(z)
