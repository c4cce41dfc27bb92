import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from latentia.errors import LatentiaError
from latentia.files import (
    WEIGHTS_NAME,
    as_float,
    as_stored,
    atomic_path,
    load_part,
    module_hash,
    new_folder,
    read_json,
    read_tensors,
    rounded,
    save_part,
    write_json,
    write_tensors,
)


def part(width: int = 3) -> nn.Module:
    return nn.Linear(width, 2)


def test_atomic_path_keeps_the_old_file_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    def made(path: Path, text: str, fails: bool = False, replace: bool = False) -> None:
        with new_folder(path, replace=replace) as folder:
            (folder / "file.txt").write_text(text)
            if fails:
                raise ZeroDivisionError

    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        made(out, "half", fails=True)
    assert list(tmp_path.iterdir()) == []
    made(out, "whole")
    with pytest.raises(LatentiaError, match="out exists"):
        made(out, "again")
    with pytest.raises(ZeroDivisionError):
        made(out, "half", fails=True, replace=True)
    assert [path.read_text() for path in tmp_path.rglob("*.txt")] == ["whole"]
    made(out, "new", replace=True)
    assert [path.read_text() for path in tmp_path.rglob("*.txt")] == ["new"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_folder_that_is_replaced_keeps_what_others_have_put_into_it(
    at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not at_once:
        monkeypatch.setattr("latentia.files.ctypes.CDLL", lambda name: None)
    out = tmp_path / "out"
    for number in range(3):
        with new_folder(out, replace=True) as folder:
            (folder / "part").mkdir()
            (folder / "part" / "file.txt").write_text(str(number))
        (out / "report.md").write_text("figures")
    assert (out / "part" / "file.txt").read_text() == "2"
    assert {path.name for path in out.iterdir()} == {"part", "report.md"}
    assert list(tmp_path.iterdir()) == [out]


def test_a_part_comes_back_as_it_was(tmp_path: Path) -> None:
    module = part()
    save_part(tmp_path, module, {"width": 3})
    again = load_part(tmp_path, {"Linear": part})
    assert module_hash(again) == module_hash(module)
    half = tmp_path / "half"
    save_part(half, module, {"width": 3}, torch.float16)
    torch.testing.assert_close(load_part(half, {"Linear": part}).weight, module.weight, rtol=1e-3, atol=1e-3)


def test_hash_tells_weights_shapes_and_scalars_apart() -> None:
    torch.manual_seed(0)
    a, b = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    assert module_hash(a) == module_hash(b)
    b.num_batches_tracked += 1
    assert module_hash(a) != module_hash(b)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"_class_name": "os.system"}, "expected one of Linear"),
        ({"_class_name": ["Linear"]}, "expected one of Linear"),
        ({"_class_name": "Linear", "width": "wide"}, "does not describe a part of a model"),
        ({"_class_name": "Linear", "depth": 3}, "does not describe a part of a model"),
        ({"_class_name": "Linear", "width": 4}, "does not fit Linear"),
    ],
)
def test_a_wrong_config_is_one_line(config: dict[str, object], said: str, tmp_path: Path) -> None:
    save_part(tmp_path, part(), {"width": 3})
    write_json(tmp_path / "config.json", config)
    with pytest.raises(LatentiaError, match=said) as caught:
        load_part(tmp_path, {"Linear": part})
    assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("content", [pickle.dumps(Bomb()), b"", b"\xff" * 64])
def test_what_is_no_safetensors_file_is_refused_and_not_executed(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(LatentiaError, match=r"weights\.safetensors"):
        read_tensors(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"a": torch.arange(100.0)})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(LatentiaError, match="not a readable safetensors file"):
        read_tensors(path)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000])
def test_what_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(LatentiaError, match=r"bad\.json"):
        read_json(path)


@pytest.mark.parametrize("spread", [1e-12, 0.02, 3e5])
def test_weights_of_8_bits_are_near_and_stay_as_they_are(spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {
        "weight": torch.randn(9, 3, 4, generator=generator) * spread * torch.logspace(-3, 3, 9)[:, None, None],
        "zeros": torch.zeros(2, 5),
        "bias": torch.randn(9, generator=generator),
        "count": torch.tensor([[3]]),
    }
    kept = as_stored(state, torch.int8)
    assert kept["weight"].dtype == torch.int8
    assert kept["weight.scale"].shape == (9, 1, 1)
    back = as_float(kept, Path("file"))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in ("zeros", "bias", "count"))
    rows = state["weight"].flatten(1)
    error = (back["weight"].flatten(1) - rows).abs().amax(1) / rows.abs().amax(1)
    assert float(error.max()) < 0.6 / 127  # half a step, and the scale's own rounding
    again = as_stored(back, torch.int8)
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[name], value) for name, value in kept.items())


def test_a_part_of_8_bits_is_what_was_rounded(tmp_path: Path) -> None:
    made = rounded(part(), torch.int8)
    save_part(tmp_path, made, {"width": 3}, torch.int8)
    assert read_tensors(tmp_path / WEIGHTS_NAME)["weight"].dtype == torch.int8
    assert module_hash(load_part(tmp_path, {"Linear": part})) == module_hash(made)


@pytest.mark.parametrize("scale", [None, torch.ones(3, 1), torch.ones(2), torch.ones(())])
def test_weights_of_8_bits_need_their_scale(tmp_path: Path, scale: torch.Tensor | None) -> None:
    save_part(tmp_path, part(), {"width": 3}, torch.int8)
    state = read_tensors(tmp_path / WEIGHTS_NAME)
    del state["weight.scale"]
    write_tensors(tmp_path / WEIGHTS_NAME, state | ({} if scale is None else {"weight.scale": scale}))
    with pytest.raises(LatentiaError, match=r"weight has 8 bits a weight, and no weight\.scale that fits it"):
        load_part(tmp_path, {"Linear": part})
