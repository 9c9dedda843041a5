"""``spoken-intents init``: voice for any Rasa project, and what of it is taken back; held against Rasa itself."""

import json
import re
import stat
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from typing import Any, Dict, List, Optional
from unittest import mock

import pytest
import yaml
from conftest import INTENTS, add_clips, disk_that_takes, run_rasa
from rasa.engine.graph import ExecutionContext, GraphComponent
from rasa.engine.recipes.default_recipe import DefaultV1Recipe
from rasa.engine.storage.resource import Resource
from rasa.engine.storage.storage import ModelStorage
from rasa.engine.validation import validate
from rasa.shared.importers.importer import TrainingDataImporter
from rasa.shared.nlu.training_data.message import Message
from rasa.shared.utils.io import read_yaml_file
from test_cli import called, words

from spoken_intents.errors import ConfigError
from spoken_intents.init.adding import plan
from spoken_intents.init.changes import RECORD
from spoken_intents.init.pipeline import CLASSIFIERS, HARMLESS, READERS

SPOKEN = ["spoken_intents.nlu.SpokenMessages", "spoken_intents.nlu.SpokenIntentClassifier"]
CHANNEL = "spoken_intents.channels.voice.VoiceInput"
HEAD = "recipe: default.v1\nassistant_id: bot\nlanguage: en\n"


class Mood(GraphComponent):
    """A component of the project's own, such as Rasa's documentation makes one."""

    @classmethod
    def create(
        cls, config: Dict[str, Any], model_storage: ModelStorage, resource: Resource, execution_context: ExecutionContext
    ) -> "Mood":
        return cls()

    def process(self, messages: List[Message]) -> List[Message]:
        return messages


DefaultV1Recipe.register(DefaultV1Recipe.ComponentType.INTENT_CLASSIFIER, is_trainable=False)(Mood)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What `rasa init` makes, before anything is trained."""
    spec = find_spec("rasa")
    assert spec and spec.submodule_search_locations
    copytree(Path(spec.submodule_search_locations[0]) / "cli/initial_project", tmp_path / "bot")
    return tmp_path / "bot"


def with_pipeline(project: Path, pipeline: str, policies: str = "policies:\n- name: RulePolicy\n") -> None:
    (project / "config.yml").write_text(f"{HEAD}\npipeline:\n{pipeline}\n{policies}")


def files(project: Path) -> Dict[str, Optional[bytes]]:
    """All that is in a project; a folder's content is None."""
    return {str(file.relative_to(project)): file.read_bytes() if file.is_file() else None for file in project.rglob("*")}


def names(project: Path) -> List[str]:
    return [one["name"] for one in read_yaml_file(project / "config.yml")["pipeline"]]


def order(project: Path, config: str = "config.yml") -> List[str]:
    """The components a message passes, by their classes: of the graph that Rasa makes of the project, and finds valid."""
    importer = TrainingDataImporter.load_from_config(
        str(project / config), str(project / "domain.yml"), [str(project / "data")]
    )  # fmt: skip
    graph = DefaultV1Recipe().graph_config_for_recipe(importer.get_config(), {})
    validate(graph)
    nodes, passed = graph.predict_schema.nodes, []
    name = graph.nlu_target
    while name in nodes:
        passed.append(nodes[name].uses.__name__)
        name = nodes[name].needs.get("messages", "")
    return passed[-2::-1][:-1]  # without Rasa's own first and last: the converter and the handler of /intents


def assert_spoken(project: Path) -> None:
    """Both components stand where they have to, by Rasa's own graph."""
    passed = order(project)
    assert passed[0] == "SpokenMessages"
    ours = passed.index("SpokenIntentClassifier")
    types = DefaultV1Recipe.ComponentType
    for index, name in enumerate(passed):
        kinds = DefaultV1Recipe._registered_components[name].types
        judges = name == "FallbackClassifier"
        if judges:
            assert index > ours, f"{name} judges before anything was heard"
        elif types.INTENT_CLASSIFIER in kinds and name != "ResponseSelector":
            assert index <= ours, f"{name} overwrites what was heard"
        elif types.MESSAGE_TOKENIZER in kinds or types.MESSAGE_FEATURIZER in kinds:
            assert index < ours, f"{name} reads file names"


# ---------------------------------------------------------------- projects of `rasa init`


def test_a_fresh_project_gets_all_that_voice_needs(project: Path, capsys: pytest.CaptureFixture) -> None:
    assert called("init", project, "--yes") == 0
    assert_spoken(project)
    assert order(project)[-2:] == ["SpokenIntentClassifier", "FallbackClassifier"]
    assert read_yaml_file(project / "credentials.yml") == {"rest": None, "rasa": mock.ANY, CHANNEL: None}
    assert (project / "audio").is_dir()
    assert "/recordings/" in (project / ".gitignore").read_text().splitlines()
    rules = read_yaml_file(project / "data/rules_spoken.yml")["rules"]
    assert rules[0]["steps"] == [{"intent": "nlu_fallback"}, {"action": "action_default_fallback"}]
    assert read_yaml_file(project / "domain.yml")["responses"]["utter_default"][0]["text"].startswith("Sorry")
    said = capsys.readouterr().out
    assert "+  - name: spoken_intents.nlu.SpokenMessages" in said and "@@" in said
    assert re.search(r"Next\n.*cd .*\n.*synthesize data/nlu.yml.*\n.*teach.*\n.*rasa train.*\n.*rasa run -i 127.0.0.1 ", said)


