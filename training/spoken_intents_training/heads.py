"""What makes logits of the encoder's output: pooling over time, then one linear layer.

Both heads are fitted on the frozen encoder, so that fine-tuning starts from a classifier that knows where to pull
(Kumar et al. 2022). Which of them hears more of clips that it was not fitted on depends on the data: `statistics`
where an intent is a manner of speaking (an answer, a number, something spelled), `attention` where it is a word in
a sentence. `choose` tries both.
"""

import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Dict, List, Optional, Sequence, Tuple, Type

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

PROBE_C = 0.03  # of the logistic regression
QUERIES = 16
STEPS, STEP_CLIPS, RATE = 300, 16, 1e-3  # of the attention's descent, on what the frozen encoder gives
FOLDS = 3


class Head(nn.Module, ABC):
    """Hidden states, shape (batch, positions, width), and which positions are real -> logits, shape (batch, labels).

    Args:
        standardized: How many numbers `center` and `scale` standardize.
        pooled: How many numbers of a clip the classifier gets.
    """

    pooling: ClassVar[str]
    center: torch.Tensor
    scale: torch.Tensor

    def __init__(self, standardized: int, pooled: int, labels: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(pooled, labels)
        self.register_buffer("center", torch.zeros(standardized))
        self.register_buffer("scale", torch.ones(standardized))

    @abstractmethod
    def fit(self, hidden: Sequence[torch.Tensor], targets: np.ndarray, seed: int) -> None:
        """Fits it to clips' hidden states, each (positions, width), and the index of each one's label."""

    def _standardize_by(self, rows: torch.Tensor) -> None:
        self.center.copy_(rows.mean(dim=0))
        self.scale.copy_(rows.std(dim=0, correction=0) + 1e-4)


class StatisticsHead(Head):
    """Mean, deviation, largest and smallest over time, standardized; its classifier is a logistic regression."""

    pooling = "statistics"

    def __init__(self, width: int, labels: int) -> None:
        super().__init__(4 * width, 4 * width, labels)

    def forward(self, hidden: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
        return self.classifier((statistics(hidden, mask) - self.center) / self.scale)

    def fit(self, hidden: Sequence[torch.Tensor], targets: np.ndarray, seed: int) -> None:
        from sklearn.linear_model import LogisticRegression

        pooled = torch.cat([statistics(clip[None], None) for clip in hidden])
        self._standardize_by(pooled)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stopping early is fine: this is where training begins, not where it ends
            regression = LogisticRegression(C=PROBE_C, max_iter=60).fit(((pooled - self.center) / self.scale).numpy(), targets)
        coefficients, intercepts = regression.coef_, regression.intercept_
        if len(regression.classes_) == 2:  # scikit-learn keeps one row for two classes
            coefficients, intercepts = np.outer([-0.5, 0.5], coefficients[0]), np.array([-0.5, 0.5]) * intercepts
        with torch.no_grad():
            self.classifier.weight.zero_()
            self.classifier.bias.fill_(-10.0)  # of a label without clips
            self.classifier.weight[regression.classes_] = torch.from_numpy(coefficients).float()
            self.classifier.bias[regression.classes_] = torch.from_numpy(intercepts).float()


class AttentionHead(Head):
    """What learnt queries find over time, each a mean of the standardized hidden states weighted by a softmax."""

    pooling = "attention"

    def __init__(self, width: int, labels: int) -> None:
        super().__init__(width, QUERIES * width, labels)
        self.query = nn.Linear(width, QUERIES)

    def forward(self, hidden: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
        hidden = (hidden - self.center) / self.scale
        scores = self.query(hidden).float()
        if mask is not None:
            scores = scores.masked_fill(~mask.unsqueeze(-1), torch.finfo(scores.dtype).min)
        return self.classifier((scores.softmax(dim=1).transpose(1, 2) @ hidden).flatten(1))

    def fit(self, hidden: Sequence[torch.Tensor], targets: np.ndarray, seed: int) -> None:
        """By gradient descent from a classifier of zeros: the queries have no closed form."""
        rng = np.random.default_rng(seed)
        self._standardize_by(torch.cat(list(hidden)))
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        optimizer = torch.optim.AdamW(self.parameters(), lr=RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for _ in range(STEPS):
            rows = rng.choice(len(hidden), min(STEP_CLIPS, len(hidden)), replace=False)
            logits = self(*_padded([hidden[row] for row in rows]))
            loss = nn.functional.cross_entropy(logits, torch.from_numpy(targets[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


HEADS: Dict[str, Type[Any]] = {head.pooling: head for head in (StatisticsHead, AttentionHead)}


def choose(hidden: Sequence[torch.Tensor], targets: np.ndarray, labels: int, seed: int) -> Tuple[str, Dict[str, float]]:
    """The pooling that hears more of the clips it was not fitted on, and the share of them that each one hears.

    Measured by cross-validation on the frozen encoder. `attention` has to be ahead by more than the standard error of
    the difference (the one-standard-error rule). Intents with a single clip are left out; with fewer than two others
    nothing is measured.
    """
    from sklearn.model_selection import StratifiedKFold

    rows = np.flatnonzero(np.bincount(targets)[targets] > 1)
    hidden, targets = [hidden[row] for row in rows], targets[rows]
    if len(set(targets)) < 2:
        return StatisticsHead.pooling, {}
    n_folds = min(FOLDS, int(np.bincount(targets).max()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # intents with fewer clips than folds
        folds = list(StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(targets, targets))
    right: Dict[str, List[bool]] = {pooling: [] for pooling in HEADS}
    for fitted_on, heard in folds:
        for pooling in HEADS:
            head = fitted_head(pooling, [hidden[row] for row in fitted_on], targets[fitted_on], labels, seed)
            right[pooling] += (hear(head, [hidden[row] for row in heard]) == targets[heard]).tolist()
    ahead = np.subtract(right[AttentionHead.pooling], right[StatisticsHead.pooling], dtype=float)
    attend = ahead.mean() > ahead.std() / len(ahead) ** 0.5
    shares = {pooling: float(np.mean(values)) for pooling, values in right.items()}
    return (AttentionHead if attend else StatisticsHead).pooling, shares


def hear(head: nn.Module, hidden: Sequence[torch.Tensor]) -> np.ndarray:
    """The index of the first label of every clip's hidden states, shape (clips,)."""
    with torch.inference_mode():
        return np.array([int(head(clip[None], None).argmax()) for clip in hidden])


def fitted_head(pooling: str, hidden: Sequence[torch.Tensor], targets: np.ndarray, labels: int, seed: int) -> Head:
    """A new head, fitted; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = HEADS[pooling](hidden[0].shape[-1], labels)
        head.fit(hidden, targets, seed)
    return head


def masked_mean(hidden: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
    """The mean over real positions, shape (batch, width)."""
    if mask is None:
        return hidden.mean(dim=1)
    weights = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def statistics(hidden: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
    """Mean, deviation, largest and smallest over real positions, shape (batch, 4 * width)."""
    mean = masked_mean(hidden, mask)
    deviation = (masked_mean((hidden - mean.unsqueeze(1)) ** 2, mask) + 1e-5).sqrt()
    if mask is None:
        high, low = hidden.amax(dim=1), hidden.amin(dim=1)
    else:
        hidden_from = ~mask.unsqueeze(-1)
        high = hidden.masked_fill(hidden_from, -torch.inf).amax(dim=1)
        low = hidden.masked_fill(hidden_from, torch.inf).amin(dim=1)
    return torch.cat([mean, deviation, high, low], dim=-1)


def _padded(hidden: List[torch.Tensor]) -> Tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(clip) for clip in hidden])
    padded = pad_sequence(hidden, batch_first=True)
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]
