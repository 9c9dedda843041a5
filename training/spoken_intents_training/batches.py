"""Training examples in batches: decoded once, grouped by length.

What a batch holds depends on the seed, the epoch and the step alone: not on the process that makes it, nor on
whether training was interrupted before.
"""

from typing import Any, Dict, Iterator, List, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from spoken_intents.audio import float_to_pcm16, pcm16_to_float
from spoken_intents.features import log_mel
from spoken_intents_training.modeling import pad_batch
from spoken_intents_training.recipe import Recipe

BUCKET = 16  # batches that are sorted by length together; more would give the same batches in every epoch


class Examples(Dataset):
    """Clips and the index of each one's label. Holds them as 16-bit samples: 115 MB an hour."""

    def __init__(self, samples: Sequence[np.ndarray], targets: Sequence[int], names: Sequence[str], recipe: Recipe, n_mels: int):
        self._pcm = [float_to_pcm16(clip) for clip in samples]
        self.targets, self.names = list(targets), list(names)
        self.padded = recipe.context == "padded"
        self.n_mels = n_mels

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> Dict[str, Any]:
        """The example of that row."""
        return {"input_features": self.log_mel(row), "labels": self.targets[row], "rows": row}

    @property
    def lengths(self) -> List[int]:
        """Of each clip, in bytes."""
        return [len(pcm) for pcm in self._pcm]

    def samples(self, row: int) -> np.ndarray:
        """A clip's waveform, float32, 16 kHz."""
        return pcm16_to_float(self._pcm[row])

    def log_mel(self, row: int) -> np.ndarray:
        """A clip's log-mel, (n_mels, frames)."""
        return log_mel(self.samples(row), self.n_mels, self.padded)


class LengthBuckets(Sampler):
    """Rows in the order of an epoch: clips of a batch are of about the same length."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = np.array(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self._seed, self._epoch))
        rows, size = rng.permutation(len(self)), self._batch_size
        rest = rows[len(rows) // size * size :]  # the one batch that is not full has to come last
        batches: List[np.ndarray] = []
        for start in range(0, len(rows) - len(rest), BUCKET * size):
            bucket = rows[start : min(start + BUCKET * size, len(rows) - len(rest))]
            batches += np.split(bucket[np.argsort(self._lengths[bucket], kind="stable")], len(bucket) // size)
        order = [*(batches[place] for place in rng.permutation(len(batches))), rest]
        return (int(row) for row in np.concatenate(order))


def collate(examples: List[Dict[str, Any]]) -> Dict[str, torch.Tensor]:
    """Examples as the model takes them, and their rows."""
    features, frames = pad_batch([example["input_features"] for example in examples])
    batch = {name: torch.tensor([example[name] for example in examples]) for name in ("labels", "rows")}
    return {"input_features": features, "frames": frames, **batch}
