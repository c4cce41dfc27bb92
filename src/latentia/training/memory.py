"""What training needs of a device's memory, before it is allocated."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor, nn

from latentia.denoiser import count_parameters
from latentia.errors import LatentiaError
from latentia.files import WithoutDraws, in_bytes

PARAMETER_BYTES = 20  # weight, gradient, AdamW's two moments and EMA, in float32


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def require_memory(needed: float, free: int, what: str) -> None:
    """Raises LatentiaError, which names `what` needs so many bytes, where fewer are free."""
    if needed > free:
        raise LatentiaError(f"{what} needs about {in_bytes(needed)} of memory, and {in_bytes(free)} are free")


def require_room(make: Callable[[], nn.Module], what: str) -> None:
    """Raises LatentiaError where the module that `make` builds is too large to be trained in the host's memory.

    It is built on the meta device, which allocates nothing; one that cannot be built there is not looked at.
    """
    try:
        with torch.device("meta"), WithoutDraws():
            weights = count_parameters(make())
    except RuntimeError:
        return
    require_memory(PARAMETER_BYTES * weights, free_memory(torch.device("cpu")), f"{what} of {weights:,} weights")


@contextmanager
def kept_bytes() -> Iterator[dict[int, int]]:
    """The sizes in bytes of the memory that is kept for backward passes in the block, parameters left out."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes
