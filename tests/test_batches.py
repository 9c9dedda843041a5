"""Batches: every row once an epoch, lengths that are alike, and examples that are their clips."""

from typing import List

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spoken_intents.audio import float_to_pcm16, pcm16_to_float
from spoken_intents.features import MAX_FRAMES, log_mel
from spoken_intents_training.batches import Examples, LengthBuckets, collate
from spoken_intents_training.recipe import load_recipe

SHORT = load_recipe("reference-short")


def rows(sampler: LengthBuckets, epoch: int = 0) -> List[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


def batched(order: List[int], size: int) -> List[List[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def spread(batches: List[List[int]], lengths: np.ndarray) -> float:
    """How much lengths in a batch differ, on average."""
    return float(np.mean([np.ptp(lengths[batch]) for batch in batches]))


# ---------------------------------------------------------------- the order


@pytest.mark.parametrize(("count", "size"), [(1, 1), (1, 8), (3, 8), (8, 8), (9, 8), (100, 1), (257, 8), (1000, 32), (1001, 7)])
def test_every_row_comes_once_an_epoch(count: int, size: int) -> None:
    sampler = LengthBuckets(np.random.default_rng(0).integers(640, 90_000, count).tolist(), size, 0)
    assert len(sampler) == count
    for epoch in range(3):
        assert sorted(rows(sampler, epoch)) == list(range(count))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = np.random.default_rng(0).integers(640, 90_000, 200).tolist()
    first, again, other = LengthBuckets(lengths, 8, 1), LengthBuckets(lengths, 8, 1), LengthBuckets(lengths, 8, 2)
    assert rows(first, 3) == rows(again, 3)  # whatever came before
    assert rows(first, 0) != rows(first, 1) == rows(again, 1)
    assert rows(first, 0) != rows(other, 0)
    batches = [{frozenset(batch) for batch in batched(rows(first, epoch), 8)} for epoch in (0, 1)]
    assert len(batches[0] & batches[1]) < 3, "other clips together, not the same batches in another order"


def test_lengths_in_a_batch_are_alike() -> None:
    rng, size = np.random.default_rng(0), 8
    lengths = rng.integers(640, 90_000, 1024)
    sampler = LengthBuckets(lengths.tolist(), size, 0)
    at_random = spread(batched(rng.permutation(1024).tolist(), size), lengths)
    for epoch in range(3):
        assert spread(batched(rows(sampler, epoch), size), lengths) < at_random / 5


def test_batches_do_not_come_in_the_order_of_their_lengths() -> None:
    lengths = np.arange(256)
    means = [float(np.mean(lengths[batch])) for batch in batched(rows(LengthBuckets(lengths.tolist(), 8, 0)), 8)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.6


def test_the_batch_that_is_not_full_comes_last() -> None:
    lengths = np.random.default_rng(0).integers(640, 90_000, 150)
    sampler = LengthBuckets(lengths.tolist(), 16, 0)
    loader = DataLoader(sampler, batch_size=16, sampler=sampler, collate_fn=list)  # type: ignore[arg-type]
    assert [len(batch) for batch in loader.batch_sampler] == [16] * 9 + [6]
    *full, last = batched(rows(sampler), 16)
    assert len(last) == 6 and spread(full, lengths) < 0.3 * np.ptp(lengths)


# ---------------------------------------------------------------- the examples


@pytest.fixture(scope="module")
def clips() -> List[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in (8_000, 320, 16_001)]


def test_an_example_is_the_log_mel_of_its_clip(clips: List[np.ndarray]) -> None:
    data = Examples(clips, [0, 1, 1], ["a", "b", "c"], SHORT, 80)
    assert len(data) == 3 and data.lengths == [2 * len(clip) for clip in clips]
    for row, clip in enumerate(clips):
        example = data[row]
        held = pcm16_to_float(float_to_pcm16(clip))
        np.testing.assert_array_equal(example["input_features"], log_mel(held))
        assert (example["labels"], example["rows"]) == ([0, 1, 1][row], row)


def test_the_reference_recipes_examples_are_30_s(clips: List[np.ndarray]) -> None:
    data = Examples(clips, [0, 1, 1], ["a", "b", "c"], load_recipe("reference"), 128)
    assert data.padded
    assert {data[row]["input_features"].shape for row in range(3)} == {(128, MAX_FRAMES)}


def test_a_collated_batch_holds_lengths_labels_and_rows(clips: List[np.ndarray]) -> None:
    data = Examples(clips, [0, 1, 2], ["a", "b", "c"], SHORT, 80)
    batch = collate([data[2], data[1]])
    assert batch["input_features"].shape == (2, 80, 101) and batch["input_features"].dtype == torch.float32
    assert {name: batch[name].tolist() for name in ("frames", "labels", "rows")} == {
        "frames": [101, 2],
        "labels": [2, 1],
        "rows": [2, 1],
    }
