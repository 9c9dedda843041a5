"""How a model is fine-tuned: a validated dataclass, read by name, from a file, or from a mapping."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import yaml

from spoken_intents.config import require, settings_from
from spoken_intents.errors import ConfigError
from spoken_intents.files import is_file

POOLINGS = ("auto", "mean", "statistics", "attention")  # the latter two are `heads.HEADS`, which needs torch
RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """Every setting; what a user's recipe leaves out `load_recipe` takes from ``default``.

    Attributes:
        context: What the encoder sees of a clip: ``padded`` (Hugging Face's class, every clip padded to 30 s) or
            ``short`` (the clip's own length, in training and in serving).
        epochs: Passes over the clips.
        min_steps: With few clips there are more epochs, until there are this many steps.
        batch_size: Clips a step, over all processes.
        learning_rate: Of the encoder, and of the head where `head_learning_rate` is not given. Falls as a cosine.
        head_learning_rate: Of what is behind the encoder.
        pooling: What of the encoder's output the classifier gets: ``mean`` (Hugging Face's head), ``statistics``,
            ``attention``, or ``auto``: which of the latter two hears more of these clips, see ``heads``. Their
            classifier is fitted on the frozen encoder before fine-tuning begins.
        frozen_layers: The encoder's convolutions and this many of its first layers stay as they are; 0: all is trained.
        warmup_share: Share of all steps in which the learning rate rises from 0.
        weight_decay: AdamW's.
        max_grad_norm: Gradients are clipped to this norm; 0: not at all.
        precision: ``auto`` (bf16 where the machine computes in it, see `loop.has_bf16`) or ``fp32``.
        non_speech_share: Clips of noise made for the reserved non-speech output, as a share of the clips, at least
            12; 0: none, and the output is never the answer.
        held_out_share: Share of the clips that is not trained on, to measure accuracy and fit the temperature.
        calls_share: Clips of reviewed calls are learnt again and again, at most five times in each epoch, until they are
            this share of all others, see `dataset.of_calls_again`; 0: once, as all.
        turn_end: Whether the model also learns to tell whether what was said is complete, see ``turn_end``.
        seed: Of everything random.
    """

    context: str
    epochs: int
    min_steps: int
    batch_size: int
    learning_rate: float
    head_learning_rate: Optional[float]
    pooling: str
    frozen_layers: int
    warmup_share: float
    weight_decay: float
    max_grad_norm: float
    precision: str
    non_speech_share: float
    held_out_share: float
    calls_share: float
    turn_end: bool
    seed: int

    def __post_init__(self) -> None:
        require(self.context in ("padded", "short"), f"context takes padded or short, got {self.context}.")
        require(1 <= self.epochs <= 1000, f"epochs takes 1 to 1000, got {self.epochs}.")
        require(0 <= self.min_steps <= 100_000, f"min_steps takes 0 to 100000, got {self.min_steps}.")
        require(1 <= self.batch_size <= 1024, f"batch_size takes 1 to 1024, got {self.batch_size}.")
        require(0 <= self.seed < 2**32, f"seed takes 0 to {2**32 - 1}, got {self.seed}.")
        for name in ("learning_rate", "head_learning_rate"):
            rate = getattr(self, name)
            require(rate is None or 0 < rate < 1, f"{name} takes a number between 0 and 1, got {rate}.")
        require(0 <= self.frozen_layers <= 64, f"frozen_layers takes 0 to 64, got {self.frozen_layers}.")
        require(self.precision in ("auto", "fp32"), f"precision takes auto or fp32, got {self.precision}.")
        require(self.pooling in POOLINGS, f"pooling takes {', '.join(POOLINGS)}, got {self.pooling}.")
        for name in ("warmup_share", "non_speech_share", "held_out_share", "calls_share"):
            require(0 <= getattr(self, name) < 1, f"{name} takes 0 to below 1, got {getattr(self, name)}.")
        require(0 <= self.weight_decay < math.inf, f"weight_decay takes 0 or more, got {self.weight_decay}.")
        require(0 <= self.max_grad_norm < math.inf, f"max_grad_norm takes 0 (no clipping) or more, got {self.max_grad_norm}.")
        if self.context == "padded":  # Hugging Face's class has its own pooling
            require(self.pooling == "mean", f"context: padded takes pooling: mean only, got {self.pooling}.")
            require(not self.turn_end, "context: padded takes turn_end: false only, got true.")

    def epochs_for(self, clips: int) -> int:
        """Passes over so many clips: `epochs`, or more until there are `min_steps` steps."""
        return max(self.epochs, math.ceil(self.min_steps / math.ceil(clips / self.batch_size)))

    def shortened(self, fraction: float) -> "Recipe":
        """The recipe with this fraction of the epochs and steps, at least one; 1: as it is."""
        return replace(self, epochs=max(1, math.ceil(self.epochs * fraction)), min_steps=math.ceil(self.min_steps * fraction))


def load_recipe(recipe: Union[str, Mapping[str, Any]], **changes: Any) -> Recipe:
    """The recipe of that name, file or mapping, with `changes` on top; settings it leaves out are those of ``default``.

    Raises:
        ConfigError: No such recipe, or a setting it does not know.
    """
    values, where = _written(recipe)
    return settings_from(Recipe, {**_written("default")[0], **values, **changes}, where)


def overrides(epochs: Optional[int] = None, seed: Optional[int] = None) -> Dict[str, int]:
    """What `load_recipe` takes where a user said how many epochs, or which seed: just so many, also of few clips."""
    said: Dict[str, int] = {} if seed is None else {"seed": seed}
    return said if epochs is None else {**said, "epochs": epochs, "min_steps": 0}


def recipe_names() -> List[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yml"))


def _written(recipe: Union[str, Mapping[str, Any]]) -> Tuple[Mapping[str, Any], str]:
    """The settings a recipe gives, as written, and what to call it in messages.

    Raises:
        ConfigError: Neither a recipe's name nor a file that holds one.
    """
    if not isinstance(recipe, str):
        return recipe, "recipe"
    file = RECIPES / f"{recipe}.yml" if recipe in recipe_names() else Path(recipe)
    if not is_file(file):
        raise ConfigError(f"recipe {recipe!r}: neither a recipe's name ({', '.join(recipe_names())}) nor a file.")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except Exception as error:  # PyYAML lets through what Python says of dates, numbers and depth that are none
        raise ConfigError(f"recipe {recipe!r}: not YAML ({error}).") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"recipe {recipe!r}: expected settings (name: value), got {type(values).__name__}.")
    return values, f"recipe {recipe!r}"
