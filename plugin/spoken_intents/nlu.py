"""The two Rasa components; all speech, model and training code is elsewhere.

`SpokenMessages`, first in the pipeline, moves audio references out of ``text``, where text classifiers would
learn file names by heart. `SpokenIntentClassifier`, after every text classifier, classifies the audio and puts
the reference back.
"""

import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Type, Union

from rasa.engine.graph import ExecutionContext, GraphComponent
from rasa.engine.recipes.default_recipe import DefaultV1Recipe
from rasa.engine.storage.resource import Resource
from rasa.engine.storage.storage import ModelStorage
from rasa.nlu.constants import TOKENS_NAMES
from rasa.shared.nlu.constants import ENTITIES, INTENT, INTENT_RANKING_KEY, METADATA, TEXT
from rasa.shared.nlu.training_data.message import Message
from rasa.shared.nlu.training_data.training_data import TrainingData

from spoken_intents import recognizer as recognizers
from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.config import settings_from
from spoken_intents.errors import AudioReferenceError, ConfigError
from spoken_intents.features import MAX_SAMPLES
from spoken_intents.recognizer import Recognition, Recognizer
from spoken_intents.remote import RemoteSettings
from spoken_intents.utterances import LIVE, hand_off, is_audio_reference, open_clip, resolve, shown

logger = logging.getLogger(__name__)

AUDIO = "audio"  # the message attribute that holds the reference
# What text components see of a spoken turn while it passes them: always the same, so that a clip's name can
# change nothing. Not None, with which LogisticRegressionClassifier and others fail.
PLACEHOLDER = ""


@DefaultV1Recipe.register(DefaultV1Recipe.ComponentType.MESSAGE_FEATURIZER, is_trainable=False)
class SpokenMessages(GraphComponent):
    """Takes audio references out of ``text``, in training and in parsing. First in the pipeline.

    Registered as a featurizer because only tokenizers and featurizers may change the training data that later
    components see.
    """

    @classmethod
    def create(
        cls, config: Dict[str, Any], model_storage: ModelStorage, resource: Resource, execution_context: ExecutionContext
    ) -> "SpokenMessages":
        """Creates the component (see parent class)."""
        return cls()

    def process_training_data(self, training_data: TrainingData) -> TrainingData:
        """Spoken examples lose their text: text classifiers skip them.

        Raises:
            DataError: A clip is missing; said here, before any component spends minutes on training.
            ConfigError: Something before this component has already looked at the references.
        """
        for message in training_data.training_examples:
            if is_audio_reference(message.get(TEXT)):
                if message.features or message.get(TOKENS_NAMES[TEXT]):
                    raise ConfigError("SpokenMessages comes first in the pipeline, before every tokenizer and featurizer.")
                message.set(AUDIO, message.data.pop(TEXT))
        _clips(spoken_examples(training_data))
        return training_data

    def process(self, messages: List[Message]) -> List[Message]:
        """Spoken messages get a placeholder text until `SpokenIntentClassifier` restores it."""
        for message in messages:
            if is_audio_reference(message.get(TEXT)):
                message.set(AUDIO, message.get(TEXT))
                message.set(TEXT, PLACEHOLDER)
        return messages


@dataclass(frozen=True)
class ClassifierSettings:
    """What config.yml may say of `SpokenIntentClassifier`.

    Attributes:
        base_model: A Whisper on the model hub, a directory, or a bundled name (``whisper-mini``).
        recipe: A recipe's name, its file, or its settings.
        epochs: Instead of the recipe's and of its `min_steps`; 0: the recipe's. A number, because Rasa multiplies it in `--finetune`.
        audio_directories: Where clips may lie, relative to the project.
    """

    base_model: str = "openai/whisper-base.en"
    recipe: Union[str, dict] = "default"
    epochs: int = 0
    audio_directories: Tuple[str, ...] = ("audio",)

    @classmethod
    def read(cls, config: Dict[str, Any]) -> "ClassifierSettings":
        """The settings in a component's config.

        Raises:
            ConfigError: An unknown setting or a wrong value.
        """
        return settings_from(
            cls, {key: value for key, value in config.items() if key not in _RASAS_OWN}, "SpokenIntentClassifier"
        )