def test_what_rasa_chose_by_itself_is_written_out_as_it_was(project: Path) -> None:
    importer = TrainingDataImporter.load_from_config(str(project / "config.yml"))
    chosen = DefaultV1Recipe.complete_config(importer.get_config(), {"pipeline", "policies"})
    called("init", project, "--yes")
    config = read_yaml_file(project / "config.yml")
    assert [one for one in config["pipeline"] if one["name"] not in SPOKEN] == chosen["pipeline"]
    assert config["policies"] == chosen["policies"]
    assert "No configuration" not in (project / "config.yml").read_text()
    assert "\n# Configuration for Rasa Core.\n" in (project / "config.yml").read_text()


def test_rasa_finds_no_fault_with_the_rule_and_the_response(project: Path) -> None:
    from rasa.core.actions.action import ActionDefaultFallback  # says utter_default where there is one
    from rasa.shared.core.domain import Domain

    called("init", project, "--yes")
    importer = TrainingDataImporter.load_from_config(
        str(project / "config.yml"), str(project / "domain.yml"), [str(project / "data")]
    )  # fmt: skip
    rules = [step for step in importer.get_stories().ordered_steps() if "not understood" in (step.block_name or "")]
    assert len(rules) == 1
    assert ActionDefaultFallback().utter_action in Domain.load(str(project / "domain.yml")).responses


def test_a_project_that_rasa_has_trained_is_as_a_fresh_one(project: Path) -> None:
    """`rasa train` gives it an id, for which it writes config.yml anew, and says in comments what it chose."""
    from rasa.cli.utils import validate_assistant_id_in_config

    config = project / "config.yml"
    with pytest.warns(UserWarning, match="missing a unique value"):
        validate_assistant_id_in_config(config)
    DefaultV1Recipe.auto_configure(str(config), TrainingDataImporter.load_from_config(str(config)).get_config())
    assert "\npipeline: null\n# # No configuration" in config.read_text()
    before = files(project)
    called("init", project, "--yes")
    assert_spoken(project)
    assert "No configuration" not in config.read_text()
    called("init", project, "--undo", "--yes")
    assert files(project) == before


def test_the_second_time_all_is_there(project: Path, capsys: pytest.CaptureFixture) -> None:
    called("init", project, "--yes")
    before = files(project)
    capsys.readouterr()
    assert called("init", project) == 0, "nothing is asked when nothing is to be done"
    assert files(project) == before
    assert "All is there: nothing to add." in capsys.readouterr().out


def test_only_what_is_missing_is_added(project: Path) -> None:
    called("init", project, "--yes")
    whole = files(project)
    for name in ("credentials.yml", ".gitignore"):
        (project / name).unlink()
    called("init", project, "--yes")
    assert files(project).keys() == whole.keys()
    assert all(files(project)[name] == content for name, content in whole.items() if name not in ("credentials.yml", RECORD))
    called("init", project, "--undo", "--yes")
    assert not (project / "credentials.yml").exists() and not (project / RECORD).exists()


# ---------------------------------------------------------------- pipelines of all kinds


