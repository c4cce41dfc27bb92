"""What `latentia data doctor` finds in a set of texts."""

from collections import Counter

import numpy as np

from latentia.modalities.base import Finding, class_findings, count_findings
from latentia.modalities.text.plan import LETTERS_A_TOKEN, LONGEST, in_words
from latentia.modalities.text.texts import TextSet

NAMED = 3


def examine(texts: TextSet) -> list[Finding]:
    """Findings on a set of texts."""
    found = [Finding(line) for line in in_words(texts)[: 1 if texts.labels is None else 2]]
    if texts.skipped:
        found.append(Finding(f"{len(texts.skipped)} cannot be read: {'; '.join(texts.skipped[:NAMED])}", "mend them"))
    found += count_findings(len(texts), "texts")
    found += class_findings(texts.labels, texts.class_names, "texts")
    letters = np.array([len(text) for text in texts.texts])
    most = int(LONGEST * LETTERS_A_TOKEN)
    if long := int(np.count_nonzero(letters > most)):
        advice = "a plan leaves them out: cut them into sentences, or raise first_stage.max_tokens"
        found.append(Finding(f"{long} texts have more than about {most} letters", advice))
    if extra := len(texts) - len(Counter(texts.texts)):
        found.append(Finding(f"{extra} texts are there twice", "delete them: what occurs often is written often"))
    return found
