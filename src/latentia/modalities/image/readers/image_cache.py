"""Decodes pictures: one of a user's own, or many, once, into a memory-mapped array in the cache.

Big sets need no RAM, second starts no time.
"""

import hashlib
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from latentia.errors import LatentiaError, first_line
from latentia.files import atomic_path, cache_dir, read_json, write_json
from latentia.items import OnCorrupt, Split
from latentia.modalities.image.pictures import Frame, NoneFits, fit_picture, sides_of
from latentia.progress import progress

# Formats that Pillow decodes itself; EPS, which starts Ghostscript, is not among them.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
LAYOUT = "2"  # changes when the same files would decode to other pixels
DECODED_AT_ONCE = 64  # pictures waiting in RAM
PIXELS_AT_ONCE = 2**26  # of them all, unless one has more
DEEPEST = 2**16  # levels of a picture of 16 bits
MOST_GREY = 0.25  # share of a mask's pixels; edges that are softened, or resized, are grey too
NAMED = 5  # corrupt files that an error names; it counts the rest

Value = TypeVar("Value")


class Head(NamedTuple):
    """What the head of a picture's file says; height and width are those of the upright picture."""

    grey: bool
    deep: bool  # more than 8 bits a channel, as far as Pillow keeps them
    height: int
    width: int
    mode: str  # Pillow's


class Choice(NamedTuple):
    """Which split of a set, at which size, what to do about corrupt pictures, and levels; see `load_pictures`.

    heads: where it is a list, pictures are looked at and not decoded: it gets the head of each one that is kept.
    """

    split: Split
    size: int | Frame | None
    on_corrupt: OnCorrupt
    levels: int | None = None
    heads: list[Head] | None = None


class Sources(NamedTuple):
    """Encoded pictures: `read(i)` is the file, or the bytes, of the one called `names[i]` of the set `origin`."""

    origin: str
    names: Sequence[str]
    read: Callable[[int], Path | BytesIO]


class Stored(NamedTuple):
    """Decoded pictures.

    images: uint8 (K, H, W, C); kept: int64 (K,), their places among the sources; skipped: "name: reason" of the others.
    note: a sentence about values that do not fit the levels, or "".
    """

    images: NDArray[np.uint8]
    kept: NDArray[np.int64]
    skipped: tuple[str, ...]
    note: str


def stored_pictures(identity: Iterable[str], sources: Sources, choice: Choice) -> Stored:
    """The pictures of `sources`, decoded into `cache_dir()/pictures` unless those of this `identity` are there.

    All become grey where every one is grey, else RGB; EXIF orientation is applied and alpha laid on white. Each is
    fitted to the square or the frame that is chosen, which leaves out pictures of other frames; without a size all must
    have the same one.
    Raises NoneFits where no picture belongs to the frame, and LatentiaError where sizes differ, where all are corrupt,
    or where some are and `on_corrupt` is "refuse".
    """
    if choice.heads is not None:
        return _looked_at(sources, choice.heads)
    digest = hashlib.sha256(f"{LAYOUT} {choice.size} {choice.levels}".encode())
    for part in identity:
        digest.update(b"\0" + os.fsencode(part))
    path, names = cache_dir() / "pictures" / f"{digest.hexdigest()[:32]}.npy", sources.names
    entry = _load(path, len(names))
    if entry is None:
        try:
            _decode(path, sources, choice)
        except OSError as error:  # not from reading, which names each file
            raise LatentiaError(f"{path} cannot be written: {error}; set LATENTIA_CACHE to another folder") from None
        entry = _load(path, len(names))
    if entry is None:
        raise LatentiaError(f"{path} cannot be read back after it was written; does another process remove it?")
    images, reasons, elsewhere, brightest = entry
    if reasons and choice.on_corrupt == "refuse":
        raise _refusal(reasons, sources)
    kept = np.array([i for i in range(len(names)) if i not in reasons and i not in elsewhere], np.int64)
    skipped = tuple(f"{names[i]}: {reason}" for i, reason in reasons.items())
    return Stored(images, kept, skipped, levels_note(brightest, choice.levels))


