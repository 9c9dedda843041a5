"""Heads over the encoder's output: padding does not count, they fit, and the better one is chosen."""

from typing import List, Tuple

import numpy as np
import pytest
import torch

from spoken_intents_training.finetune import FITTED_ON, _some_of_each
from spoken_intents_training.heads import HEADS, choose, fitted_head
from spoken_intents_training.recipe import POOLINGS

WIDTH, LABELS = 16, 4
Data = Tuple[List[torch.Tensor], np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    head = fitted_head(pooling, *learnt, LABELS, 0)
    return float(np.mean([int(head(clip[None], None).argmax()) == target for clip, target in zip(*unseen)]))


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
def test_the_head_that_suits_the_clips_is_chosen(data: object, better: str, other: str) -> None:
    learnt, unseen = data(120, 0), data(80, 1)  # type: ignore[operator]
    shares = {pooling: heard(pooling, learnt, unseen) for pooling in HEADS}
    assert shares[better] > shares[other] + 0.1 and shares[better] > 0.6
    chosen, measured = choose(*learnt, LABELS, 0)
    assert chosen == better and measured[better] > measured[other]


def test_with_one_clip_an_intent_nothing_is_measured() -> None:
    hidden, targets = words_in_sentences(LABELS, 0)
    assert choose(hidden, targets, LABELS, 0) == ("statistics", {})


def test_with_two_clips_an_intent_one_is_chosen() -> None:
    chosen, shares = choose(*words_in_sentences(2 * LABELS, 0), LABELS, 0)
    assert chosen in HEADS and shares.keys() == HEADS.keys()


def test_a_head_is_fitted_on_some_of_every_intent_where_there_is_too_much_speech() -> None:
    targets = np.array([0] * 50 + [1] * 3 + [2] * 10)
    rows = _some_of_each(targets, [FITTED_ON // 12] * 63, 0)
    assert sorted(np.bincount(targets[rows])) == [3, 4, 5] and len(set(rows)) == 12
    assert sorted(_some_of_each(targets, [100] * 63, 0)) == list(range(63))


def test_a_recipe_takes_every_head() -> None:
    assert set(POOLINGS) == {"auto", "mean", *HEADS}