DIET = """  - name: WhitespaceTokenizer
  - name: CountVectorsFeaturizer
  - name: DIETClassifier
    epochs: 5    # few
"""
PIPELINES = {
    "DIET alone": (DIET, "DIETClassifier", True),
    "DIET and a fallback": (f"{DIET}  - name: FallbackClassifier\n    threshold: 0.7\n", "DIETClassifier", False),
    "several classifiers": (
        f"{DIET}  - name: LogisticRegressionClassifier\n  # words that settle it\n  - name: KeywordIntentClassifier\n",
        "KeywordIntentClassifier",
        True,
    ),
    "synonyms and responses": (
        f"{DIET}  - name: EntitySynonymMapper\n  - name: ResponseSelector\n    retrieval_intent: faq\n  - name: FallbackClassifier\n",
        "ResponseSelector",
        False,
    ),
    "responses behind the fallback": (
        f"{DIET}  - name: FallbackClassifier\n  - name: EntitySynonymMapper\n  - name: ResponseSelector\n",
        "DIETClassifier",
        False,
    ),
    "a classifier of the project's own": (f"{DIET}  - name: test_add_voice.Mood\n", "Mood", True),
    "its own before the fallback": (
        f"{DIET}  - name: test_add_voice.Mood\n  - name: FallbackClassifier\n",
        "Mood",
        False,
    ),
    "full names": (
        DIET.replace("DIETClassifier", "rasa.nlu.classifiers.diet_classifier.DIETClassifier")
        + "  - name: rasa.nlu.classifiers.fallback_classifier.FallbackClassifier\n",
        "DIETClassifier",
        False,
    ),
    "dashes without indentation": (re.sub("^  ", "", DIET, flags=re.M) + "- name: FallbackClassifier\n", "DIETClassifier", False),
    "dashes on lines of their own": (DIET.replace("- name", "-\n    name"), "DIETClassifier", True),
    "wide dashes and comments": (
        "  # the usual\n\n  # words\n  -   name: WhitespaceTokenizer\n"
        "  -   name: CountVectorsFeaturizer\n  -   name: DIETClassifier\n      # epochs: 100\n  # the end\n",
        "DIETClassifier",
        True,
    ),
}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_components_stand_in_their_places(project: Path, pipeline: str) -> None:
    text, behind, fallback = PIPELINES[pipeline]
    with_pipeline(project, text)
    before = files(project)
    old = names(project)
    called("init", project, "--yes")
    assert_spoken(project)
    passed = order(project)
    assert passed[passed.index("SpokenIntentClassifier") - 1] == behind
    added = [*SPOKEN, *["FallbackClassifier"] * fallback]
    assert [name for name in names(project) if name not in added] == [name for name in old if name not in added]
    own = [line for line in text.splitlines() if line]
    assert [line for line in (project / "config.yml").read_text().splitlines() if line in own] == own, "every line is as it was"
    called("init", project, "--undo", "--yes")
    assert files(project) == before


@pytest.mark.parametrize("pipeline", ["pipeline: []", "pipeline: [ ]  # later"])
def test_an_empty_pipeline_gets_both_components(project: Path, pipeline: str) -> None:
    """To Rasa it is one without components, not one to choose by itself."""
    (project / "config.yml").write_text(f"recipe: default.v1\n{pipeline}\npolicies: []\n")
    before = files(project)
    called("init", project, "--yes")
    assert order(project) == ["SpokenMessages", "SpokenIntentClassifier"]
    called("init", project, "--undo", "--yes")
    assert files(project) == before


def test_lists_and_mappings_on_one_line_stay_so(project: Path) -> None:
    (project / "config.yml").write_text(
        "{recipe: default.v1, assistant_id: bot, language: en, policies: [{name: MemoizationPolicy}],\n"
        " pipeline: [{name: WhitespaceTokenizer}, {name: CountVectorsFeaturizer},  # words\n"
        '  {"name": "DIETClassifier", epochs: 3}, ]}\n'
    )
    (project / "credentials.yml").write_text("{telegram: {access_token: sesame}, rest: }")
    (project / "domain.yml").write_text('{version: "3.1", intents: [greet], responses: {utter_greet: [{text: "Hi"}]}}\n')
    before = files(project)
    called("init", project, "--yes")
    assert_spoken(project)
    config = read_yaml_file(project / "config.yml")
    assert [one["name"] for one in config["policies"]] == ["MemoizationPolicy", "RulePolicy"]
    assert (project / "config.yml").read_text().count("\n") == 3
    assert list(read_yaml_file(project / "credentials.yml")) == ["telegram", "rest", CHANNEL]
    called("init", project, "--undo", "--yes")
    assert files(project) == before


ANCHORED = """x-defaults: &fast
  epochs: 5   # everywhere

pipeline: &pipeline
  - &words
    name: 'WhitespaceTokenizer'
  - name: "CountVectorsFeaturizer"
  - <<: *fast
    name: DIETClassifier
  - {name: FallbackClassifier, threshold: 0.4}
policies:
  - name: RulePolicy
"""


def test_anchors_merge_keys_and_quotation_marks_stay(project: Path) -> None:
    (project / "config.yml").write_text(HEAD + ANCHORED)
    called("init", project, "--yes")
    assert_spoken(project)
    lines = (project / "config.yml").read_text().splitlines()
    assert [line for line in lines if line in ANCHORED.splitlines()] == ANCHORED.splitlines()
    assert read_yaml_file(project / "config.yml")["pipeline"][3]["epochs"] == 5


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "\n"])
def test_line_ends_stay_as_they_are(project: Path, end: str, last: str) -> None:
    for name in ("config.yml", "credentials.yml", "domain.yml"):
        text = (project / name).read_text().rstrip("\n")
        (project / name).write_bytes((text + last).replace("\n", end).encode())
    before = files(project)
    called("init", project, "--yes")
    assert_spoken(project)
    for name in ("config.yml", "credentials.yml", "domain.yml"):
        content = (project / name).read_bytes()
        assert content.count(b"\r\n") == (content.count(b"\n") if end == "\r\n" else 0)
    called("init", project, "--undo", "--yes")
    assert files(project) == before


