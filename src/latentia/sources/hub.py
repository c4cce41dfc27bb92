"""Models on the Hugging Face hub: "hf:owner/name", with a revision as "hf:owner/name@v1"."""

from pathlib import Path

from latentia.errors import LatentiaError, first_line

PREFIX = "hf:"
FILES = ("*.json", "*.safetensors", "*.md")  # of a model folder; nothing that could be executed


def is_on_hub(name: str | Path) -> bool:
    return str(name).startswith(PREFIX)


def hub_folder(name: str | Path) -> Path:
    """The files of a model in the hub's cache, downloaded if need be. Raises LatentiaError where they cannot be had."""
    from huggingface_hub import snapshot_download  # slow to import

    owner_name, _, revision = str(name).removeprefix(PREFIX).partition("@")
    try:
        return Path(snapshot_download(owner_name, revision=revision or None, allow_patterns=list(FILES)))
    except Exception as error:  # the library documents no common class: names, the net, the disk
        raise LatentiaError(f"{name} cannot be downloaded: {first_line(error)}") from None
