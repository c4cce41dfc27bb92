"""Readers: files become `uint8` pictures with labels and class names."""

from latentia.data.builtin import load_pictures
from latentia.data.cifar import read_cifar10
from latentia.data.fetch import fetch_cifar10, fetch_fashion_mnist
from latentia.data.idx import read_idx
from latentia.data.pictures import PictureSet, class_index, to_float, to_uint8
from latentia.data.show import picture_grid, save_gif, save_png

__all__ = [
    "PictureSet",
    "class_index",
    "fetch_cifar10",
    "fetch_fashion_mnist",
    "load_pictures",
    "picture_grid",
    "read_cifar10",
    "read_idx",
    "save_gif",
    "save_png",
    "to_float",
    "to_uint8",
]