def _looked_at(sources: Sources, heads: list[Head]) -> Stored:
    """The heads of the pictures go into `heads`; in their place stand pictures of one black pixel."""
    names = sources.names
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        found, reasons = _heads(pool, sources)
    if not found:
        raise _refusal(reasons, sources)
    heads += found.values()
    kept = np.array([*found], np.int64)
    skipped = tuple(f"{names[i]}: {reason}" for i, reason in reasons.items())
    channels = 1 if all(head.grey for head in heads) else 3
    return Stored(np.zeros((len(kept), 1, 1, channels), np.uint8), kept, skipped, "")


def levels_note(brightest: int | None, levels: int | None) -> str:
    """A sentence about pictures of 16 bits whose values, up to `brightest`, do not fit the levels; "" where they do."""
    if brightest is None or brightest == 0:
        return ""
    if levels is not None and brightest >= levels:
        return f" Pictures of 16 bits have values up to {brightest}, which are cut at data.levels={levels}."
    if levels is None and brightest < DEEPEST // 2:
        fitting = 2 ** brightest.bit_length()
        return (
            f" Pictures of 16 bits use the values 0 to {brightest} of {DEEPEST - 1} and come out dark: "
            f"set data.levels={fitting}."
        )
    return ""


def _load(path: Path, count: int) -> tuple[NDArray[np.uint8], dict[int, str], set[int], int | None] | None:
    """The memory map, the reasons why pictures are left out, the pictures of other frames, and the highest value of
    those of 16 bits; None where the entry is missing or damaged."""
    try:
        record = read_json(path.with_suffix(".json"))
        reasons = {int(i): str(reason) for i, reason in record["skipped"].items()}
        elsewhere = set(map(int, record.get("elsewhere", ())))
        brightest = None if record["brightest"] is None else int(record["brightest"])
        images: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, LatentiaError):
        return None
    whole = images.dtype == np.uint8 and images.ndim == 4 and len(images) + len(reasons) + len(elsewhere) == count
    return (images, reasons, elsewhere, brightest) if whole else None


def _decode(path: Path, sources: Sources, choice: Choice) -> None:
    origin, names, read = sources
    size = choice.size
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow's warnings name no file
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        heads, reasons = _heads(pool, sources)
        mode = "L" if all(head.grey for head in heads.values()) else "RGB"
        fitting = [i for i, head in heads.items() if not isinstance(size, Frame) or size.takes(head.height, head.width)]
        elsewhere = sorted(heads.keys() - set(fitting))
        deep = [i for i, head in heads.items() if head.deep]
        values = [value for _, value in _each(pool, lambda i: _brightest(read(i)), deep, f"{origin}: measuring")]
        brightest = max((value for value in values if isinstance(value, int)), default=None)
        pictures = _each(
            pool,
            lambda i: read_picture(read(i), mode, size, choice.levels),
            fitting,
            f"{origin}: decoding",
            lambda i: heads[i].height * heads[i].width,
        )
        with atomic_path(path) as temporary:
            with temporary.open("wb") as file:
                reasons |= _write(file, pictures, sources)
            if reasons and (choice.on_corrupt == "refuse" or len(reasons) == len(names)):
                raise _refusal(reasons, sources)
            if len(reasons) + len(elsewhere) == len(names):
                raise NoneFits(f"no picture of {origin} belongs to {size}")
            skipped = {str(i): reasons[i] for i in sorted(reasons)}
            record = {"skipped": skipped, "elsewhere": elsewhere, "brightest": brightest}
            write_json(path.with_suffix(".json"), record)


def _heads(pool: ThreadPoolExecutor, sources: Sources) -> tuple[dict[int, Head], dict[int, str]]:
    """The heads of the pictures by number, and the reasons why others have none."""
    label = f"{sources.origin}: looking"
    looks = dict(_each(pool, lambda i: _read_head(sources.read(i)), range(len(sources.names)), label))
    reasons = {i: look for i, look in looks.items() if isinstance(look, str)}
    return {i: look for i, look in looks.items() if not isinstance(look, str)}, reasons


