"""Files that are either whole or absent, and parts (network + config) kept as JSON and safetensors."""

import ctypes
import errno
import glob
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from latentia.errors import LatentiaError, first_line

CONFIG_NAME = "config.json"
HERE, SWAP = -100, 2  # arguments of renameat2: names are relative to the working folder; both names stay
LOCK_PAUSE, LOCK_PATIENCE = 0.1, 2.0  # seconds: between two looks, and until a line says who is waited for
MANIFEST_NAME = "manifest.jsonl"
RECIPE_NAME = "recipe.yaml"  # in the folder of a run
CHECKSUM = "sha256"  # in a safetensors file's metadata
LONGEST_NAME = 230  # bytes, so that a temporary name beside it fits, too
NOT_WRITTEN = "{} is not what was written: its checksum differs; copy it again, or go on with `latentia --no-verify`"
VERIFY = "LATENTIA_VERIFY"  # environment variable: 0 reads weights whatever their checksum
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"  # the file name diffusers looks for

STORED = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int8, torch.bool)
SCALE, LARGEST = ".scale", 127  # of 8-bit weights: the name's ending, the largest number

Part = TypeVar("Part", bound=nn.Module)


def cache_dir() -> Path:
    """Where prepared data and latents are kept: `$LATENTIA_CACHE`, else `~/.cache/latentia`."""
    return Path(os.environ.get("LATENTIA_CACHE") or Path.home() / ".cache" / "latentia")


def find_data(name: str, root: Path | None, holds: Callable[[Path], object], missing: str, *installed: Path) -> Path:
    """The first folder that `holds` a data set: `root` or `$LATENTIA_DATA`, or `name` below it; without `root` also
    the folders into which a package may have `installed` it, and the cache's.

    Raises LatentiaError where there is none: `missing`, with the folders searched in the place of "{}".
    """
    base = root or os.environ.get("LATENTIA_DATA")
    folders = [Path(base).expanduser(), Path(base).expanduser() / name] if base else []
    if root is None:
        folders += [*installed, cache_dir() / name]
    folder = next(filter(holds, folders), None)
    if folder is None:
        raise LatentiaError(missing.format(", ".join(map(str, folders))))
    return folder


def in_bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def check_writable(path: Path) -> None:
    """Raises LatentiaError where a file or folder of that name could not be made, before work is spent on it."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise LatentiaError(f"{path} cannot be written: it is neither a file nor a folder")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise LatentiaError(f"{path.name[:60]}… cannot be written: the name is too long")
    parent = next((parent for parent in path.absolute().parents if parent.exists()), path.absolute())
    if not parent.is_dir():
        raise LatentiaError(f"{path} cannot be written: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise LatentiaError(f"{path} cannot be written: you may not write into {parent}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling of `path`: on success flushed to disk and renamed to `path`, on failure removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if not _is_alive(left.suffixes[-2]):
            left.unlink(missing_ok=True)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_alive(suffix: str) -> bool:
    """Whether the process that wrote a temporary file, whose number is a suffix such as ".17", still runs here."""
    return not suffix[1:].isdecimal() or psutil.pid_exists(int(suffix[1:]))


@contextmanager
def locked(path: Path, *, refusal: str | None = None) -> Iterator[None]:
    """Holds an exclusive lock on a file, or on a folder that exists; the system frees it when the process ends.

    Where another process holds it, LatentiaError with that `refusal` is raised; without one this waits, and says so.
    """
    if os.name != "posix":  # without `flock`, two processes must not write into one folder
        yield
        return
    descriptor = os.open(path, os.O_RDONLY) if path.is_dir() else os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        waited = 0.0
        while not _flock(descriptor):
            if refusal is not None:
                raise LatentiaError(refusal)
            time.sleep(LOCK_PAUSE)
            waited += LOCK_PAUSE
            if waited - LOCK_PAUSE < LOCK_PATIENCE <= waited:
                print(f"waiting for another process, which holds {path}", file=sys.stderr, flush=True)
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int) -> bool:
    """Takes the lock, unless another process holds it; True also on a file system without locks."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, errno.ENOSYS):
            raise
    return True


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary sibling of `path`: on success renamed to `path`, on failure removed.

    Raises LatentiaError where `path` exists, unless it is to be replaced. The old folder is there until the new one is
    whole, also where the process is killed, and its entries whose names the new one lacks stay in it.
    """
    if path.exists() and not replace:
        raise LatentiaError(f"{path} exists; choose another folder")
    temporary = path.with_name(f".{path.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            exchange(temporary, path)
            for left in [entry for entry in temporary.iterdir() if not (path / entry.name).exists()]:
                left.rename(path / left.name)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def exchange(one: Path, other: Path) -> None:
    """Swaps the names of two folders, at once where the system can; elsewhere `other` is missing for a moment."""
    rename = getattr(ctypes.CDLL(None) if os.name == "posix" else None, "renameat2", None)  # of Linux
    if rename is not None and not rename(HERE, os.fsencode(one), HERE, os.fsencode(other), SWAP):
        return
    aside = other.with_name(f".{other.name}.before")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed right here
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_manifest(path: Path, rows: Sequence[Mapping[str, Any]], files: Sequence[str] = ()) -> None:
    """Writes a line of JSON for each item, as `metadata.jsonl` has them; without a row there is no manifest after.

    files: names of files that were just written: rows of others, under the name `file`, stay.
    """
    kept: list[Mapping[str, Any]] = []
    if files and path.is_file():
        with suppress(ValueError):  # a manifest that is none is replaced
            earlier = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            kept = [row for row in earlier if isinstance(row, dict) and row.get("file") not in files]
    if lines := [json.dumps(row, ensure_ascii=False) for row in [*kept, *rows]]:
        write_text(path, "".join(f"{line}\n" for line in lines))
    else:
        path.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises LatentiaError where the file is missing, is no JSON or holds no object."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise LatentiaError(f"{path} is not a file")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LatentiaError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise LatentiaError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise LatentiaError(f"{path} holds {type(value).__name__}, expected an object")
    return value


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes named tensors as safetensors with a checksum, atomically; they are copied to the CPU."""
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # the library would leave a file that others cannot read
        try:
            save_file(whole, temporary, metadata={**(metadata or {}), CHECKSUM: state_hash("", whole)})
        except SafetensorError as error:  # a full disk
            raise LatentiaError(f"{path} cannot be written: {first_line(error)}") from None
        sort_metadata(temporary)
        temporary.chmod(mode)