_FRACTION = "finetuning_epoch_fraction"  # what `rasa train --finetune --epoch-fraction` says
_RASAS_OWN = ("name", _FRACTION)


@DefaultV1Recipe.register(DefaultV1Recipe.ComponentType.INTENT_CLASSIFIER, is_trainable=True)
class SpokenIntentClassifier(GraphComponent):
    """Classifies spoken messages by a fine-tuned Whisper encoder; leaves typed ones alone."""

    @classmethod
    def required_components(cls) -> List[Type]:
        """`SpokenMessages` must come before."""
        return [SpokenMessages]

    @staticmethod
    def get_default_config() -> Dict[str, Any]:
        """`ClassifierSettings`' defaults. With ``epochs`` among them, `--finetune` may change it."""
        return asdict(ClassifierSettings())

    def __init__(
        self,
        settings: ClassifierSettings,
        model_storage: ModelStorage,
        resource: Resource,
        recognizer: Optional[Recognizer] = None,
        continue_from: Optional[Path] = None,
        epoch_fraction: float = 1.0,
    ) -> None:
        self._settings = settings
        self._model_storage = model_storage
        self._resource = resource
        self._recognizer = recognizer
        self._continue_from = continue_from
        self._epoch_fraction = epoch_fraction

    @classmethod
    def create(
        cls, config: Dict[str, Any], model_storage: ModelStorage, resource: Resource, execution_context: ExecutionContext
    ) -> "SpokenIntentClassifier":
        """Creates an untrained component (see parent class)."""
        return cls(ClassifierSettings.read(config), model_storage, resource)

    @classmethod
    def load(
        cls,
        config: Dict[str, Any],
        model_storage: ModelStorage,
        resource: Resource,
        execution_context: ExecutionContext,
        **kwargs: Any,
    ) -> "SpokenIntentClassifier":
        """Loads the model and makes it the live one of this Rasa model (see parent class)."""
        recognizer = continue_from = None
        directory = cls._stored(model_storage, resource)
        if directory is not None:
            recognizer = Recognizer(directory, remote=RemoteSettings.read(os.environ))
            continue_from = directory if execution_context.is_finetuning else None
        if recognizer is not None and execution_context.model_id:
            recognizers.register(execution_context.model_id, recognizer)
        fraction = float(config.get(_FRACTION, 1.0))
        return cls(ClassifierSettings.read(config), model_storage, resource, recognizer, continue_from, fraction)

    @staticmethod
    def _stored(model_storage: ModelStorage, resource: Resource) -> Optional[Path]:
        """The stored model's directory; None when there was nothing to learn from."""
        try:
            with model_storage.read_from(resource) as directory:
                return directory if (directory / recognizers.MODEL_JSON).exists() else None
        except ValueError:  # so Rasa says that nothing was stored
            return None

    @classmethod
    def fingerprint_addon(cls, config: Dict[str, Any]) -> Optional[str]:
        """Changes with the clips' bytes, the recipe's content and a local base model's files."""
        from spoken_intents_training.sources import training_fingerprint

        if "base_model" not in config:
            return None  # the fingerprint of a cached result, not of a component
        settings = ClassifierSettings.read(config)
        return training_fingerprint(settings.base_model, settings.recipe, settings.audio_directories)

    def train(self, training_data: TrainingData) -> Resource:
        """Fine-tunes on the spoken examples and persists the model.

        Raises:
            ConfigError: What training needs is not installed.
            DataError: A clip is missing or unusable, or there are fewer than two spoken intents.
        """
        examples = spoken_examples(training_data)
        if not examples:
            logger.warning(
                "No spoken examples: SpokenIntentClassifier learns nothing. The text of a spoken example is its "
                "clip, such as audio/balance/1.wav, in a directory of audio_directories."
            )
            return self._resource
        try:
            from spoken_intents_training.dataset import noise_clips
            from spoken_intents_training.finetune import train
            from spoken_intents_training.recipe import load_recipe, overrides
        except ImportError as error:
            raise ConfigError(f"Training needs the extra: pip install 'rasa-spoken-intents[train]' ({error}).") from error
        recipe = load_recipe(self._settings.recipe, **overrides(self._settings.epochs or None))
        if not self._settings.epochs:  # else Rasa has taken the fraction of them
            recipe = recipe.shortened(self._epoch_fraction)
        clips = _clips(examples)
        for clip in clips:
            resolve(clip.name, self._settings.audio_directories)
        with self._model_storage.write_to(self._resource) as directory:
            noises = noise_clips(self._settings.audio_directories)
            train(clips, self._settings.base_model, recipe, directory, self._continue_from, noises=noises)
            self._recognizer = Recognizer(directory)
        return self._resource

    def process(self, messages: List[Message]) -> List[Message]:
        """Sets intent and the whole ranking of spoken messages.

        Beside a channel of speech a reference that is none of a call in progress is heard as nothing, and the log says
        why: its sender may be anybody, and gets what the bot says when it has not understood.

        Raises:
            AudioReferenceError: Elsewhere, a reference that leads to no clip, or out of the audio directories.
            AudioError: A clip that cannot be read.
        """
        for message in messages:
            reference = message.get(AUDIO)
            if reference is None:
                continue
            message.set(TEXT, reference)
            message.set(ENTITIES, [], add_to_output=True)  # whatever a text component found in the placeholder
            ranking = self._ranking(reference) if self._recognizer else []
            message.set(INTENT, ranking[0] if ranking else {"name": None, "confidence": 0.0}, add_to_output=True)
            message.set(INTENT_RANKING_KEY, ranking, add_to_output=True)
        return messages

    def _ranking(self, reference: str) -> List[Dict[str, Any]]:
        try:
            return self._recognize(reference).as_rasa()
        except AudioReferenceError as error:
            if not hand_off.live_only:
                raise
            logger.warning("A message was heard as nothing. %s", error)
            return []

    def _recognize(self, reference: str) -> Recognition:
        assert self._recognizer is not None
        if reference.startswith(LIVE):
            utterance = hand_off.take(reference)
            if utterance.recognition and utterance.recognition.model == self._recognizer.fingerprint:
                return utterance.recognition
            return self._recognizer.classify(utterance.samples)
        if hand_off.live_only:
            raise AudioReferenceError(
                f"{shown(reference)}: this server hears calls and reads no files. If all who can send it text may have clips of "
                "audio_directories heard, set audio_files: true for each channel of speech in credentials.yml."
            )
        with open_clip(reference, self._settings.audio_directories) as clip:
            return self._recognizer.classify(read_audio(clip, MAX_SAMPLES / SAMPLE_RATE, shown(reference)))


def spoken_examples(training_data: TrainingData) -> List[Tuple[str, str, Dict[str, str]]]:
    """(reference, intent, {transcript, speaker, heard}) of every spoken example that `SpokenMessages` found."""
    found = []
    for message in training_data.training_examples:
        if message.get(AUDIO) and message.get(INTENT):
            metadata = (message.get(METADATA) or {}).get("example")
            metadata = metadata if isinstance(metadata, dict) else {}
            known = {key: str(metadata.get(key) or "") for key in ("transcript", "speaker", "heard")}
            found.append((message.get(AUDIO), message.get(INTENT), known))
    return found


def _clips(examples: List[Tuple[str, str, Dict[str, str]]]) -> List[Any]:
    """The examples as training takes them; every file is there.

    Raises:
        DataError: A clip is missing.
    """
    from spoken_intents_training.dataset import Clip, require_files

    clips = [Clip(Path.cwd() / reference, intent, reference, **known) for reference, intent, known in examples]
    require_files(clips)
    return clips