def _write(file: BinaryIO, pictures: Iterable[tuple[int, NDArray[np.uint8] | str]], sources: Sources) -> dict[int, str]:
    """Writes a .npy file of the pictures that can be decoded, and returns the reasons why the others cannot."""
    reasons: dict[int, str] = {}
    written: list[int] = []
    shape: tuple[int, ...] = ()
    for i, picture in pictures:
        if isinstance(picture, str):
            reasons[i] = picture
            continue
        if not written:
            shape = picture.shape
            _write_header(file, (len(sources.names), *shape))
        if picture.shape != shape:
            both = (written[0], shape), (i, picture.shape)
            sizes = " and ".join(f"{sources.names[j]} {w}×{h}" for j, (h, w, _) in both)
            raise LatentiaError(f"{sources.origin} holds different sizes ({sizes}); pass size=... to fit all to one")
        file.write(picture.tobytes())  # not through a memory map, where a full disk would kill the process
        written.append(i)
    if written:
        file.seek(0)
        _write_header(file, (len(written), *shape))
    return reasons


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    # numpy pads the header so that its length does not depend on the first axis: it can be written again.
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _refusal(reasons: Mapping[int, str], sources: Sources) -> LatentiaError:
    count = len(sources.names)
    more = f" and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    advice = "repair them" if len(reasons) == count else "remove them, or pass on_corrupt='skip'"
    listed = "; ".join(f"{sources.names[i]}: {reasons[i]}" for i in sorted(reasons)[:NAMED])
    which = f"{len(reasons)} of {count} pictures of {sources.origin}"
    return LatentiaError(f"{which} cannot be read ({listed}{more}); {advice}")


def _each(
    pool: ThreadPoolExecutor,
    function: Callable[[int], Value],
    indices: Sequence[int],
    label: str,
    pixels: Callable[[int], int] = lambda i: 0,
) -> Iterator[tuple[int, Value | str]]:
    """`function` of each index, in order; where it fails, the reason instead of the value. `pixels` take up memory."""

    def attempt(i: int) -> Value | str:
        try:
            return function(i)
        except Exception as error:  # decoders raise almost anything on hostile bytes
            return reason_of(error)

    groups = _groups(indices, pixels)
    with progress(shown=sys.stderr.isatty(), total=len(indices), desc=label, unit="picture") as bar:
        for some in groups:  # map() alone would decode all before the first is used
            yield from zip(some, pool.map(attempt, some), strict=True)
            bar.update(len(some))


def _groups(indices: Iterable[int], pixels: Callable[[int], int]) -> Iterator[list[int]]:
    """Indices, so many at a time as memory is meant for."""
    group: list[int] = []
    total = 0
    for i in indices:
        if group and (len(group) == DECODED_AT_ONCE or total + pixels(i) > PIXELS_AT_ONCE):
            yield group
            group, total = [], 0
        group.append(i)
        total += pixels(i)
    if group:
        yield group


