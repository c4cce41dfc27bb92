"""The format is that of the manual pages wndb(5) and lexnames(5) of WordNet."""

import os
from collections import Counter
from pathlib import Path

import pytest

from latentia.errors import LatentiaError
from latentia.modalities.text.readers.corpora import load_texts
from latentia.modalities.text.readers.wordnet import DEBIAN_FOLDER, LEXICOGRAPHER_FILES, fetch_wordnet, has_wordnet
from latentia.sources.folders import held_out

LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by  \n"
LINES = {
    "noun": [
        "00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 ~ 00002137 n 0000 | that which is perceived",
        '02084071 05 n 03 dog 0 Canis_familiaris 0 000 | a member of the genus Canis; "the dog barked"  ',
        "15113229 28 n 02 time_period 0 period 0 000 | an amount of time | with a bar",
    ],
    "verb": [
        "00001740 29 v 04 breathe 0 take_a_breath 0 respire 0 suspire 3 000 01 + 02 00 | draw air into the lungs",
        "02770535 43 v 01 rain 0 000 01 + 08 00 | precipitate as rain",
    ],
    "adj": [
        "00001740 00 a 01 able 0 000 | having the necessary means",
        "00004171 00 s 01 dying 0 000 | being on the point of death",
        '02639000 01 a 01 stellar 0 000 | a member of the genus Canis; "the dog barked"',
        "03148000 44 a 01 left 2 000 | not used up",
    ],
    "adv": ["00001740 02 r 01 a_cappella 0 000 | without musical accompaniment"],
}
GLOSSES = [
    ("that which is perceived", "noun.Tops"),
    ('a member of the genus Canis; "the dog barked"', "noun.animal"),
    ("an amount of time | with a bar", "noun.time"),
    ("draw air into the lungs", "verb.body"),
    ("precipitate as rain", "verb.weather"),
    ("having the necessary means", "adj.all"),
    ("being on the point of death", "adj.all"),
    ("not used up", "adj.ppl"),
    ("without musical accompaniment", "adv.all"),
]


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    folder = tmp_path / "wordnet"
    folder.mkdir()
    for part, lines in LINES.items():
        (folder / f"data.{part}").write_text(LICENCE + "".join(f"{line}\n" for line in lines), encoding="ascii")
    return folder


def pairs(texts) -> list[tuple[str, str]]:
    return [(text, texts.class_names[label]) for text, label in zip(texts.texts, texts.labels, strict=True)]


@pytest.mark.parametrize("above", [True, False])
def test_glosses_have_the_class_of_their_file(wordnet, above):
    texts = load_texts("wordnet", root=wordnet.parent if above else wordnet)
    assert pairs(texts) == [pair for pair in GLOSSES if not held_out(pair[0], 20)]
    assert len(texts) >= 5
    assert (texts.name, texts.class_names) == ("wordnet", LEXICOGRAPHER_FILES)
    assert "1 repeated" in texts.source


def test_there_are_forty_five_files_in_their_order():
    assert len(set(LEXICOGRAPHER_FILES)) == len(LEXICOGRAPHER_FILES) == 45
    assert Counter(name.split(".")[0] for name in LEXICOGRAPHER_FILES) == {"noun": 26, "verb": 15, "adj": 3, "adv": 1}
    nouns, verbs = LEXICOGRAPHER_FILES[4:29], LEXICOGRAPHER_FILES[29:44]
    assert (list(nouns), list(verbs)) == (sorted(nouns), sorted(verbs))  # lexnames(5) lists these by the alphabet


@pytest.mark.parametrize(
    "line",
    [
        "00001740 45 r 01 a_cappella 0 000 | a class that there is not",
        "00001740 02 x 01 a_cappella 0 000 | no part of speech",
        "1740 02 r 01 a_cappella 0 000 | no offset",
        "00001740 02 r 01 a_cappella 0 000 ",
        "00001740 02 r 01 a_cappella 0 000 |  ",
        "cut in the mid",
    ],
)
def test_a_damaged_line_is_named(wordnet, line):
    with (wordnet / "data.adv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(LatentiaError, match=r"1 of 11 .*data\.adv line 3: no synset with a gloss"):
        load_texts("wordnet", root=wordnet)
    assert len(load_texts("wordnet", root=wordnet, on_corrupt="skip").skipped) == 1


def test_where_it_is_looked_for(wordnet, cache, monkeypatch):
    (wordnet / "data.adv").rename(wordnet / "data.other")
    with pytest.raises(LatentiaError, match=r"sudo apt-get install wordnet-base, fetch.* latentia data fetch wordnet"):
        load_texts("wordnet", root=wordnet)
    (wordnet / "data.other").rename(wordnet / "data.adv")
    monkeypatch.setattr("latentia.modalities.text.readers.wordnet.DEBIAN_FOLDER", wordnet.parent / "absent")
    with pytest.raises(LatentiaError, match=f"not found in .*absent, {cache}/wordnet"):
        load_texts("wordnet")
    monkeypatch.setenv("LATENTIA_DATA", str(wordnet.parent))
    assert str(wordnet) in load_texts("wordnet").source
    monkeypatch.delenv("LATENTIA_DATA")
    wordnet.rename(cache / "wordnet")
    assert str(cache) in load_texts("wordnet").source


def test_the_files_come_out_of_the_package(wordnet, tmp_path, cache, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (
        ("apt-get", "touch wordnet-base_1_all.deb"),
        ("dpkg-deb", f"mkdir -p $3/usr/share\ncp -r {wordnet} $3/usr/share\ntouch $3/usr/share/wordnet/index.noun"),
    ):
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $@" >> {tmp_path}/calls\n{text}\n')
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin")
    assert fetch_wordnet() == fetch_wordnet() == cache / "wordnet"
    assert (tmp_path / "calls").read_text().startswith("apt-get download wordnet-base\ndpkg-deb -x ")
    assert (tmp_path / "calls").read_text().count("\n") == 2  # what is there is not fetched again
    assert sorted(path.name for path in (cache / "wordnet").iterdir()) == [f"data.{part}" for part in sorted(LINES)]
    (wordnet / "data.verb").unlink()
    monkeypatch.setenv("LATENTIA_CACHE", str(tmp_path / "other"))
    with pytest.raises(LatentiaError, match="wordnet-base lacks some of the four data files of WordNet"):
        fetch_wordnet()
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(LatentiaError, match="wordnet-base is fetched with apt-get and dpkg-deb, which are not here"):
        fetch_wordnet()


def test_the_real_one(real_places):
    """WordNet 3.0 counts 117,659 synsets (wnstats(7))."""
    places = [DEBIAN_FOLDER, *(folder for place in real_places for folder in (place, place / "wordnet"))]
    folder = next((place for place in places if has_wordnet(place)), None)
    if folder is None:
        pytest.skip("WordNet is not on this computer")
    train, test = (load_texts("wordnet", split, root=folder) for split in ("train", "test"))
    repeated = int(train.source.split("left out: ")[1].split()[0])
    assert len(train) + len(test) + repeated == 117_659
    assert 0.045 < len(test) / (len(train) + len(test)) < 0.055
    assert not set(train.texts) & set(test.texts)
    assert set(train.labels.tolist()) == set(range(45))
    found = dict(pairs(train) + pairs(test))
    for beginning, name in (
        ("precipitate as rain", "verb.weather"),
        ("a member of the genus Canis", "noun.animal"),
        ("that which is perceived or known", "noun.Tops"),
    ):
        assert {found[text] for text in found if text.startswith(beginning)} == {name}
