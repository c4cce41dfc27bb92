"""What training asks of a data set, whatever its modality."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Examples(Protocol):
    """Examples that a first stage can encode: a `PictureSet`, a `TokenSet`, or what is made of them."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str:
        """One sentence that says where the examples came from."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """What was left out, and why."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(N,) in [0, num_classes), or None where there are no classes."""

    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with what is held."""

    @property
    def size(self) -> int:
        """The side of a picture in pixels, or the most tokens that a text has."""

    def __len__(self) -> int: ...
    def tensor(self, rows: NDArray[Any] | slice, variant: int = 0) -> Tensor:
        """The examples at `rows` as the first stage takes them.

        Variant 0 is the example itself, variant 1 a picture's mirror image or a text with a gap.
        """
