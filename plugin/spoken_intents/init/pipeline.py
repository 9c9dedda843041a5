"""Where in a pipeline and among the policies what is to be: for whatever components a project has."""

import re
from typing import Any, Dict, List, Sequence, Tuple

from spoken_intents.errors import ConfigError
from spoken_intents.init.yaml_text import Block

MESSAGES, CLASSIFIER = "spoken_intents.nlu.SpokenMessages", "spoken_intents.nlu.SpokenIntentClassifier"
BUNDLED, MULTILINGUAL = "whisper-mini", "openai/whisper-base"

# Rasa's own components that set an intent, and those that read the text, or what was made of it.
CLASSIFIERS = (
    "DIETClassifier",
    "LogisticRegressionClassifier",
    "SklearnIntentClassifier",
    "KeywordIntentClassifier",
    "MitieIntentClassifier",
)
READERS = CLASSIFIERS + (
    "WhitespaceTokenizer",
    "JiebaTokenizer",
    "MitieTokenizer",
    "SpacyTokenizer",
    "SpacyNLP",
    "MitieNLP",
    "CountVectorsFeaturizer",
    "LexicalSyntacticFeaturizer",
    "RegexFeaturizer",
    "ConveRTFeaturizer",
    "LanguageModelFeaturizer",
    "MitieFeaturizer",
    "SpacyFeaturizer",
    "CRFEntityExtractor",
    "DucklingEntityExtractor",
    "MitieEntityExtractor",
    "RegexEntityExtractor",
    "SpacyEntityExtractor",
)
FALLBACK = "FallbackClassifier"
HARMLESS = (
    FALLBACK,
    "EntitySynonymMapper",
    "ResponseSelector",
)  # they read features and entities, of which a spoken turn has none

MESSAGES_BLOCK = Block(
    (f"name: {MESSAGES}  # first: spoken turns leave the text path here",),
    {"name": MESSAGES},
)
ABOUT = {"threshold": "  # `rasa train` suggests one for your clips"}
_FALLBACK_BLOCK = Block(
    (f"name: {FALLBACK}  # what is heard or read unsurely becomes nlu_fallback", f"threshold: 0.3{ABOUT['threshold']}"),
    {"name": FALLBACK, "threshold": 0.3},
)  # fmt: skip
_RULE_POLICY = Block(
    ("name: RulePolicy  # for the rule on nlu_fallback", "enable_fallback_prediction: false  # rules only: all else goes on as before"),
    {"name": "RulePolicy", "enable_fallback_prediction": False},
)  # fmt: skip


def is_english(language: str) -> bool:
    """Whether a config's ``language`` is one that the bundled base model knows: ``en``, ``en-GB``."""
    return re.match(r"en(g|glish)?\b|en_", language.lower()) is not None


def classifier_block(language: str) -> Block:
    """`SpokenIntentClassifier` with a base model that knows the language."""
    if is_english(language):
        about: Sequence[str] = (
            "# A small model that comes with Spoken Intents: English, needs no network. Larger: openai/whisper-base.en, which the",
            "# first `rasa train` fetches (290 MB), or a folder with a Whisper of your own.",
        )
        base = BUNDLED
    else:
        about, base = ("# From the model hub, in many languages; or a folder with a Whisper of your own.",), MULTILINGUAL
    lines = (f"name: {CLASSIFIER}  # spoken turns; behind all that read text", *about, f"base_model: {base}")
    return Block(lines, {"name": CLASSIFIER, "base_model": base})


Insertion = Tuple[int, Block, str]  # the index before which it goes, and where that is, in words


def missing_in_pipeline(pipeline: List[Dict[str, Any]], language: str, needs_rules: bool) -> Tuple[List[Insertion], List[str]]:
    """What is to be inserted into a pipeline, and what its author should know.

    `SpokenMessages` goes first. `SpokenIntentClassifier` goes behind everything that may set an intent or read text, custom
    components among them, and before `FallbackClassifier`, which judges what it heard.
    """
    names = [short(one["name"]) for one in pipeline]
    fallback = next((index for index, name in enumerate(names) if "Fallback" in name), len(names))
    mine = [index for index, one in enumerate(pipeline) if one["name"].endswith(".SpokenIntentClassifier")]
    place = mine[0] if mine else fallback
    behind = [name for name in names[place:] if name in READERS]
    if behind and not mine:
        raise ConfigError(
            f"{names[fallback].lstrip('.')} stands before {', '.join(behind)} in the pipeline. Spoken turns have to be classified before the first and "
            f"behind the others. Move {names[fallback].lstrip('.')} to the end, where it judges every classifier, and run this again. Nothing was changed."
        )
    notes = []
    if behind or any("Fallback" in name for name in names[: mine[0] if mine else 0]):
        notes.append(
            "SpokenIntentClassifier stands in a wrong place: it goes behind every other classifier and before FallbackClassifier."
        )
    own = [one["name"] for one in pipeline[place + 1 :] if _is_custom(one["name"]) and "Fallback" not in one["name"]]
    if own:
        notes.append(f"{', '.join(own)} comes behind SpokenIntentClassifier: the text of a spoken turn is its clip's name there.")
    blocks: List[Insertion] = []
    has_messages = [index for index, one in enumerate(pipeline) if one["name"].endswith(".SpokenMessages")]
    if not has_messages:
        blocks.append((0, MESSAGES_BLOCK, "first in the pipeline: takes spoken turns out of the text path"))
    elif has_messages[0]:
        notes.append("SpokenMessages stands in a wrong place: it goes first in the pipeline.")
    if not mine:
        where = f"behind {names[place - 1].lstrip('.')}" if place else "behind it"
        blocks.append((place, classifier_block(language), f"{where}: hears spoken turns; typed ones go on as before"))
    if fallback == len(names):
        if any(_sets_intent(one) for one in pipeline):
            blocks.append((len(names), _FALLBACK_BLOCK, "last: unsure turns, spoken and typed, become nlu_fallback"))
        else:
            notes.append("No FallbackClassifier was added: nothing here sets the intent of typed turns, on which it would fail.")
    return blocks, notes


def missing_in_policies(policies: List[Dict[str, Any]], language: str, needs_rules: bool) -> Tuple[List[Insertion], List[str]]:
    """`RulePolicy`, where a rule needs it that nobody follows so far."""
    if not needs_rules or any("RulePolicy" in one["name"] for one in policies):
        return [], []
    return [(len(policies), _RULE_POLICY, "last of the policies, for the rule on what was not understood")], []


def short(name: str) -> str:
    """A component of Rasa's own by its bare name; of others the class's, marked by a dot."""
    return name.rpartition(".")[2] if name.startswith("rasa.") or "." not in name else f".{name.rpartition('.')[2]}"


def _is_custom(name: str) -> bool:
    return short(name) not in READERS + HARMLESS and not name.startswith("spoken_intents.")


def _sets_intent(component: Dict[str, Any]) -> bool:
    name = short(component["name"])
    return (name in CLASSIFIERS and component.get("intent_classification") is not False) or _is_custom(component["name"])
