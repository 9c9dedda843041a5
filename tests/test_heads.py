"""Heads over the encoder's output: padding does not count, they fit, and the better one is chosen."""

from typing import Callable, List, Tuple

import numpy as np
import pytest
import torch

from spoken_intents_training import heads
from spoken_intents_training.fitting import FITTED_ON, some_of_each
from spoken_intents_training.heads import HEADS, choose, fitted_head, hear
from spoken_intents_training.recipe import POOLINGS

WIDTH, LABELS = 16, 4
Data = Tuple[List[torch.Tensor], np.ndarray]


pytestmark = pytest.mark.usefixtures("one_thread")


def words_in_sentences(clips: int, seed: int) -> Data:
    """A position in each clip carries the intent; as many others carry what looks like one, but for its sign."""
    rng = np.random.default_rng(seed)
    hidden, targets = [], np.arange(clips) % LABELS
    for target in targets:
        clip = rng.standard_normal((int(rng.integers(60, 120)), WIDTH)).astype(np.float32)
        places = rng.permutation(len(clip))[: LABELS + 1]
        for place, word in zip(places, (target, *rng.integers(LABELS, size=LABELS))):
            clip[place, word] += 6
            clip[place, -1] = 9 if place == places[0] else -9
        hidden.append(torch.from_numpy(clip))
    return hidden, targets


def manners_of_speaking(clips: int, seed: int) -> Data:
    """The deviation of a channel over the whole clip tells the intent; no position does."""
    rng = np.random.default_rng(seed)
    hidden, targets = [], np.arange(clips) % LABELS
    for target in targets:
        clip = rng.standard_normal((int(rng.integers(60, 120)), WIDTH)).astype(np.float32)
        clip[:, target] *= 1.3
        hidden.append(torch.from_numpy(clip))
    return hidden, targets


def heard(pooling: str, learnt: Data, unseen: Data) -> float:
    hidden, targets = unseen
    return float((hear(fitted_head(pooling, *learnt, LABELS, 0), hidden) == targets).mean())


@pytest.mark.parametrize("pooling", HEADS)
def test_what_a_clip_is_batched_with_does_not_change_its_logits(pooling: str) -> None:
    hidden, targets = words_in_sentences(8, 0)
    head = fitted_head(pooling, hidden, targets, LABELS, 0)
    padded = torch.full((2, 200, WIDTH), 50.0)
    mask = torch.zeros(2, 200, dtype=torch.bool)
    for row in range(2):
        padded[row, : len(hidden[row])] = hidden[row]
        mask[row, : len(hidden[row])] = True
    with torch.inference_mode():
        alone = torch.cat([head(clip[None], None) for clip in hidden[:2]])
        torch.testing.assert_close(head(padded, mask), alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pooling", HEADS)
def test_a_head_is_its_seeds_and_leaves_torchs_generator_alone(pooling: str) -> None:
    data = words_in_sentences(8, 0)
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    first, second = (fitted_head(pooling, *data, LABELS, 5).state_dict() for _ in range(2))
    assert torch.equal(torch.rand(1), wanted)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize(
    ("data", "better", "other"),
    [(words_in_sentences, "attention", "statistics"), (manners_of_speaking, "statistics", "attention")],
)
def test_the_head_that_suits_the_clips_is_chosen(data: Callable[[int, int], Data], better: str, other: str) -> None:
    learnt, unseen = data(120, 0), data(80, 1)
    shares = {pooling: heard(pooling, learnt, unseen) for pooling in HEADS}
    assert shares[better] > shares[other] + 0.1 and shares[better] > 0.6
    chosen, measured = choose(*learnt, LABELS, 0)
    assert chosen == better and measured[better] > measured[other]


@pytest.mark.parametrize("targets", [[0, 1, 2, 3], [0] * 10 + [1], [0, 0, 1], [1, 0, 2, 0, 0, 0, 0]])
def test_without_two_intents_of_two_clips_nothing_is_measured(targets: List[int]) -> None:
    hidden, _ = words_in_sentences(len(targets), 0)
    assert choose(hidden, np.array(targets), LABELS, 0) == ("statistics", {})


@pytest.mark.parametrize("targets", [[0, 0, 1, 1], [0, 0, 0, 1, 1, 2], [3, 3, 1, 1, 1, 1, 1]])
def test_from_few_clips_the_others_are_heard_once_each(targets: List[int]) -> None:
    hidden, _ = words_in_sentences(len(targets), 0)
    _, shares = choose(hidden, np.array(targets), LABELS, 0)
    heard = sum(targets.count(target) > 1 for target in targets)
    assert (
        all(share * heard == pytest.approx(round(share * heard)) for share in shares.values()) and shares.keys() == HEADS.keys()
    )


@pytest.mark.parametrize(("more", "chosen"), [(1, "statistics"), (9, "attention")])
def test_attention_has_to_be_ahead_by_more_than_chance(monkeypatch: pytest.MonkeyPatch, more: int, chosen: str) -> None:
    """Of 100 clips attention hears 50 + `more`, statistics 50, 30 of them the same ones."""

    class Deaf(torch.nn.Module):
        def __init__(self, heard: range) -> None:
            super().__init__()
            self._heard = heard

        def forward(self, hidden: torch.Tensor, mask: None) -> torch.Tensor:
            number = int(hidden[0, 0, 0])
            return torch.nn.functional.one_hot(torch.tensor([number % 2 if number in self._heard else 1 - number % 2]), 2)

    heard = {"statistics": range(50), "attention": range(20, 70 + more)}
    monkeypatch.setattr(heads, "fitted_head", lambda pooling, *fitting: Deaf(heard[pooling]))
    hidden = [torch.full((1, 1), float(number)) for number in range(100)]
    pooling, shares = choose(hidden, np.arange(100) % 2, 2, 0)
    assert pooling == chosen and shares == {"statistics": 0.5, "attention": pytest.approx(0.5 + more / 100)}


def test_a_head_is_fitted_on_some_of_every_intent_where_there_is_too_much_speech() -> None:
    targets = np.array([0] * 50 + [1] * 3 + [2] * 10)
    rows = some_of_each(targets, [FITTED_ON // 12] * 63, 0)
    assert sorted(np.bincount(targets[rows])) == [3, 4, 5] and len(set(rows)) == 12
    assert sorted(some_of_each(targets, [100] * 63, 0)) == list(range(63))


def test_a_recipe_takes_every_head() -> None:
    assert set(POOLINGS) == {"auto", "mean", *HEADS}
