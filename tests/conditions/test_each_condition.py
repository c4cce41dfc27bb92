"""Each condition by itself: what training draws, what requests become, and what is refused."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from latentia.conditions import Context, Label, Length, Plan, Prompt, Repair, Request
from latentia.conditions.prompt import PromptCodec
from latentia.errors import LatentiaError
from latentia.modalities.image.repair_task import RepairTask, with_damage

WIDTH, CHANNELS, COUNT, CLASSES = 16, 2, 60, ("a", "b", "c")
SHARES = [[0.2, 0.8, 0.0], [0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]
X, TIME = torch.randn(2, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 700.0])
MANY = torch.empty(6000, CHANNELS, 1, 1)


def share(of: Tensor) -> float:
    return float(of.double().mean())


def plan(items, recipe=None, folder: Path = Path()) -> Plan:
    return Plan(recipe, items, (CHANNELS, 4, 4), WIDTH, 2, folder)


def test_clusters_are_drawn_by_their_shares_and_again_by_the_seed() -> None:
    label = Label(WIDTH, CLASSES, SHARES)
    labels = np.repeat([0, 1, 3], 2000)
    drawn = label.request(Request(6000, {"labels": labels}, seed=1), MANY)[0]["label"]
    found = [torch.bincount(drawn[start : start + 2000], minlength=13) / 2000 for start in (0, 2000, 4000)]
    np.testing.assert_allclose(found[0][3:6], SHARES[0], atol=0.04)
    np.testing.assert_allclose(found[1][6:9], SHARES[1], atol=0.04)
    assert found[2][12] == 1
    again, other = (label.request(Request(6000, {"labels": labels}, seed=s), MANY)[0]["label"] for s in (1, 2))
    assert torch.equal(again, drawn)
    assert not torch.equal(other, drawn)
    alone = label.request(Request(6000, {"labels": labels}), MANY)[0]["label"]  # without a seed the class is all
    assert torch.equal(alone, torch.from_numpy(np.where(labels == 3, 12, labels)))


def test_without_classes_all_items_are_one() -> None:
    label = Label(WIDTH, (), [[0.25, 0.75]])
    drawn = label.request(Request(6000, seed=0), MANY)[0]["label"]
    np.testing.assert_allclose(torch.bincount(drawn, minlength=3) / 6000, [0.25, 0.75, 0.0], atol=0.03)
    assert label.null_label == 2
    assert Label(WIDTH).null_label == 0


def test_training_sees_the_class_alone_in_a_share_of_the_examples(items, data) -> None:
    of = items()
    of = replace(of, values={"cluster": np.arange(COUNT) % 3 * 2 + np.arange(COUNT) // 30})
    recipe = SimpleNamespace(clusters=2, label_dropout=0.25)
    label = Label.of(plan(of, recipe))
    assert label.coarse == 0.25
    np.testing.assert_allclose(label.clusters, [[0.5, 0.5]] * 3)
    rows, chance = torch.arange(6000) % COUNT, torch.rand(6000, 1, generator=torch.Generator().manual_seed(0))
    drawn = label.draw(data(of), rows, chance)["label"]
    coarse = drawn < 3
    assert share(coarse) == pytest.approx(0.25, abs=0.02)
    assert torch.equal(coarse, chance[:, 0] < 0.25)
    assert torch.equal(drawn[coarse], rows[coarse] % 3)
    assert torch.equal(drawn[~coarse], (3 + rows % 3 * 2 + rows // 30)[~coarse])
    shown, away = label.preview(data(of), torch.tensor([0, 31]), X)
    assert shown["label"].tolist() == [3, 3 + 2 + 1]  # the clusters
    assert away["label"].tolist() == [9, 9]


def test_labels_are_read_from_words_and_misfits_are_refused() -> None:
    label = Label(WIDTH, ("T-shirt/top", "Bag"))
    assert label.parse("bag") == {"labels": 1}
    assert label.parse("0") == {"labels": 0}
    with pytest.raises(LatentiaError, match="no class 'hat'; its classes are 0 T-shirt/top, 1 Bag"):
        label.parse("hat")
    for labels, message in (([0], "shape"), ([0, 3], "from 0 to 3, expected 0 to 2"), ([-1, 0], "from -1 to 0")):
        with pytest.raises(LatentiaError, match=message):
            label.request(Request(2, {"labels": labels}), X)


def test_the_table_is_looked_up() -> None:
    label = Label(4, CLASSES)
    assert label.table.weight.shape == (4, 4)
    chosen = torch.tensor([2, 0, 3])
    vector, tokens, grid = label({"label": chosen})
    torch.testing.assert_close(vector, label.table.weight[chosen])
    assert tokens is grid is None


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (torch.tensor([0, 4]), r"from 0 to 4, expected 0 to 2, or 3 for none"),
        (torch.tensor([-1, 0]), "from -1 to 0"),
        (torch.tensor([0.0, 1.0]), "expected integers"),
        (torch.tensor([True, False]), "expected integers"),
        (torch.tensor([[0], [1]]), r"\(2, 1\), expected integers \(B,\)"),
    ],
)
def test_bad_labels_are_refused(label: Tensor, message: str) -> None:
    with pytest.raises(LatentiaError, match=message):
        Label(4, CLASSES)({"label": label})


@pytest.mark.parametrize(
    "clusters",
    [[[0.5, 0.5]] * 2, [[0.5, 0.6]] * 3, [[1.5, -0.5]] * 3, [[0.5, 0.5], [1.0], [1.0]], "abc", [[None]] * 3, [0.5], 7],
)
def test_clusters_that_are_no_shares_are_refused(clusters) -> None:
    with pytest.raises(LatentiaError, match="clusters are no shares of 3 classes"):
        Label(4, CLASSES, clusters)


def test_a_hostile_number_of_labels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentia.conditions.label.MAX_LABELS", 11)
    with pytest.raises(LatentiaError, match="12 labels are more than 11"):
        Label(1, CLASSES, SHARES)


def test_a_share_of_the_examples_is_trained_without_a_length(items, data) -> None:
    of = items()
    of = replace(of, values={"length": 1 + np.arange(COUNT) % 8})
    length = Length.of(plan(of))
    assert length.longest == 8  # the size of an item
    rows, chance = torch.arange(6000) % COUNT, torch.rand(6000, 1, generator=torch.Generator().manual_seed(0))
    drawn = Length(WIDTH, 9).draw(data(of), rows, chance)["length"]
    left_open = chance[:, 0] < 0.5
    assert torch.equal(drawn, torch.where(left_open, 9, 1 + rows % COUNT % 8))
    assert Length.of(plan(items())) is None


def test_lengths_that_do_not_fit_are_refused() -> None:
    length = Length(WIDTH, 9)
    assert length.request(Request(2, {"lengths": [1, 8]}), X)[0]["length"].tolist() == [1, 8]
    for lengths in ([1], [0, 1], [1, 9], [1, 2, 3]):
        with pytest.raises(LatentiaError, match="lengths must be 2 numbers from 1 to 8"):
            length.request(Request(2, {"lengths": lengths}), X)
    assert length.parse("7") == {"lengths": 7}
    for text in ("-7", "7.5", "long", ""):
        with pytest.raises(LatentiaError, match="expected a whole number"):
            length.parse(text)


def test_a_share_of_the_examples_sees_a_context(items, data) -> None:
    of = items()
    of = replace(of, views={**of.views, "gap": of.views["plain"]})
    context = Context.of(plan(of, SimpleNamespace(context_share=0.4)))
    assert context.config == {"channels": CHANNELS, "share": 0.4}
    rows, chance = torch.arange(6000) % COUNT, torch.rand(6000, 1, generator=torch.Generator().manual_seed(0))
    drawn = context.draw(data(of), rows, chance)["context"]
    assert drawn.shape == (6000, CHANNELS, 4, 4)
    assert torch.equal(drawn[:, 0, 0, 0], torch.where(chance[:, 0] < 0.4, 2000.0 + rows, 0.0))
    assert Context.of(plan(items())) is None


def test_a_context_is_encoded_and_one_for_each_item() -> None:
    context, seen = Context(WIDTH, CHANNELS), []

    def encode(texts) -> Tensor:
        seen.append(texts)
        return X

    asked = ["the ___", "a ___"]
    own, null = context.request(Request(2, {"context": asked}, encode=encode), X)
    assert seen == [asked]
    assert torch.equal(own["context"], X)
    assert not null["context"].any()
    for texts, reader in ((["one"], encode), (asked, None)):
        with pytest.raises(LatentiaError, match="contexts for 2 items"):
            context.request(Request(2, {"context": texts}, encode=reader), X)


def test_a_repair_sees_one_of_the_damaged_views(items, data) -> None:
    of = with_damage(items(), RepairTask("inpaint"))
    repair = Repair.of(plan(of))
    assert repair.config == {"channels": CHANNELS + 1, "task": {"kind": "inpaint", "factor": 4}}
    rows, chance = torch.arange(6000) % COUNT, torch.rand(6000, 1, generator=torch.Generator().manual_seed(0))
    remains = repair.draw(data(of), rows, chance)["remains"]
    variant = (8 * chance[:, 0]).long()
    assert torch.equal(remains[:, 0, 0, 0], 2000.0 + 1000 * variant + rows)
    hidden = of.task.hidden(rows, variant)[:, 0].float().unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean((2, 4))
    torch.testing.assert_close(remains[:, CHANNELS], hidden)
    assert Repair.of(plan(items())) is None
    shown, away = repair.preview(data(of), torch.tensor([3, 5]), X)
    assert torch.equal(shown["remains"], away["remains"])
    assert (shown["remains"][:, 0, 0, 0] == torch.tensor([2003.0, 2005.0])).all()


def test_what_remains_has_the_shape_of_the_latents(known) -> None:
    repair, remains = known["repair"], torch.ones(2, 3, 4, 4)
    own, null = repair.request(Request(2, {"remains": remains}), X)
    assert own["remains"] is remains
    assert null["remains"] is remains  # guidance leads away from no repair
    for wrong in (remains[:1], remains[:, :2], remains[..., :3]):
        with pytest.raises(LatentiaError, match=r"what is left has shape .*, expected \(2, 3, 4, 4\)"):
            repair.request(Request(2, {"remains": wrong}), X)


def test_prompts_become_ids_and_negative_ones_what_guidance_leads_away_from(prompt, tokenizer) -> None:
    condition, codec = prompt, PromptCodec(tokenizer, 12)
    asked = {"prompts": ["red cat", "a (blue:1.5) dog"], "negative_prompt": "(red:2)"}
    own, against = condition.request(Request(2, asked), X)
    wanted, away = codec.to_ids(asked["prompts"]), codec.to_ids(["(red:2)", "(red:2)"])
    assert torch.equal(own["prompt"], wanted["prompt"])
    assert torch.equal(own["emphasis"], wanted["emphasis"])
    assert torch.equal(against["prompt"], away["prompt"])
    assert torch.equal(against["emphasis"], away["emphasis"])
    assert (own["emphasis"] == 1.5).any(1).tolist() == [False, True]
    with pytest.raises(LatentiaError, match="1 prompts for 2 items"):
        condition.request(Request(2, {"prompts": ["red"]}), X)
    alike = condition.request(Request(2, {"prompts": "red cat"}), X)[0]  # the same for all
    assert torch.equal(alike["prompt"], codec.to_ids(["red cat", "red cat"])["prompt"])
    assert condition.parse("red cat") == {"prompts": "red cat"}


def test_emphasis_scales_what_the_network_attends_to(denoiser) -> None:
    model = denoiser("prompt")
    plain, louder, faint = (
        model.request(Request(2, {"prompts": [f"a ({word}) dog", "red"]}), X)[0]
        for word in ("blue:1", "blue:2", "blue:0")
    )
    assert torch.equal(plain["prompt"], louder["prompt"])
    with torch.no_grad():
        answers = [model(X, TIME, **values) for values in (plain, louder, faint)]
        tokens = [model.known["prompt"](values).tokens.vectors for values in (plain, louder, faint)]
    for factor, (answer, vectors) in zip((2, 0), zip(answers[1:], tokens[1:], strict=True), strict=True):
        assert (answer[0] - answers[0][0]).abs().max() > 1e-3
        torch.testing.assert_close(answer[1], answers[0][1])
        scaled = plain["emphasis"] + (louder["emphasis"] - 1) * (factor - 1)
        torch.testing.assert_close(vectors, tokens[0] * scaled[..., None])


def test_training_draws_one_of_an_items_captions_without_the_common_padding(prompt, items, data, tokenizer) -> None:
    condition, of = prompt, items()
    rows, chance = torch.tensor([0, 0, 7]), torch.tensor([[0.0], [0.99], [0.5]])
    drawn = condition.draw(data(of), rows, chance)
    assert drawn["prompt"].shape == drawn["emphasis"].shape == (3, 8)  # of 12, a multiple of 8 that all fit
    assert tokenizer.decode(drawn["prompt"].tolist()) == ["red cat", "blue dog 0", "blue dog 7"]
    assert (drawn["emphasis"] == 1).all()
    shown, away = condition.preview(data(of), torch.tensor([4]), X[:1])
    assert tokenizer.decode(shown["prompt"].tolist()) == ["blue dog 4"]
    assert away["prompt"].shape == shown["prompt"].shape
    assert tokenizer.decode(away["prompt"].tolist()) == [""]


def test_a_prompt_keeps_its_tokenizer_with_the_model(tmp_path: Path, prompt, tokenizer) -> None:
    condition = prompt
    condition.save_files(tmp_path)
    again = Prompt(WIDTH, **condition.config)
    with pytest.raises(LatentiaError, match="no tokenizer; load the whole model folder"):
        again.request(Request(2), X)
    again.load_files(tmp_path)
    assert torch.equal(
        again.request(Request(2, {"prompts": ["red cat", ""]}), X)[0]["prompt"],
        condition.request(Request(2, {"prompts": ["red cat", ""]}), X)[0]["prompt"],
    )
    other = Prompt(WIDTH, **condition.config)
    other.take_files(condition)
    assert other.codec is condition.codec
    with pytest.raises(LatentiaError, match="do not fit each other"):
        Prompt(WIDTH, **{**condition.config, "vocab_size": tokenizer.vocab_size + 1}).load_files(tmp_path)


def test_the_tokenizer_of_a_run_is_learned_kept_and_taken_from_the_model_to_start_from(tmp_path: Path, items) -> None:
    section = SimpleNamespace(encoder=None, vocab_size=290, max_tokens=12, depth=1)
    recipe = SimpleNamespace(prompt=section, init=None, data=None)
    made = Prompt.of(plan(items(), recipe, tmp_path / "one"))
    assert made.config["vocab_size"] == made.codec.tokenizer.vocab_size <= 290
    section.vocab_size = 270
    again = Prompt.of(plan(items(), recipe, tmp_path / "one"))
    assert again.config == made.config  # as kept in the folder
    recipe.init = str(tmp_path / "one")
    started = Prompt.of(plan(items(captions=("other words",) * COUNT), recipe, tmp_path / "2"))
    assert started.codec.tokenizer.encode(["blue dog"]) == made.codec.tokenizer.encode(["blue dog"])
    with pytest.raises(LatentiaError, match="no captions to learn prompts from"):
        Prompt.of(plan(items(captions=None), recipe, tmp_path / "3"))
    recipe.prompt = None
    assert Prompt.of(plan(items(), recipe, tmp_path / "4")) is None
