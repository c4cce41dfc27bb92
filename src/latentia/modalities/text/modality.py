"""The modality of texts: one object that the core finds by its entry point. What is slow to import comes late."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from latentia.config import config, located
from latentia.errors import LatentiaError
from latentia.files import write_text
from latentia.items import ItemSet, OnCorrupt
from latentia.language.tokenizer import TOKENIZER_NAME, OnLong, Tokenizer, adopt_tokenizer, train_tokenizer
from latentia.latents.first_stage import FirstStage
from latentia.modalities.base import Evaluation, Finding, Modality, Proposal, Say, Summary, summary
from latentia.modalities.text.autoencoder import TextAutoencoder
from latentia.modalities.text.codec import GAP, TextCodec, text_items, with_gaps
from latentia.modalities.text.readers.corpora import load_texts
from latentia.modalities.text.readers.wordnet import fetch_wordnet
from latentia.modalities.text.texts import TextSet
from latentia.sources.folders import holds

ENDINGS = (".txt", ".jsonl")


@config
class TextData:
    """A recipe's section `data` for texts."""

    name: Annotated[
        str, located("wordnet"), Field(description="wordnet, hf:NAME, a .txt or .jsonl file, or a folder of .txt")
    ] = "wordnet"
    root: Annotated[str | None, located(), Field(description="folder that holds the files of a named set")] = None
    on_corrupt: Annotated[OnCorrupt, Field(description="examples that cannot be read")] = "refuse"
    on_long: Annotated[OnLong, Field(description="texts of more tokens than first_stage.max_tokens")] = "refuse"


class Texts(Modality):
    """See `latentia.modalities.base.Modality`."""

    name, plural, ending = "text", "texts", ".txt"
    objective, legacy_size = "self_conditioned", "max_tokens"
    Data = TextData
    stages: Mapping[str, type[FirstStage]] = {"TextAutoencoder": TextAutoencoder}
    options = frozenset({"judge_steps"})
    fetchers: Mapping[str, Callable[[], Path]] = {"wordnet": fetch_wordnet}
    prints, verb = True, "Write"

    def load(self, recipe: Any, folder: Path, first_stage: Path | None) -> ItemSet:
        """Texts in the ids of a tokenizer that is kept in `folder`, or of the first stage's."""
        data, stage, path = recipe.data, recipe.first_stage, folder / TOKENIZER_NAME
        texts = load_texts(data.name, "train", data.on_corrupt, data.root)
        if not path.exists():
            if first_stage is not None:
                tokenizer = Tokenizer.load(Path(first_stage).parent / TOKENIZER_NAME)
            elif stage.encoder is None:
                tokenizer = train_tokenizer(texts.texts, stage.vocab_size)
            else:
                tokenizer = adopt_tokenizer(Path(stage.encoder))[0]
            tokenizer.save(path)
        return text_items(texts, TextCodec(Tokenizer.load(path), stage.max_tokens), data.on_long)

    def for_denoiser(self, recipe: Any, items: ItemSet, folder: Path) -> ItemSet:
        if recipe.task is not None:
            raise LatentiaError("task is for pictures; texts are completed without one")
        if recipe.clusters:
            raise LatentiaError("clusters are for pictures: set clusters=0")
        if recipe.denoiser.kind != "DiT":
            raise LatentiaError(f"texts need a DiT as denoiser, not a {recipe.denoiser.kind}: set denoiser.kind=DiT")
        return with_gaps(items)

    def train_stage(
        self, recipe: Any, items: ItemSet, folder: Path, accelerator: Any, say: Say, **options: Any
    ) -> FirstStage:
        from latentia.modalities.text.train import train_text_stage

        return train_text_stage(recipe, items, folder, accelerator, say=say)

    def codec(self, config: Mapping[str, Any], folder: Path) -> TextCodec:
        return TextCodec(Tokenizer.load(folder / TOKENIZER_NAME), int(config["size"]))

    def check(self, model: Any, folder: Path) -> None:
        own = model.first_stage.config
        known = (model.codec.tokenizer.vocab_size, len(model.class_names))
        if (own.get("vocab_size"), own.get("classes")) != known:
            raise LatentiaError(f"{folder}: first stage and tokenizer do not fit each other, or one of them is missing")

    def save(self, items: Sequence[str], path: Path) -> None:
        """One text a line."""
        write_text(path, "".join(f"{text}\n" for text in items))

    def stack(self, items: Sequence[str]) -> list[str]:
        return list(items)

    answer = stack

    def evaluate(self, model: Any, out: Path, how: Evaluation) -> str:
        from latentia.modalities.text.evaluate import evaluate_text_model

        return evaluate_text_model(model, out, how)

    def complete(
        self, model: Any, count: int, *, prefix: str | None = None, infill: str | None = None, **options: Any
    ) -> tuple[list[str], int]:
        from latentia.modalities.text.write import complete

        return complete(model, (infill or "") if prefix is None else f"{prefix} {GAP}", count, **options)

    def between(self, model: Any, first: str, last: str, count: int) -> list[str]:
        from latentia.modalities.text.write import interpolate

        return interpolate(model, first, last, count)

    def claims(self, name: str) -> int:
        return 2 if name == "wordnet" or name.endswith(ENDINGS) or holds(Path(name).expanduser(), ENDINGS) else 0

    def survey(self, name: str, root: str | None) -> TextSet:
        return load_texts(name, "train", "skip", root)

    def plan(self, held: TextSet, name: str, root: str | None, minutes: float, device: str) -> Proposal:
        from latentia.modalities.text.plan import proposal

        return proposal(held, name, root, minutes, device)

    def examine(self, name: str, root: str | None) -> list[Finding]:
        from latentia.modalities.text.examine import examine

        return examine(self.survey(name, root))

    def show(self, name: str, split: Any, how: Mapping[str, Any]) -> Summary:
        """The first ten texts follow."""
        if how["out"] or how["size"]:
            raise LatentiaError("--out and --size are not for texts")
        held = load_texts(name, split, how["on_corrupt"], how["root"])
        return summary(held, f"{len(held)} texts", [f"  {text}" for text in held.texts[:10]])

    def widget(self, **how: Any) -> Any:
        import gradio

        return gradio.Textbox(label="Texts", lines=8, **how)

    def component_value(self, items: Sequence[str], model: Any) -> str:
        return "\n".join(items)


MODALITY = Texts()
