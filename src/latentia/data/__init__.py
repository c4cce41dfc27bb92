"""Readers: files become `uint8` pictures or texts, with labels and class names; texts become token ids."""

from latentia.data.builtin import load_pictures
from latentia.data.cifar import read_cifar10
from latentia.data.clusters import cluster_pictures
from latentia.data.codec import GAP, PictureCodec, TextCodec, TokenSet
from latentia.data.corpora import load_texts
from latentia.data.degrade import (
    Degradation,
    blur,
    cover,
    gaussian_kernel,
    grey,
    hide,
    keep_all,
    motion_kernel,
    shrink,
)
from latentia.data.emoji import EMOJI_LANGUAGES, prepare_emoji
from latentia.data.examples import Examples
from latentia.data.fetch import fetch_cifar10, fetch_fashion_mnist, fetch_wordnet
from latentia.data.frames import FramedPictures, load_framed
from latentia.data.idx import read_idx
from latentia.data.mix import MixedPictures
from latentia.data.pictures import PictureSet, class_index, fit_picture, parse_size, to_float, to_uint8
from latentia.data.prompts import CaptionIds, PromptCodec, PromptIds
from latentia.data.repair import RepairExamples, RepairTask, draw_masks
from latentia.data.show import picture_grid, save_gif, save_png, write_pictures
from latentia.data.single import read_mask, read_one
from latentia.data.texts import TextSet
from latentia.data.tokens import Tokenizer, TokenMatrix, adopt_tokenizer, token_matrix, train_tokenizer
from latentia.data.wordpieces import WordPieces, adopt_wordpieces

__all__ = [
    "EMOJI_LANGUAGES",
    "GAP",
    "CaptionIds",
    "Degradation",
    "Examples",
    "FramedPictures",
    "MixedPictures",
    "PictureCodec",
    "PictureSet",
    "PromptCodec",
    "PromptIds",
    "RepairExamples",
    "RepairTask",
    "TextCodec",
    "TextSet",
    "TokenMatrix",
    "TokenSet",
    "Tokenizer",
    "WordPieces",
    "adopt_tokenizer",
    "adopt_wordpieces",
    "blur",
    "class_index",
    "cluster_pictures",
    "cover",
    "draw_masks",
    "fetch_cifar10",
    "fetch_fashion_mnist",
    "fetch_wordnet",
    "fit_picture",
    "gaussian_kernel",
    "grey",
    "hide",
    "keep_all",
    "load_framed",
    "load_pictures",
    "load_texts",
    "motion_kernel",
    "parse_size",
    "picture_grid",
    "prepare_emoji",
    "read_cifar10",
    "read_idx",
    "read_mask",
    "read_one",
    "save_gif",
    "save_png",
    "shrink",
    "to_float",
    "to_uint8",
    "token_matrix",
    "train_tokenizer",
    "write_pictures",
]