def reason_of(error: Exception) -> str:
    """Why a picture could not be decoded, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return f"not a picture in a known format ({', '.join(FORMATS)})"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"a decompression bomb, or more than {Image.MAX_IMAGE_PIXELS} pixels"
    return first_line(error)[:200]


def _read_head(source: Path | BytesIO) -> Head:
    """The mode and the size of the upright picture, from the head of its file."""
    with Image.open(source, formats=FORMATS) as picture:
        grey = picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith("I")
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # by a quarter, or mirrored at a diagonal
        sides = picture.size if turned else picture.size[::-1]
        return Head(grey, picture.mode.startswith("I"), *sides, picture.mode)


def _brightest(source: Path | BytesIO) -> int:
    """The highest value of a picture of 16 bits."""
    with Image.open(source, formats=FORMATS) as picture:
        return int(np.asarray(picture).max())


def read_picture(
    source: Path | BytesIO, mode: str, size: int | Frame | None, levels: int | None = None, most: int | None = None
) -> NDArray[np.uint8]:
    """Decodes one picture to uint8 (H, W, C), upright, on white, in `mode` "L" or "RGB". Raises what Pillow raises.

    levels: how many a grey picture of 16 bits has, None for all 65536; the highest is white.
    most: pixels that a stranger's picture may have, see `shrink`.
    """
    with Image.open(source, formats=FORMATS) as opened:
        if most is not None:
            shrink(opened, most, size)
        picture = ImageOps.exif_transpose(opened)
        if picture.mode == "F":
            raise ValueError("floating-point pictures have no fixed range; save it with 8 bits per channel")
        if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow's own conversion would clip
            white = (levels or DEEPEST) - 1
            values = np.asarray(picture).clip(0, white).astype(np.float64)
            picture = Image.fromarray((values * 255 / white).round().astype(np.uint8))
        if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = picture.convert(mode)
        if size is not None:
            picture = fit_picture(picture, size)
        return np.asarray(picture).reshape(picture.height, picture.width, -1)


def read_one(
    path: Path | BytesIO,
    channels: int,
    size: int,
    fit: bool = False,
    what: str = "picture",
    levels: int | None = None,
    most: int | None = None,
) -> NDArray[np.uint8]:
    """A picture, of a file or its bytes, as uint8 (size, size, channels), upright, on white.

    fit: resize and crop a picture of another size. what: a word for it in errors. levels: as of `read_picture`.
    most: pixels that a stranger's picture may have, see `shrink`.
    Raises LatentiaError where the file is missing or no picture, or has another size and `fit` is off.
    """
    name = path if isinstance(path, Path) else f"the {what}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = read_picture(path, "L" if channels == 1 else "RGB", size if fit else None, levels, most)
    except Exception as error:  # decoders raise almost anything on hostile bytes
        raise LatentiaError(f"{name} cannot be read as a {what}: {reason_of(error)}") from None
    if picture.shape[:2] != (size, size):
        actual = f"{picture.shape[1]}×{picture.shape[0]}"
        raise LatentiaError(f"{name} is {actual}, the model takes {size}×{size}: add --fit to resize and crop it")
    return picture


def shrink(picture: Image.Image, most: int, size: int | Frame | None) -> None:
    """Makes an opened picture smaller, in place, so that it takes little memory; no side falls below 4 × `size`.

    Raises ValueError where the head of its file says that it has more pixels than `most`.
    """
    if picture.width * picture.height > most:
        raise ValueError(f"it has {picture.width}×{picture.height} pixels, at most {most:,} are taken")
    if size is not None and not picture.mode.startswith("I"):
        factor = 4 * max(sides_of(size)) / min(picture.size)
        if factor < 1:
            picture.thumbnail((math.ceil(factor * picture.width), math.ceil(factor * picture.height)))


def read_mask(path: Path | BytesIO, size: int, fit: bool = False, most: int | None = None) -> NDArray[np.bool_]:
    """A mask as booleans (size, size): True where it is nearer to white. Arguments and errors as of `read_one`.

    Raises LatentiaError also for a mask that is black or white all over, or grey rather than either.
    """
    name = path if isinstance(path, Path) else "the mask"
    values = read_one(path, 1, size, fit, "mask", most=most)[..., 0]
    mask: NDArray[np.bool_] = values > 127
    if mask.all() or not mask.any():
        colour, why = ("white", "nothing would be kept") if mask.all() else ("black", "nothing is to be repaired")
        raise LatentiaError(f"{name} is {colour} all over: {why}")
    if (grey := ((values > 63) & (values < 192)).mean()) > MOST_GREY:
        raise LatentiaError(
            f"{name} is grey in {grey:.0%} of its pixels, expected white to be repaired, black to be kept"
        )
    return mask


def record_file(path: str, status: os.stat_result) -> str:
    """Identifies a file's content without reading it."""
    return json.dumps([path, status.st_size, status.st_mtime_ns])