def test_components_that_are_there_are_left_alone(project: Path, capsys: pytest.CaptureFixture) -> None:
    with_pipeline(project, f"  - name: {SPOKEN[0]}\n{DIET}  - name: {SPOKEN[1]}\n    base_model: mine\n")
    called("init", project, "--yes")
    assert_spoken(project)
    assert names(project).count(SPOKEN[1]) == 1 and "base_model: mine" in (project / "config.yml").read_text()
    with_pipeline(project, f"  - name: {SPOKEN[1]}\n{DIET}  - name: {SPOKEN[0]}\n  - name: FallbackClassifier\n")
    before = files(project)
    capsys.readouterr()
    assert called("init", project, "--yes") == 0
    assert files(project) == before, "they are the author's"
    said = words(capsys.readouterr().out)
    assert "SpokenIntentClassifier stands in a wrong place" in said and "SpokenMessages stands in a wrong place" in said


def test_a_component_of_the_projects_own_behind_the_fallback_is_told_of(project: Path, capsys: pytest.CaptureFixture) -> None:
    with_pipeline(project, f"{DIET}  - name: FallbackClassifier\n  - name: test_add_voice.Mood\n")
    called("init", project, "--yes")
    assert "test_add_voice.Mood comes behind SpokenIntentClassifier" in words(capsys.readouterr().out)


def test_nothing_is_added_on_which_typed_turns_would_fail(project: Path, capsys: pytest.CaptureFixture) -> None:
    with_pipeline(project, "  - name: WhitespaceTokenizer\n  - name: RegexEntityExtractor\n")
    called("init", project, "--yes")
    assert order(project)[-1] == "SpokenIntentClassifier"
    assert "No FallbackClassifier was added" in words(capsys.readouterr().out)


def test_policies_without_rules_get_the_one_that_follows_them(project: Path) -> None:
    with_pipeline(project, DIET, "policies:\n  - name: MemoizationPolicy\n    max_history: 2\n  # - name: TEDPolicy\n")
    called("init", project, "--yes")
    policies = read_yaml_file(project / "config.yml")["policies"]
    assert policies == [
        {"name": "MemoizationPolicy", "max_history": 2},
        {"name": "RulePolicy", "enable_fallback_prediction": False},
    ]


@pytest.mark.parametrize(("language", "base"), [("de", "openai/whisper-base"), ("en-GB", "whisper-mini"), ('""', "whisper-mini")])
def test_the_base_model_knows_the_language(project: Path, language: str, base: str, capsys: pytest.CaptureFixture) -> None:
    config = (project / "config.yml").read_text()
    (project / "config.yml").write_text(config.replace("language: en", f"language: {language}"))
    called("init", project, "--yes")
    found = [one for one in read_yaml_file(project / "config.yml")["pipeline"] if one["name"] == SPOKEN[1]]
    assert found[0]["base_model"] == base
    told = "The bundled model is English, so this bot, whose language is de" in words(capsys.readouterr().out)
    assert told == (base != "whisper-mini")


def test_rasas_components_are_all_known() -> None:
    from rasa.engine.recipes.default_components import DEFAULT_COMPONENTS

    types = DefaultV1Recipe.ComponentType
    known = {one.__name__: DefaultV1Recipe._registered_components[one.__name__].types for one in DEFAULT_COMPONENTS}
    policies = {types.POLICY_WITH_END_TO_END_SUPPORT, types.POLICY_WITHOUT_END_TO_END_SUPPORT}
    nlu = {name for name, kinds in known.items() if not kinds & policies} - {"RegexMessageHandler"}
    assert nlu == set(READERS) | set(HARMLESS)
    assert {name for name in nlu if types.INTENT_CLASSIFIER in known[name]} == {
        *CLASSIFIERS,
        "ResponseSelector",
        "FallbackClassifier",
    }


# ---------------------------------------------------------------- dialogue


@pytest.mark.parametrize(
    "rule",
    [
        "rules:\n- rule: again\n  steps:\n  - intent: nlu_fallback\n  - action: utter_greet\n",
        'stories:\n- {story: a, steps: [{"intent": "nlu_fallback"}, {action: utter_greet}]}\n',
    ],
)
def test_an_answer_to_what_is_not_understood_is_left_to_answer_it(project: Path, rule: str) -> None:
    (project / "data/sub").mkdir()
    (project / "data/sub/mine.yaml").write_text(f'version: "3.1"\n{rule}')
    before = (project / "domain.yml").read_bytes()
    called("init", project, "--yes")
    assert not (project / "data/rules_spoken.yml").exists()
    assert (project / "domain.yml").read_bytes() == before


def test_a_comment_on_it_is_no_answer(project: Path) -> None:
    (project / "data/rules.yml").write_text((project / "data/rules.yml").read_text() + "\n#  - intent: nlu_fallback\n")
    called("init", project, "--yes")
    assert (project / "data/rules_spoken.yml").exists()


