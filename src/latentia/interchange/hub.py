"""Puts a model on the Hugging Face hub, with a card that says what it is and how it was measured."""

import shutil
import tempfile
from pathlib import Path

from latentia.description import described
from latentia.errors import LatentiaError, first_line
from latentia.model import load, model_folder
from latentia.sources.hub import PREFIX

CARD = "README.md"
REPORT = "report.md"  # in the folder that `latentia evaluate` writes
PICTURES = ("samples.png",)  # of a report, shown in the card
TEMPLATE = """---
library_name: latentia
tags: [latentia, latent-diffusion]
---
# {title}

{samples}A latent diffusion model, trained with Latentia. It makes {makes}.

```python
import latentia

model = latentia.load("{name}")
items = model.generate(8)
```

| | |
|---|---|
{rows}

The licence of the training data applies to what the model learned from them.
"""


def push_model(folder: str | Path, name: str, *, report: str | Path | None = None, private: bool = False) -> str:
    """Uploads a model folder, or that of a run, as `name` ("owner/name") and returns its address.

    report: the folder of `latentia evaluate`, whose figures and samples go into the card.
    Raises LatentiaError where the model or the report cannot be read, or the hub refuses them.
    """
    from huggingface_hub import HfApi

    name, source, shown = (
        name.removeprefix(PREFIX),
        model_folder(Path(folder)),
        None if report is None else Path(report),
    )
    text = card(source, name, shown)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "model"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".*"))
        (copy / CARD).write_text(text, encoding="utf-8")
        for picture in PICTURES:
            if shown is not None and (shown / picture).is_file():
                shutil.copy(shown / picture, copy / picture)
        try:
            api = HfApi()
            api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=copy, commit_message="A model of Latentia")
        except Exception as error:  # the library documents no common class
            advice = "log in by `hf auth login` or HF_TOKEN"
            raise LatentiaError(f"{name} cannot be uploaded: {first_line(error)}; {advice}") from None
        return f"{api.endpoint}/{name}"


def card(folder: Path, name: str, report: Path | None) -> str:
    """The model card: what the model is, how to use it, its figures. Raises LatentiaError for an unreadable report."""
    facts = described(load(folder))
    makes, rows = facts.pop("makes"), [f"| {key} | {text.replace('|', '/')} |" for key, text in facts.items()]
    picture = report is not None and (report / PICTURES[0]).is_file()
    text = TEMPLATE.format(
        title=name.split("/")[-1],
        samples=f"![Samples]({PICTURES[0]})\n\n" if picture else "",
        makes=makes,
        name=f"{PREFIX}{name}",
        rows="\n".join(rows),
    )
    if report is None:
        return text
    try:
        return f"{text}\n## Figures\n\n```\n{(report / REPORT).read_text(encoding='utf-8').strip()}\n```\n"
    except OSError as error:
        raise LatentiaError(f"{report / REPORT} cannot be read: {error.strerror}; see latentia evaluate") from None