def sort_metadata(path: Path) -> None:
    """Sorts the metadata in the header of a safetensors file, which the library writes in random order."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # the library pads with blanks
            file.seek(8)
            file.write(text.ljust(size))


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file. Raises what the library raises where it is missing or damaged."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file. Raises LatentiaError where it is missing, damaged or no such file; never a pickle."""
    if not path.is_file():
        raise LatentiaError(f"{path} does not exist")
    try:
        tensors, checksum = load_file(path), read_metadata(path).get(CHECKSUM)
    except (SafetensorError, OSError, ValueError) as error:
        raise LatentiaError(f"{path} is not a readable safetensors file: {error}") from None
    if wrong := next((name for name, tensor in tensors.items() if tensor.dtype not in STORED), None):
        raise LatentiaError(f"{path}: {wrong} is {tensors[wrong].dtype}, expected one of {', '.join(map(str, STORED))}")
    if checksum is not None:
        check_state(path, "", tensors, checksum)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.sum(dtype=torch.float64))):
            raise LatentiaError(f"{path}: {name} is not finite: what wrote it had diverged")
    return tensors


def file_checksum(path: Path) -> str:
    """The checksum that a safetensors file carries, and which `read_tensors` compares; of other files that of bytes."""
    if path.suffix == ".safetensors" and (own := read_metadata(path).get(CHECKSUM)):
        return own
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sums(folder: Path, sums: Mapping[str, Any]) -> None:
    """Raises LatentiaError where a file of a folder, by its path below it, is missing or not what `sums` have."""
    for name, expected in sums.items():
        path = folder / name
        if not is_within(path, folder) or not path.is_file():
            raise LatentiaError(f"{path} does not exist")
        if file_checksum(path) != expected:
            raise LatentiaError(NOT_WRITTEN.format(path))


def is_within(path: Path, folder: Path) -> bool:
    return path.absolute().is_relative_to(folder.absolute()) and ".." not in path.parts


def check_state(path: Path, kind: str, state: Mapping[str, Tensor], expected: str) -> None:
    """Raises LatentiaError where `state_hash` is not as expected, unless the user does without that."""
    if os.environ.get(VERIFY) != "0" and state_hash(kind, state) != expected:
        raise LatentiaError(NOT_WRITTEN.format(path))


def save_part(folder: Path, part: nn.Module, config: Mapping[str, Any], dtype: torch.dtype | None = None) -> None:
    """Writes `config.json` (class name and constructor arguments) and the weights of one part of a model."""
    write_json(folder / CONFIG_NAME, {"_class_name": type(part).__name__, **config})
    write_tensors(folder / WEIGHTS_NAME, as_stored(part.state_dict(), dtype), {"format": "pt"})