@pytest.mark.parametrize("there", ["responses:\n  utter_default:\n  - text: What?\n", "actions: [action_default_fallback]\n"])
def test_what_the_bot_says_to_it_is_left_alone(project: Path, there: str) -> None:
    (project / "domain.yml").write_text(f'version: "3.1"\nintents: [greet]\n{there}')
    before = (project / "domain.yml").read_bytes()
    called("init", project, "--yes")
    assert (project / "data/rules_spoken.yml").exists()
    assert (project / "domain.yml").read_bytes() == before


@pytest.mark.parametrize("responses", ["", "responses:\n", "responses: {}\n", "responses: null\n", "responses:  # none yet\n"])
def test_a_domain_without_responses_gets_one(project: Path, responses: str) -> None:
    (project / "domain.yml").write_text(f'version: "3.1"\nintents:\n- greet\n{responses}'.rstrip("\n"))
    before = files(project)
    called("init", project, "--yes")
    assert "utter_default" in read_yaml_file(project / "domain.yml")["responses"]
    called("init", project, "--undo", "--yes")
    assert files(project) == before


def test_a_domain_in_many_files_gets_another(project: Path, capsys: pytest.CaptureFixture) -> None:
    from rasa.shared.core.domain import Domain

    (project / "domain").mkdir()
    (project / "domain.yml").rename(project / "domain/main.yml")
    before = files(project)
    called("init", project, "--yes")
    assert "utter_default" in Domain.load(str(project / "domain")).responses
    assert (project / "domain/main.yml").read_bytes() == before["domain/main.yml"]
    assert "rasa train --domain domain" in capsys.readouterr().out
    called("init", project, "--undo", "--yes")
    assert files(project) == before


def test_a_project_that_only_understands_gets_no_rule(project: Path, capsys: pytest.CaptureFixture) -> None:
    (project / "domain.yml").unlink()
    called("init", project, "--yes")
    assert_spoken(project)
    assert not (project / "data/rules_spoken.yml").exists()
    assert read_yaml_file(project / "config.yml")["policies"] is None
    assert "There is no domain.yml" in words(capsys.readouterr().out)


def test_examples_in_json_and_in_files_of_their_own_are_named_next(project: Path, capsys: pytest.CaptureFixture) -> None:
    (project / "data/nlu.yml").unlink()
    (project / "data/nlu").mkdir()
    (project / "data/nlu/faq.json").write_text(
        json.dumps({"rasa_nlu_data": {"common_examples": [{"text": "hi", "intent": "greet"}]}})
    )
    called("init", project, "--yes")
    assert "spoken-intents synthesize data/nlu/faq.json" in capsys.readouterr().out


def test_data_of_importers_are_their_authors(project: Path, capsys: pytest.CaptureFixture) -> None:
    config = (project / "config.yml").read_text()
    (project / "config.yml").write_text(f"{config}\nimporters:\n- name: MultiProjectImporter\nimports:\n- projects/a\n")
    called("init", project, "--yes")
    assert not (project / "data/rules_spoken.yml").exists()
    assert "The data come through importers of yours" in words(capsys.readouterr().out)


@pytest.mark.parametrize("text", [None, "", "# nothing yet\n", "# no line end", "rest:\n# last\n", "---\nrest:\n"])
def test_credentials_of_all_kinds_get_the_channel(project: Path, text: Optional[str]) -> None:
    (project / "credentials.yml").unlink()
    if text is not None:
        (project / "credentials.yml").write_text(text)
    before = files(project)
    called("init", project, "--yes")
    assert CHANNEL in read_yaml_file(project / "credentials.yml")
    assert (project / "credentials.yml").read_text().startswith(text or "")
    called("init", project, "--undo", "--yes")
    after = files(project)
    assert after == before or text == "" and "credentials.yml" in after


def test_rules_of_what_is_ignored_are_kept_and_met(project: Path) -> None:
    (project / ".gitignore").write_text("models/\n")
    (project / ".dockerignore").write_text("models")
    called("init", project, "--yes")
    assert (project / ".gitignore").read_text().splitlines()[0] == "models/"
    assert "/recordings/" in (project / ".gitignore").read_text().splitlines()
    assert (project / ".dockerignore").read_text().splitlines()[0::3] == ["models", "recordings/"]
    called("init", project, "--undo", "--yes")
    assert (project / ".dockerignore").read_text() == "models"
    (project / ".gitignore").write_text("recordings\n")
    called("init", project, "--yes")
    assert (project / ".gitignore").read_text() == "recordings\n"


# ---------------------------------------------------------------- asking


