"""Whisper's encoder with a classification head, at the length of the utterance instead of 30 s.

The weights and layers are Hugging Face's ``WhisperForAudioClassification``; what differs is the way through
them: the position table is sliced, and padding inside a batch is masked in the convolutions, in attention and
in pooling, so that an utterance's logits do not depend on what it was batched with.
"""

from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import torch
from safetensors import SafetensorError  # type: ignore[attr-defined]
from torch import nn
from transformers import WhisperConfig, WhisperForAudioClassification
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

from spoken_intents.errors import ModelError
from spoken_intents_training.sources import base_model_source, bundled_base_models, first_line, hub_refusal, may_be_on_hub


class ShortContextClassifier(WhisperForAudioClassification):
    """Log-mel of any length up to 30 s -> logits, one for each label.

    `config.pooling` says what of the encoder's last hidden states the classifier gets: ``mean`` (Hugging Face's
    head: projected, then averaged over time) or ``statistics`` (mean, deviation, largest and smallest over time,
    standardized by `center` and `scale`; one linear layer, which can be fitted before fine-tuning begins).
    """

    center: torch.Tensor
    scale: torch.Tensor

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        if getattr(config, "pooling", "mean") == "statistics":
            width = 4 * config.d_model
            del self.projector
            self.classifier = nn.Linear(width, config.num_labels)
            self.register_buffer("center", torch.zeros(width))
            self.register_buffer("scale", torch.ones(width))

    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        if isinstance(module, ShortContextClassifier) and hasattr(module, "center"):
            init.zeros_(module.center)
            init.ones_(module.scale)

    def forward(
        self,
        input_features: torch.Tensor,
        frames: Optional[torch.Tensor] = None,
        labels: Optional[torch.Tensor] = None,
    ) -> SequenceClassifierOutput:
        """Logits, shape (batch, labels), and the cross-entropy when `labels` are given.

        Args:
            input_features: Log-mel, shape (batch, n_mels, frames).
            frames: How many frames of each row are real, shape (batch,); None when all are.
            labels: Label index of each row, shape (batch,).
        """
        hidden, mask = encode(self.encoder, input_features, frames)
        if hasattr(self, "projector"):
            pooled = masked_mean(self.projector(hidden), mask)
        else:
            pooled = (statistics(hidden.float(), mask) - self.center) / self.scale
        logits = self.classifier(pooled)
        loss: Any = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def encode(
    encoder: Any, features: torch.Tensor, frames: Optional[torch.Tensor] = None
) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
    """The encoder's last hidden states, shape (batch, positions, width), and which positions are real.

    Args:
        encoder: A ``WhisperEncoder``.
        features: Log-mel, shape (batch, n_mels, frames); positions = ceil(frames / 2).
        frames: How many frames of each row are real, or None: no mask is computed, and None is returned.
    """
    layers, mask = encode_layers(encoder, features, frames)
    return encoder.layer_norm(layers[-1]), mask


def encode_layers(
    encoder: Any, features: torch.Tensor, frames: Optional[torch.Tensor] = None
) -> Tuple[List[torch.Tensor], Optional[torch.Tensor]]:
    """What every layer of the encoder gives, in order, before the last normalization; otherwise as `encode`."""
    mask = attention = None
    if frames is not None:
        frame_mask = torch.arange(features.shape[-1], device=features.device) < frames[:, None]
        mask = frame_mask[:, ::2]
        # 0 where a key may be seen, the lowest number where not; shape (batch, 1, 1, positions).
        attention = torch.zeros(mask.shape, dtype=features.dtype, device=features.device)
        attention = attention.masked_fill(~mask, torch.finfo(features.dtype).min)[:, None, None, :]
        features = features * frame_mask[:, None, :]
    hidden = nn.functional.gelu(encoder.conv1(features))
    if frames is not None:
        hidden = hidden * frame_mask[:, None, :]  # what a lone utterance would have met there: zero padding
    hidden = nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    given = []
    for layer in encoder.layers:
        if attention is not None:
            hidden = layer(hidden, attention_mask=attention.expand(-1, -1, hidden.shape[1], -1))[0]
        else:
            hidden = layer(hidden, attention_mask=None)[0]
        given.append(hidden)
    return given, mask


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