def load_part(folder: Path, classes: Mapping[str, Callable[..., Part]]) -> Part:
    """Builds the part named by `folder/config.json` and loads its weights in float32.

    Raises LatentiaError where the class is unknown, an argument is wrong, or weights are missing, extra or misshapen.
    """
    config = read_json(folder / CONFIG_NAME)
    name = config.pop("_class_name", None)
    if not isinstance(name, str) or name not in classes:
        raise LatentiaError(f"{folder / CONFIG_NAME} names class {name!r:.60}, expected one of {', '.join(classes)}")
    return build_part(folder, lambda: classes[name](**config), read_tensors(folder / WEIGHTS_NAME))


def build_part(folder: Path, make: Callable[[], Part], state: Mapping[str, Tensor]) -> Part:
    """The part that `make` builds, with these weights of `folder` in float32; errors are those of `load_part`."""
    part = without_weights(folder, make)  # nothing is allocated for a config that the weights do not fit
    try:
        part.load_state_dict(as_float(state, folder / WEIGHTS_NAME), assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise LatentiaError(f"{folder / WEIGHTS_NAME} does not fit {type(part).__name__}: {first}") from None
    return part


def as_stored(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors, those of floating-point numbers in `dtype`, None for their own.

    With torch.int8, those of at least two axes become whole numbers of up to 127 and, under their name and ".scale",
    what each row of them (index of the first axis) is to be multiplied by; the small others stay as they are.
    """
    if dtype == torch.int8:
        return {key: part for name, value in state.items() for key, part in _in_8_bits(name, value).items()}
    return {
        name: value.to(dtype or value.dtype) if value.is_floating_point() else value for name, value in state.items()
    }


def _in_8_bits(name: str, value: Tensor) -> dict[str, Tensor]:
    if not value.is_floating_point() or value.ndim < 2 or value.numel() == 0:
        return {name: value}
    largest = value.abs().amax(tuple(range(1, value.ndim)), keepdim=True).float()
    scale = (largest / LARGEST).bfloat16()  # its few digits make every product exact, so that it is found again
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return {name: (value / scale.float()).round().clamp(-LARGEST, LARGEST).to(torch.int8), name + SCALE: scale}


def as_float(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of `path`, those of floating-point numbers in float32, with those of 8 bits (see `as_stored`).

    Raises LatentiaError where a scale is missing or does not fit.
    """
    small = {name for name, value in state.items() if value.dtype == torch.int8}
    whole = {name: value for name, value in state.items() if name.removesuffix(SCALE) not in small or name in small}
    for name in small:
        value, scale = state[name], state.get(name + SCALE)
        if scale is None or scale.shape != (*value.shape[:1], *(1 for _ in value.shape[1:])):
            raise LatentiaError(f"{path}: {name} has 8 bits a weight, and no {name}{SCALE} that fits it")
        whole[name] = value * scale.float()
    return {name: value.float() if value.is_floating_point() else value for name, value in whole.items()}


def rounded(part: Part, dtype: torch.dtype) -> Part:
    """The part itself, with the weights that are left of it when `as_stored` keeps it in that type."""
    part.load_state_dict(as_float(as_stored(part.state_dict(), dtype), Path(WEIGHTS_NAME)))
    return part


def has_checksum(path: Path) -> bool:
    """Whether a safetensors file was written with a checksum, which `read_tensors` compares."""
    return CHECKSUM in read_metadata(path)


def cached_part(folder: Path, recipe: Sequence[Any], kind: type[Part], train: Callable[[], Part]) -> Part:
    """The part that `train` makes, kept in a sub-folder of `folder` named by a hash of `recipe`.

    A kept part that is damaged or incomplete is trained anew.
    """
    folder /= hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    if (folder / WEIGHTS_NAME).is_file():
        with suppress(LatentiaError):
            return load_part(folder, {kind.__name__: kind})
    part: Any = train()
    save_part(folder, part, part.config)
    return cast(Part, part)


def without_weights(folder: Path, make: Callable[[], Part]) -> Part:
    """The part that `make` builds from a config in `folder`, on the meta device.

    Raises LatentiaError where the config does not describe one.
    """
    try:
        with torch.device("meta"), WithoutDraws():
            return make()
    except (LatentiaError, TypeError, ValueError, KeyError, AttributeError, AssertionError, RuntimeError) as error:
        reason = f"does not describe a part of a model: {first_line(error)}"
        raise LatentiaError(f"{folder / CONFIG_NAME} {reason}") from None


class WithoutDraws(TorchFunctionMode):
    """Skips random initial values: on the meta device PyTorch would load its compiler for them, half a second."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init" or function in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def module_hash(module: nn.Module) -> str:
    """A 16-hex-digit hash of a module's class, names, shapes and weights."""
    return state_hash(type(module).__name__, module.state_dict())


def state_hash(kind: str, state: Mapping[str, Tensor]) -> str:
    """`module_hash` of a class name and a state dict."""
    digest = hashlib.sha256(kind.encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