def test_nothing_is_done_without_a_yes(project: Path, capsys: pytest.CaptureFixture) -> None:
    before = files(project)
    with mock.patch.object(sys, "stdin", mock.Mock(isatty=lambda: False)):
        assert called("init", project) == 1
    said = capsys.readouterr()
    assert "+spoken_intents.channels.voice.VoiceInput:" in said.out, "what would be done is shown all the same"
    assert "there is no terminal to ask at. Add --yes" in words(said.err)
    assert files(project) == before


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("\n", 1), ("y\n", 0)])
def test_a_person_is_asked(project: Path, answer: str, code: int, capsys: pytest.CaptureFixture) -> None:
    before = files(project)
    with mock.patch.object(sys, "stdin") as stdin, mock.patch("spoken_intents.cli_init.typer.confirm") as confirm:
        stdin.isatty.return_value = True
        confirm.return_value = answer == "y\n"
        assert called("init", project) == code
    assert (files(project) == before) == bool(code)
    assert ("Nothing was changed." in capsys.readouterr().out) == bool(code)


def test_secrets_beside_the_channel_are_not_shown_nor_kept(project: Path, capsys: pytest.CaptureFixture) -> None:
    (project / "credentials.yml").write_text("telegram:\n  access_token: sesame")
    called("init", project, "--yes")
    assert CHANNEL in capsys.readouterr().out
    assert "sesame" not in (project / RECORD).read_text()
    (project / "credentials.yml").write_text("{telegram: {access_token: sesame}}")
    called("init", project, "--yes")
    assert "sesame" not in (project / RECORD).read_text()


def test_files_stay_as_private_as_they_were_and_links_stay_links(project: Path) -> None:
    (project / "credentials.yml").chmod(0o600)
    (project / "config.yml").rename(project / "shared.yml")
    (project / "config.yml").symlink_to("shared.yml")
    called("init", project, "--yes")
    assert stat.S_IMODE((project / "credentials.yml").stat().st_mode) == 0o600
    assert (project / "config.yml").is_symlink() and SPOKEN[0] in (project / "shared.yml").read_text()
    called("init", project, "--undo", "--yes")
    assert stat.S_IMODE((project / "credentials.yml").stat().st_mode) == 0o600


# ---------------------------------------------------------------- what cannot be done


def refused(project: Path, message: str, *more: str) -> None:
    before = files(project)
    with pytest.raises(ConfigError, match=message):
        plan(project, *more)
    assert called("init", project, "--yes", *(["--config", *more] if more else [])) == 1
    assert files(project) == before


def test_a_folder_that_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        plan(tmp_path / "none")
    (tmp_path / "a.txt").write_text("hello")
    refused(tmp_path, r"is no Rasa project: there is no config\.yml")
    (tmp_path / "config.yml").write_text("title: My site\n")
    refused(tmp_path, r"config\.yml is not Rasa's: it has none of recipe, pipeline")


def test_a_config_elsewhere_is_named(project: Path) -> None:
    (project / "config").mkdir()
    for name in ("light.yml", "full.yml"):
        (project / "config" / name).write_bytes((project / "config.yml").read_bytes())
    (project / "config.yml").unlink()
    refused(project, r"no such file\. .* --config config/full\.yml or --config config/light\.yml")
    (project / "config").rename(project / "config.yml")
    refused(project, r"config\.yml: a folder\. .* --config config\.yml/full\.yml")
    (project / "config.yml").rename(project / "configs")
    refused(project, r"name a file of the project", "../config.yml")
    assert called("init", project, "--yes", "--config", "configs/light.yml") == 0
    assert order(project, "configs/light.yml")[0] == "SpokenMessages"
    assert SPOKEN[0] not in (project / "configs/full.yml").read_text()
    called("init", project, "--undo", "--yes")
    assert SPOKEN[0] not in (project / "configs/light.yml").read_text()


