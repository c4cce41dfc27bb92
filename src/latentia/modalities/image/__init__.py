"""Pictures: readers, autoencoders, repairs, metrics, files and the page's part."""

from latentia.modalities.image.modality import MODALITY

__all__ = ["MODALITY"]
