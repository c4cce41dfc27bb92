"""Texts: readers, autoencoder, completion, metrics, files and the page's part."""

from latentia.modalities.text.modality import Texts

MODALITY = Texts()
