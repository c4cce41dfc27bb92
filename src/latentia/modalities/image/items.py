"""Pictures as training items, in the views that a denoiser learns from."""

from dataclasses import replace

from latentia.items import ItemSet
from latentia.modalities.image.codec import PictureCodec
from latentia.modalities.image.pictures import PictureSet, to_float


def picture_items(pictures: PictureSet) -> ItemSet:
    """Pictures of one size as training items."""
    height, width = pictures.images.shape[1:3]
    size = height if height == width else (height, width)
    return ItemSet(
        name=pictures.name,
        source=pictures.source,
        description=f"{len(pictures)} pictures of {width}×{height}",
        count=len(pictures),
        size=size,
        codec=PictureCodec(height),
        fingerprint=pictures.fingerprint,
        views={"plain": lambda rows: to_float(pictures.images[rows])},
        arguments={"in_channels": pictures.channels},
        labels=pictures.labels,
        class_names=pictures.class_names,
        captions=pictures.captions,
        skipped=pictures.skipped,
    )


def mirrored(items: ItemSet) -> ItemSet:
    """The pictures and their mirror images, both to be drawn."""
    plain = items.views["plain"]
    views = {"plain": plain, "mirror": lambda rows: plain(rows).flip(-1)}
    parts = tuple(mirrored(part) for part in items.parts)
    return replace(items, views=views, targets=("plain", "mirror"), parts=parts)
