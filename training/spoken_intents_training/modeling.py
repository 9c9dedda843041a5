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
from transformers.modeling_outputs import SequenceClassifierOutput

from spoken_intents.errors import ModelError
from spoken_intents_training.heads import Head, masked_mean
from spoken_intents_training.sources import base_model_source, bundled_base_models, first_line, hub_refusal, may_be_on_hub


class ShortContextClassifier(WhisperForAudioClassification):
    """Log-mel of any length up to 30 s -> logits, one for each label.

    It comes with Hugging Face's head (projected, averaged over time: `config.pooling` ``mean``); `put_head` gives it
    one of ``heads``.
    """

    head: Optional[Head]
    turn_end: Optional[nn.Module]  # `turn_end.TurnEnd`, where it was fitted

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        self.head = self.turn_end = None

    def put_head(self, head: Head) -> None:
        """With `head` in place of the one it had; `config.pooling` names it."""
        if self.head is None:
            del self.projector, self.classifier
        self.head = head.to(self.device)
        self.config.pooling = head.pooling

    def forward(self, input_features: torch.Tensor, frames: Optional[torch.Tensor] = None) -> SequenceClassifierOutput:
        """Logits, shape (batch, labels).

        Args:
            input_features: Log-mel, shape (batch, n_mels, frames).
            frames: How many frames of each row are real, shape (batch,); None when all are.
        """
        logits = self.classify(*encode(self.encoder, input_features, frames))
        return SequenceClassifierOutput(logits=logits)

    def classify(self, hidden: torch.Tensor, mask: Optional[torch.Tensor]) -> Any:
        """Logits, shape (batch, labels), of what `encode` gives."""
        if self.head is None:
            return self.classifier(masked_mean(self.projector(hidden), mask))
        return self.head(hidden.float(), mask)


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
    hidden = nn.functional.gelu(_convolve(encoder.conv2, hidden)).transpose(1, 2)  # conv1 is small, and hears log-mel itself
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    given = []
    for layer in encoder.layers:
        if attention is not None:
            hidden = layer(hidden, attention_mask=attention.expand(-1, -1, hidden.shape[1], -1))[0]
        else:
            hidden = layer(hidden, attention_mask=None)[0]
        given.append(hidden)
    return given, mask


def _convolve(convolution: Any, features: torch.Tensor) -> torch.Tensor:
    """`convolution` of features, shape (batch, channels, frames), in an exported graph as a matrix product.

    ONNX Runtime has faster kernels for that, and quantizes it like any other.
    """
    if not torch.onnx.is_in_onnx_export():
        return convolution(features)
    (width,), (stride,), (padding,) = convolution.kernel_size, convolution.stride, convolution.padding
    rows = nn.functional.pad(features.transpose(1, 2), (0, 0, padding, padding))
    end = rows.shape[1] - width + 1
    seen = torch.cat([rows[:, first : first + end : stride] for first in range(width)], dim=-1)
    weight = convolution.weight.transpose(1, 2).reshape(convolution.out_channels, -1)  # (channels out, width * channels in)
    return nn.functional.linear(seen, weight, convolution.bias).transpose(1, 2)


def pad_batch(spectrograms: Sequence[np.ndarray]) -> Tuple[torch.Tensor, torch.Tensor]:
    """Log-mels of different lengths as one batch: features (batch, n_mels, longest) and frames (batch,)."""
    frames = torch.tensor([spectrogram.shape[1] for spectrogram in spectrograms])
    features = torch.zeros(len(spectrograms), spectrograms[0].shape[0], int(frames.max()))
    for row, spectrogram in zip(features, spectrograms):
        row[:, : spectrogram.shape[1]] = torch.from_numpy(spectrogram)
    return features, frames


def load_base(base_model: str, labels: List[str], context: str = "short") -> WhisperForAudioClassification:
    """A Whisper encoder with a new head of Hugging Face's for `labels`; one that it came with is left out.

    The head follows from torch's seed.

    Args:
        base_model: A bundled name (``whisper-mini``), a directory, or a name on the model hub. Where the hub does not
            give it, an earlier download is used.
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
        config.pooling = "mean"
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
            use_safetensors=True,  # weights are data: what is pickled is not opened
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
        f"a local copy, run `hf download {base_model} --local-dir {name}` where there is a "
        f"connection, bring the directory here, and name it as the base model. Bundled: {', '.join(bundled_base_models())}."
    )


def _cannot_load(base_model: str, reason: str) -> str:
    return (
        f"base_model {base_model!r} cannot be loaded: {reason} "
        f"Name a directory with config.json and model.safetensors (a local copy works without network), a model on "
        f"the hub such as openai/whisper-base.en, or a bundled one: {', '.join(bundled_base_models())}."
    )