def pad_batch(spectrograms: Sequence[np.ndarray]) -> Tuple[torch.Tensor, torch.Tensor]:
    """Log-mels of different lengths as one batch: features (batch, n_mels, longest) and frames (batch,)."""
    frames = torch.tensor([spectrogram.shape[1] for spectrogram in spectrograms])
    features = torch.zeros(len(spectrograms), spectrograms[0].shape[0], int(frames.max()))
    for row, spectrogram in zip(features, spectrograms):
        row[:, : spectrogram.shape[1]] = torch.from_numpy(spectrogram)
    return features, frames


def load_base(base_model: str, labels: List[str], pooling: str = "mean", context: str = "short") -> WhisperForAudioClassification:
    """A Whisper encoder with a new head for `labels`, which follows from torch's seed; one that it came with is left out.

    Args:
        base_model: A bundled name (``whisper-mini``), a directory, or a name on the model hub. Where the hub does not
            give it, an earlier download is used.
        pooling: See `ShortContextClassifier`.
        context: ``short``, or ``padded`` for Hugging Face's own class, which takes 30 s windows only.

    Raises:
        ModelError: It cannot be found or fetched, or is not Whisper.
    """
    source = base_model_source(base_model)
    local = Path(source).is_dir()
    if not local and not may_be_on_hub(source):
        raise ModelError(_cannot_load(base_model, "no such directory or bundled model."))
    refusal = "" if local else hub_refusal(source)
    try:
        config = WhisperConfig.from_pretrained(
            source,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            local_files_only=bool(refusal),
        )
        if config.model_type != "whisper":
            raise ModelError(f"base_model {base_model!r} is a {config.model_type} model; a Whisper one is needed.")
        config.pooling = pooling
        model = _load_encoder(source, config, context, local_files_only=bool(refusal))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if refusal and isinstance(error, OSError):  # nor is it in the cache
            raise ModelError(_cannot_fetch(base_model, refusal)) from None
        raise ModelError(_cannot_load(base_model, first_line(error))) from None
    model.encoder.embed_positions.requires_grad_(False)
    return model


def _load_encoder(source: str, config: WhisperConfig, context: str, local_files_only: bool) -> WhisperForAudioClassification:
    made: Any = ShortContextClassifier if context == "short" else WhisperForAudioClassification
    with torch.random.fork_rng(devices=[]):  # the head is drawn below, the same whatever the file held
        model, loading = made.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # somebody else's head, of other labels
            output_loading_info=True,
            local_files_only=local_files_only,
        )
    # Whisper's position table is a formula: a base model may leave it out.
    missing = (key for key in loading["missing_keys"] if "embed_positions" not in key)
    unloaded = {key for key in (*missing, *(key for key, *_ in loading["mismatched_keys"])) if key.startswith("encoder.")}
    if unloaded:
        raise ValueError(f"its weights lack {len(unloaded)} of the encoder's, or have other sizes, such as {min(unloaded)}.")
    _renew_head(model)
    return model


def _renew_head(model: Any) -> None:
    """Draws all but the encoder anew, as the model's class does: from_pretrained keeps a head whose sizes fit."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not name.startswith("encoder."):
            tensor._is_hf_initialized = False
    for module in (model, *model.children()):
        if module is not model.encoder:
            model._init_weights(module)


def _cannot_fetch(base_model: str, refusal: str) -> str:
    name = base_model.split("/")[1]
    return (
        f"base_model {base_model!r} cannot be loaded: it is not on this machine, and the hub does not give it ({refusal}). To use "
        f"a local copy, run `hf download {base_model} config.json model.safetensors --local-dir {name}` where there is a "
        f"connection, bring the directory here, and name it as the base model. Bundled: {', '.join(bundled_base_models())}."
    )


def _cannot_load(base_model: str, reason: str) -> str:
    return (
        f"base_model {base_model!r} cannot be loaded: {reason} "
        f"Name a directory with config.json and model.safetensors (a local copy works without network), a model on "
        f"the hub such as openai/whisper-base.en, or a bundled one: {', '.join(bundled_base_models())}."
    )
