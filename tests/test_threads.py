"""OpenMP's settings: what the user has set stays, and a container's quota decides the number of threads."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from latentia.threads import processor_share, quota_of, settle

CORES = psutil.cpu_count(logical=False) or os.cpu_count() or 1


@pytest.fixture
def no_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentia.threads.processor_share", lambda: None)


@pytest.mark.usefixtures("no_quota")
def test_threads_sleep_soon() -> None:
    environ: dict[str, str] = {}
    settle(environ)
    assert environ == {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "0"}


@pytest.mark.parametrize(
    "own",
    [{"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": "5"}],
)
def test_what_the_user_has_set_stays(own: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentia.threads.processor_share", lambda: None if "OMP_NUM_THREADS" not in own else 1)
    environ = dict(own)
    settle(environ)
    assert environ == own


def test_a_quota_is_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentia.threads.processor_share", lambda: 3)
    environ: dict[str, str] = {}
    settle(environ)
    assert environ["OMP_NUM_THREADS"] == "3"


def container(tmp_path: Path, lines: str, **quotas: str) -> tuple[Path, Path]:
    """A /proc/self/cgroup, and the folder of control groups with the files given as folder__file=content."""
    (tmp_path / "proc").write_text(lines, encoding="utf-8", errors="surrogateescape")
    for place, content in quotas.items():
        path = tmp_path / "mounts" / place.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return tmp_path / "proc", tmp_path / "mounts"


@pytest.mark.skipif(CORES < 2, reason="one core is no more than any quota")
@pytest.mark.parametrize(
    ("lines", "quotas", "share"),
    [
        ("0::/\n", {"cpu_DOT_max": "100000 100000\n"}, 1),
        ("0::/a/b\n", {"a__b__cpu_DOT_max": "max 100000\n", "a__cpu_DOT_max": "50000 100000\n"}, 1),
        ("0::/a\n", {"a__cpu_DOT_max": "max 100000\n"}, None),
        ("0::/a\n", {"a__cpu_DOT_max": "110000 100000\n"}, 2),
        ("0::/elsewhere\n", {"cpu_DOT_max": "70000 100000\n"}, 1),  # the host's path, in a container
        ("0::/a\n", {"a__cpu_DOT_max": f"{CORES}00000 100000\n"}, None),
        ("3:cpu:/x\n", {"cpu__x__cpu_DOT_cfs_quota_us": "90000\n", "cpu__x__cpu_DOT_cfs_period_us": "100000\n"}, 1),
        (
            "3:cpu,cpuacct:/x\n",
            {"cpu,cpuacct__cpu_DOT_cfs_quota_us": "90000\n", "cpu,cpuacct__cpu_DOT_cfs_period_us": "100000\n"},
            1,
        ),
        ("3:cpu:/x\n", {"cpu__x__cpu_DOT_cfs_quota_us": "-1\n", "cpu__x__cpu_DOT_cfs_period_us": "100000\n"}, None),
        ("3:memory:/x\n", {"memory__x__cpu_DOT_max": "10000 100000\n"}, None),
        ("0::/a\n", {"a__cpu_DOT_max": "soon\n"}, None),
        ("nonsense\n", {}, None),
        ("0::/\udcff\n", {"cpu_DOT_max": "70000 100000\n"}, 1),
    ],
)
def test_the_share_is_the_smallest_quota_above(
    lines: str, quotas: dict[str, str], share: int | None, tmp_path: Path
) -> None:
    proc, mounts = container(tmp_path, lines, **quotas)
    assert processor_share(proc, mounts) == (share if share is None else min(share, CORES))


def test_where_there_are_no_control_groups(tmp_path: Path) -> None:
    assert processor_share(tmp_path / "none", tmp_path) is None
    assert quota_of(tmp_path) is None


def test_a_command_settles_before_pytorch_is_loaded() -> None:
    """Later, OpenMP has read its variables already."""
    program = """
import sys
from latentia import cli
cli.settle = lambda: sys.exit(7 if "torch" not in sys.modules else 8)
cli.main()
"""
    assert subprocess.run([sys.executable, "-c", program, "recipe", "list"], check=False).returncode == 7


def test_loading_a_model_does_not_load_the_compiler(tiny_model: Path) -> None:
    program = "import sys, latentia; latentia.load(sys.argv[1]); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program, str(tiny_model)], check=False).returncode == 0
