"""What can go wrong around a command, such as a full disk or a signal, is one line and a status that says so."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from latentia import cli
from latentia.errors import LatentiaError, is_out_of_memory, printable
from latentia.files import check_writable, read_json, read_tensors, write_json, write_tensors
from latentia.model import load
from latentia.training import train


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "latentia", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "/disk/x.npy"), "error: /disk/x.npy: No space left on device"),
        (PermissionError(13, "Permission denied", "/root/x"), "error: /root/x: Permission denied"),
        (OSError("cannot write mode F as PNG"), "error: cannot write mode F as PNG"),
        (MemoryError(), "error: there is not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "error: there is not enough memory"),
        (LatentiaError("a\x1b[31m name\nof two lines"), r"error: a\x1b[31m name\nof two lines"),
    ],
)
def test_every_fault_around_a_command_is_one_line(
    error: BaseException, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr().err
    assert ended.value.code == 1
    assert printed.startswith(line)
    assert printed.count("\n") == 1


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(RuntimeError):
        cli.main()


def test_a_signal_ends_a_command_with_a_word(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    command = [sys.executable, "-m", "latentia", "sample", tiny_run / "model", "--count", "100000", "--out", out]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "sampling" not in process.stderr.readline(200):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 143
    assert rest.splitlines()[-1].endswith("stopped")
    assert "Traceback" not in rest
    assert not out.exists()


def test_a_reader_that_has_enough_is_no_error(tiny_run: Path) -> None:
    command = f"{sys.executable} -m latentia recipe show | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seed", "-2"], "--seed -2: expected 0 to"),
        (["--seed", str(2**63)], "expected 0 to"),
        (["--device", "cuda:99"], "device cuda:99: "),
        (["--device", "x"], "device x: "),
        (["--count", str(10**12)], "items are more than 1,000,000 at once"),
        (["--index", str(2**63)], "items are more than 1,000,000 at once"),
        (["--device", "meta"], "device meta: "),
        (["--size", "4096x4096"], "is more than 64 times as large as"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(options: list[str], words: str, tiny_run: Path, tmp_path: Path) -> None:
    done = run("sample", tiny_run / "model", "--out", tmp_path / "x.png", *options)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


def test_a_seed_by_chance_is_printed_and_draws_the_same_again(tiny_run: Path, tmp_path: Path) -> None:
    done = run("sample", tiny_run / "model", "--count", 4, "--out", tmp_path / "a.npy", "--seed", "-1")
    seed = done.stderr.split("seed: ")[1].split()[0]
    run("sample", tiny_run / "model", "--count", 4, "--out", tmp_path / "b.npy", "--seed", seed)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 1.5},
        {"steps": 0},
        {"guidance_scale": float("nan")},
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"labels": [1.7]},
        {"labels": ["Bag"]},
    ],
)
def test_generate_refuses_what_is_no_number_of_its_kind(wrong: dict[str, Any], tiny_run: Path) -> None:
    with pytest.raises(LatentiaError):
        load(tiny_run / "model").generate(wrong.pop("labels", 2), **wrong)


def test_generate_takes_every_seed(tiny_run: Path) -> None:
    drawn = [load(tiny_run / "model").generate(1, seed=seed) for seed in (2**63 - 1, 2**62)]
    assert not np.array_equal(*drawn)


@pytest.mark.parametrize("name", ["model_index.json", "training.json", "denoiser/config.json", "process/config.json"])
def test_a_pipe_in_place_of_a_file_is_refused(name: str, tiny_run: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_run / "model", tmp_path / "model"))
    (model / name).unlink()
    os.mkfifo(model / name)
    with pytest.raises(LatentiaError, match="is not a file"):
        load(model)


def test_wrong_records_of_a_training_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_run / "model", tmp_path / "model"))
    write_json(model / "training.json", read_json(model / "training.json") | {"data": "digits"})
    with pytest.raises(LatentiaError, match="data is 'digits', expected an object"):
        load(model)


def test_complex_weights_are_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", {"weight": torch.zeros(2, dtype=torch.complex64)})
    with pytest.raises(LatentiaError, match="weight is torch"):
        read_tensors(tmp_path / "x.safetensors")


def test_weights_can_be_read_by_whoever_can_read_the_rest(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", {"weight": torch.zeros(2)})
    write_json(tmp_path / "x.json", {})
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "x.json").stat().st_mode


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    dead, alive = (tmp_path / f".x.json.{number}.tmp" for number in (done.pid, os.getppid()))
    for left in (dead, alive):
        left.write_text("half")
    write_json(tmp_path / "x.json", {})
    assert not dead.exists()
    assert alive.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, "x.json"]


def test_escapes_in_names_do_not_reach_the_terminal() -> None:
    assert printable("x\x1b]0;title\x07\n.png") == r"x\x1b]0;title\x07\n.png"
    assert printable("Müller – ☃") == "Müller – ☃"
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))


SHIPPED = Path(cli.__file__).parents[1] / "shipped" / "emoji"


def flip_a_bit(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("part", ["first_stage", "denoiser"])
def test_weights_in_which_a_bit_has_changed_are_refused(
    part: str, place: float, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, source in enumerate((tiny_run / "model", SHIPPED)):  # the second was written without a checksum
        model = Path(shutil.copytree(source, tmp_path / str(number)))
        flip_a_bit(model / part / "diffusion_pytorch_model.safetensors", place)
        with pytest.raises(LatentiaError, match="its checksum differs"):
            load(model)
        with monkeypatch.context() as patch:
            patch.setenv("LATENTIA_VERIFY", "0")
            load(model)


def test_a_damaged_first_stage_is_not_trained_on(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    flip_a_bit(run / "first_stage" / "finished" / "diffusion_pytorch_model.safetensors", 0.7)
    with pytest.raises(LatentiaError, match="its checksum differs"):
        train(None, run, resume=True)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_latents_that_cannot_be_normalised_are_refused(std: float, tiny_run: Path, tmp_path: Path) -> None:
    model = load(tiny_run / "model")
    model.first_stage.latent_std.fill_(std)
    model.save(tmp_path / "model")
    with pytest.raises(LatentiaError, match=r"latent_std is not (positive|finite)"):
        load(tmp_path / "model")


def test_a_changed_model_can_be_saved_and_loaded(tiny_run: Path, tmp_path: Path) -> None:
    model = load(tiny_run / "model")
    next(model.denoiser.parameters()).data.mul_(0.5)
    model.save(tmp_path / "model", dtype="bfloat16")
    assert load(tmp_path / "model").training == model.training


def test_the_same_tensors_are_the_same_bytes(tmp_path: Path) -> None:
    metadata = {f"key {number}": "ä\n" * number for number in range(20)}
    for name in ("a", "b"):
        write_tensors(tmp_path / name, {"w": torch.ones(2), "é": torch.zeros(3)}, metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert file.metadata().items() >= metadata.items()
    assert list(read_tensors(tmp_path / "a")) == ["w", "é"]


def test_progress_is_lines_in_a_log_and_nothing_where_it_is_not_asked_for(tiny_run: Path, tmp_path: Path) -> None:
    asked = ("sample", tiny_run / "model", "--count", 4, "--out", tmp_path / "a.npy")
    loud, quiet = run(*asked), run("--quiet", *asked)
    assert [line.split(":")[0] for line in loud.stderr.splitlines()] == ["sampling"]
    assert "\r" not in loud.stderr
    assert quiet.stderr == ""
    assert quiet.returncode == 0


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "x.png", tmp_path / "file" / "deep" / "x.npy"):
        with pytest.raises(LatentiaError, match="cannot be written"):
            check_writable(out)
    done = run("sample", tiny_run / "model", "--out", tmp_path / "file" / "x.png")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    check_writable(tmp_path / "new" / "deep" / "x.png")