BROKEN = {
    "broken": ("pipeline:\n  - name: A\n - name: B\n", r"config\.yml, line \d: this is no YAML that Rasa reads"),
    "tabs": ("pipeline:\n\t- name: A\n", r"config\.yml, line 2: this is no YAML"),
    "twice": ("language: en\nlanguage: de\n", r'config\.yml, line 2: .*found duplicate key "language"'),
    "no anchor": ("pipeline: *nobody\n", r"undefined alias"),
    "a list": ("- name: DIETClassifier\n", r"config\.yml: expected names and values, got list"),
    "text": ("pipeline: supervised_embeddings\n", r"pipeline is no list of components"),
    "bare names": ("pipeline:\n- WhitespaceTokenizer\n", r"pipeline is no list of components"),
    "a graph": ("recipe: graph.v1\nlanguage: en\n", r"recipe graph\.v1\. Only default\.v1"),
    "two documents": ("language: en\n---\nlanguage: de\n", r"config\.yml, line \d: .*expected a single document"),
    "a shared list": (
        "x: &x [{name: DIETClassifier}]\npipeline: *x\n",
        r"written in a way that cannot be added to.*\n.*SpokenMessages",
    ),
    "deep": ("pipeline: " + "[" * 600 + "]" * 600, r"nested too deeply"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_config_that_cannot_be_added_to_is_refused(project: Path, kind: str) -> None:
    text, message = BROKEN[kind]
    (project / "config.yml").write_text(text)
    refused(project, message)


def test_other_files_that_cannot_be_read_are_refused(project: Path) -> None:
    (project / "credentials.yml").write_text("rest: sesame\nrest: other\n")
    refused(project, r'^credentials\.yml, line 2: .*found duplicate key "rest"\.')
    (project / "credentials.yml").write_bytes(b"rest: \xff\n")
    refused(project, r"credentials\.yml: byte 6 is not UTF-8")
    (project / "credentials.yml").unlink()
    (project / "credentials.yml").mkdir()
    refused(project, r"credentials\.yml: a folder")
    (project / "credentials.yml").rmdir()
    (project / "credentials.yml").write_text("#" * 5_000_001)
    refused(project, r"credentials\.yml: larger than 5 MB")
    (project / "credentials.yml").unlink()
    (project / "domain.yml").write_text("intents: [greet\n")
    refused(project, r"domain\.yml, line 2")


@pytest.mark.parametrize("behind", ["KeywordIntentClassifier", "DucklingEntityExtractor"])
def test_a_fallback_before_what_reads_text_is_refused(project: Path, behind: str) -> None:
    with_pipeline(project, f"{DIET}  - name: FallbackClassifier\n  - name: {behind}\n")
    refused(project, rf"FallbackClassifier stands before {behind} .* Move FallbackClassifier to the end")


def test_what_is_read_only_is_not_replaced(project: Path) -> None:
    (project / "credentials.yml").chmod(0o444)
    refused(project, r"credentials\.yml: read-only")


def test_a_full_disk_changes_nothing(project: Path, capsys: pytest.CaptureFixture) -> None:
    (project / "domain.yml").write_text((project / "domain.yml").read_text() + "# long\n" * 2000)
    before = files(project)
    with disk_that_takes(12_000):
        assert called("init", project, "--yes") == 1
    assert files(project) == before
    assert called("init", project, "--yes") == 0


@pytest.mark.parametrize("number", range(7))
def test_what_fails_at_any_moment_is_rolled_back(project: Path, number: int) -> None:
    import os

    before = files(project)
    replace, calls = os.replace, []

    def failing(source: Path, target: Path) -> None:
        if not str(source).endswith((".part", ".old")):
            calls.append(target)
            if len(calls) == number:
                raise OSError(5, "Input/output error", str(target))
        replace(source, target)

    with mock.patch("os.replace", failing):
        done = called("init", project, "--yes")
    assert (done == 1) == (1 <= number <= 6), "six files, and then none is left that could fail"
    assert (files(project) == before) == (done == 1)


def test_a_file_that_changes_while_a_person_reads_is_left_alone(project: Path, capsys: pytest.CaptureFixture) -> None:
    changes = plan(project)
    (project / "domain.yml").write_text("version: '3.1'\n")
    before = files(project)
    with pytest.raises(ConfigError, match=r"domain\.yml was changed meanwhile"):
        changes.apply()
    assert files(project) == before


# ---------------------------------------------------------------- taking back


def test_rasa_may_write_the_config_anew_in_between(project: Path) -> None:
    """Which it does at the first `rasa train` of a fresh project, to give it an id: other indentation, `null` for nothing."""
    from rasa.cli.utils import validate_assistant_id_in_config

    original = (project / "config.yml").read_text()
    called("init", project, "--yes")
    with pytest.warns(UserWarning, match="missing a unique value"):
        validate_assistant_id_in_config(project / "config.yml")
    assert "\n- name: spoken_intents" in (project / "config.yml").read_text(), "it dedents"
    called("init", project, "--undo", "--yes")
    assert re.sub("assistant_id: .*", "", (project / "config.yml").read_text()) == re.sub("assistant_id: .*", "", original)


def test_edits_of_the_author_survive(project: Path, capsys: pytest.CaptureFixture) -> None:
    called("init", project, "--yes")

    def edit(name: str, old: str, new: str) -> None:
        assert old in (project / name).read_text()
        (project / name).write_text((project / name).read_text().replace(old, new))

    edit("config.yml", "base_model: whisper-mini", "base_model: /models/mine\n    epochs: 3")
    edit("config.yml", "  - name: DIETClassifier\n    epochs: 100", "  - name: DIETClassifier  # slow\n    epochs: 7")
    edit(
        "credentials.yml",
        "  # recordings: recordings",
        "  recordings: recordings\n  barge_in: false\n\nslack:\n  slack_token: x\n  #",
    )
    edit("domain.yml", "Please say it again.", "Pardon?")
    edit(".gitignore", "/recordings/\n", "/recordings/\nmodels/\n")
    edit("data/rules_spoken.yml", "version", "# ours\nversion")
    capsys.readouterr()
    called("init", project, "--undo", "--yes")
    said = words(capsys.readouterr().out)
    assert [name for name in names(project) if "spoken" in name] == []
    assert read_yaml_file(project / "config.yml")["pipeline"][5] == {
        "name": "DIETClassifier",
        "epochs": 7,
        "constrain_similarities": True,
    }
    assert "config.yml: the pipeline written out stays, as it was changed since." in said
    assert read_yaml_file(project / "config.yml")["policies"] is None, "that was not changed"
    assert read_yaml_file(project / "credentials.yml") == {"rest": None, "rasa": mock.ANY, "slack": {"slack_token": "x"}}
    assert "domain.yml: the response utter_default stays" in said
    assert (project / ".gitignore").read_text() == "models/\n"
    assert (project / "data/rules_spoken.yml").read_text() == "# ours\n"
    assert not (project / RECORD).exists()
    capsys.readouterr()
    assert called("init", project, "--undo") == 0
    assert "Nothing of Spoken Intents is here." in capsys.readouterr().out


def test_another_base_model_is_no_reason_to_keep_the_pipeline(project: Path) -> None:
    before = files(project)
    called("init", project, "--yes")
    config = (project / "config.yml").read_text()
    (project / "config.yml").write_text(
        config.replace("base_model: whisper-mini", "base_model: openai/whisper-base.en\n    epochs: 3")
    )
    called("init", project, "--undo", "--yes")
    assert files(project) == before


@pytest.mark.parametrize("end", ["\n", ""])
def test_without_a_record_the_components_and_the_channel_go(project: Path, end: str, capsys: pytest.CaptureFixture) -> None:
    pipeline = PIPELINES["a classifier of the project's own"][0].rstrip("\n")
    (project / "config.yml").write_text(f"{HEAD}policies:\n- name: RulePolicy\npipeline:\n{pipeline}{end}")
    called("init", project, "--yes")
    (project / RECORD).unlink()
    capsys.readouterr()
    called("init", project, "--undo", "--yes")
    assert (project / "config.yml").read_text().startswith(f"{HEAD}policies:\n- name: RulePolicy\npipeline:\n{pipeline}\n")
    assert names(project)[-1] == "FallbackClassifier" and not any("spoken" in name for name in names(project))
    assert "base_model" not in (project / "config.yml").read_text()
    assert CHANNEL not in (project / "credentials.yml").read_text()
    assert f"There is no {RECORD}" in words(capsys.readouterr().out)


def test_clips_that_would_be_learnt_as_text_are_named(project: Path, capsys: pytest.CaptureFixture) -> None:
    called("init", project, "--yes")
    (project / "audio/greet").mkdir()
    (project / "data/nlu_taught.yml").write_text('nlu:\n- intent: greet\n  examples:\n  - text: "audio/greet/1.flac"\n')
    capsys.readouterr()
    called("init", project, "--undo", "--yes")
    said = words(capsys.readouterr().out)
    assert "data/nlu_taught.yml lists spoken examples" in said and "data/nlu.yml lists" not in said
    assert (project / "audio/greet").is_dir(), "recordings are never removed"


@pytest.mark.parametrize("record", ["", "{", "[]", '{"files": {"../a": {"created": true, "edits": []}}, "directories": []}'])
def test_a_record_that_is_none_is_refused(project: Path, record: str) -> None:
    called("init", project, "--yes")
    (project / RECORD).write_text(record)
    before = files(project)
    assert called("init", project, "--undo", "--yes") == 1
    assert files(project) == before


# ---------------------------------------------------------------- all the way


@pytest.mark.slow
def test_a_bot_of_rasas_learns_to_hear(project: Path, capsys: pytest.CaptureFixture) -> None:
    """With retrieval intents beside: `rasa init`, `spoken-intents init`, clips, `rasa train`, and Rasa's own test hears them."""
    nlu = read_yaml_file(project / "data/nlu.yml")
    for key in ("name", "age"):
        nlu["nlu"].append(
            {"intent": f"faq/{key}", "examples": "".join(f"- what is your {key} {n}\n" for n in ("", "please", "then"))}
        )
    nlu["responses"] = {f"utter_faq/{key}": [{"text": key}] for key in ("name", "age")}
    (project / "data/nlu.yml").write_text(yaml.safe_dump(nlu))
    domain = read_yaml_file(project / "domain.yml")
    domain["intents"].append("faq")
    (project / "domain.yml").write_text(yaml.safe_dump(domain))
    called("init", project, "--yes")
    config = (project / "config.yml").read_text()
    (project / "config.yml").write_text(config.replace("epochs: 100", "epochs: 2"))
    spoken = [{"intent": intent, "examples": add_clips(project, intent)} for intent in INTENTS[:2]]
    spoken.append({"intent": "faq/name", "examples": add_clips(project, "repeat")})
    (project / "data/spoken.yml").write_text(yaml.safe_dump({"version": "3.1", "nlu": spoken}))
    run_rasa(project, "train")
    run_rasa(project, "test", "nlu", "--nlu", "data/spoken.yml", "--no-plot")
    report = json.loads((project / "results/intent_report.json").read_text())
    assert report["accuracy"] > 0.9, report
