"""The threads of a command: no more than the process's share of the processors, and asleep while they wait.

And the memory that they have freed.
"""

import ctypes
import math
import os
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

# How often a thread of OpenMP looks for work before it sleeps, some 40 µs. GNU's runtime looks 300,000 times, so that
# two processes on the same cores take the time from each other. A thread that sleeps at once (0) is woken for each of
# the short pieces of work that a small network consists of, which halves the speed of training on an idle machine.
SPINS = 2000
ARENA_MAX, MMAP_THRESHOLD = -8, -3  # the names of settings in malloc.h
LARGE = 2**21  # bytes


def settle(environ: MutableMapping[str, str] = os.environ) -> None:
    """Sets up OpenMP by its environment variables, before PyTorch is loaded; what the user has set stays."""
    if "OMP_WAIT_POLICY" not in environ:
        environ["OMP_WAIT_POLICY"] = "passive"
        environ.setdefault(
            "GOMP_SPINCOUNT", str(SPINS)
        )  # GNU's runtime, PyTorch's on Linux; more exact than the policy
        environ.setdefault("KMP_BLOCKTIME", "0")  # LLVM's and Intel's, in ms: 200 otherwise
    if not environ.get("OMP_NUM_THREADS"):
        share = processor_share()
        if share is not None:
            environ["OMP_NUM_THREADS"] = str(share)


def keep_memory_together() -> None:
    """Lets all threads free into the same two heaps of glibc, and large blocks, such as bodies of requests, to the
    system: each thread has a heap of its own otherwise, and keeps there what is free."""
    with suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(ARENA_MAX, 2)
        library.mallopt(MMAP_THRESHOLD, LARGE)


def give_back_memory() -> None:
    """Returns to the system what glibc keeps of freed memory."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def processor_share(proc: Path = Path("/proc/self/cgroup"), mounts: Path = Path("/sys/fs/cgroup")) -> int | None:
    """How many processors the container's quota amounts to, rounded up; None where it is no limit.

    Every control group above the process's own can have a quota, and the lowest holds. PyTorch itself counts the
    processors of the host.
    """
    import psutil

    quotas = [quota for folder in control_groups(proc, mounts) if (quota := quota_of(folder)) is not None]
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        cores = min(cores, len(os.sched_getaffinity(0)))
    if not quotas or min(quotas) >= cores:
        return None
    return max(1, math.ceil(min(quotas)))


def control_groups(proc: Path, mounts: Path) -> list[Path]:
    """The folders of the process's control group and of all above it, of version 2 and of version 1's `cpu`."""
    try:
        lines = [line.split(":", 2) for line in proc.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:  # not Linux
        return []
    folders = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (mounts / controllers, mounts / "cpu") if controllers else (mounts, mounts / "unified"):
            own = mount / path.lstrip("/")
            folders += [folder for folder in (own, *own.parents) if folder == mount or mount in folder.parents]
    return folders


def quota_of(folder: Path) -> float | None:
    """Processors that a control group may use on average: `cpu.max`, or version 1's `cpu.cfs_quota_us`."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
            )
        share = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None
    return share if share > 0 else None  # version 1 writes -1 where there is no limit
