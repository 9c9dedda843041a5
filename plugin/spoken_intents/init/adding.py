"""What a Rasa project lacks for people to talk to it, as changes to its files: ``spoken-intents init``."""

import os
import re
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from ruamel.yaml.nodes import MappingNode

from spoken_intents.errors import ConfigError, one_line
from spoken_intents.init.changes import RECORD, Changes, FileChange, Record, read_text, require_writable, unix
from spoken_intents.init.pipeline import (
    ABOUT,
    MESSAGES_BLOCK,
    MULTILINGUAL,
    classifier_block,
    is_english,
    missing_in_pipeline,
    missing_in_policies,
)
from spoken_intents.init.project import (
    Domain,
    answered_at,
    imports_data,
    rasas_choice,
    read_mapping,
    require_project,
    require_recipe,
)
from spoken_intents.init.yaml_text import Block, Edit, YamlText, edited, flow, indented, is_empty, read_yaml

CHANNEL = "spoken_intents.channels.voice.VoiceInput"
CONFIG, CREDENTIALS, IGNORED, DOCKER_IGNORED = "config.yml", "credentials.yml", ".gitignore", ".dockerignore"
AUDIO = "audio"

_CHANNEL = Block(
    (
        "# People talk to the bot here: while `rasa run` runs, open http://127.0.0.1:5005/webhooks/voice/ in a browser.",
        f"{CHANNEL}:",
        "  # recordings: recordings  # keeps what callers say, to correct it and learn from it; tell them before",
    ),
    None,
)
_SORRY = "Sorry, I did not understand that. Please say it again."
_RESPONSE = Block(("utter_default:", f'- text: "{_SORRY}"'), [{"text": _SORRY}])
_RULE = """version: "3.1"

rules:
- rule: what was said was not understood
  steps:
  - intent: nlu_fallback
  - action: action_default_fallback  # says utter_default, and takes the turn back
"""
_IGNORED = ("# What callers said is theirs: it goes into no repository and no image.", "/recordings/")


def plan(folder: Path, config: str = CONFIG) -> Changes:
    """Everything that `folder` lacks; nothing is written yet.

    Args:
        config: The file's path in the project.

    Raises:
        ConfigError: No Rasa project, or one that cannot be changed without a person; it says what to do.
    """
    require_project(folder, config)
    changes = Changes(folder)
    parsed, raw = read_mapping(folder, config)
    assert parsed is not None and raw is not None
    require_recipe(parsed)
    domain = Domain.read(folder)
    answered = answered_at(folder)
    policies = parsed.data.get("policies")
    asks_rule = domain.files and not answered and policies != [] and not imports_data(parsed.data)
    _plan_config(changes, parsed, raw, bool(domain.files), bool(asks_rule))
    _plan_credentials(changes)
    if asks_rule:
        _plan_fallback(changes, domain)
    else:
        changes.notes += _about_fallback(parsed, domain, answered)
    _plan_ignored(changes)
    if not (folder / AUDIO).is_dir():
        changes.directories.append(AUDIO)
        changes.done.append(f"{AUDIO}/: the folder of the clips that it learns from")
    if changes:
        changes.done.append(f"{RECORD}: remembers all this, for --undo")
    if domain.entities:
        changes.notes.append(
            "Speech brings intents and no entities: docs/slots.md of Spoken Intents shows what fills slots then."
        )
    require_writable(folder, [change.name for change in changes.files] + [RECORD] * bool(changes))
    record = Record.read(folder)
    record.add(changes)
    changes.record = record.text() if changes else read_text(folder, RECORD)
    return changes


# ---------------------------------------------------------------- config.yml


def _plan_config(changes: Changes, config: YamlText, raw: str, has_dialogue: bool, needs_rules: bool) -> None:
    edits, done, expected = [], [], dict(config.data)
    language = str(config.data.get("language") or "en")
    for key in ("pipeline", "policies"):
        items = config.node(key)
        if key == "policies" and is_empty(items) and not has_dialogue:
            continue
        if items is None or is_empty(items):
            edit, written = _write_out(config, key, classifier_block(language))
            edits.append(edit)
            expected[key] = written
            said = ", and the two components in it" if key == "pipeline" else ""
            done.append(f"{config.name}: the {key} that Rasa chose by itself so far, written out{said}")
        else:
            plan_list = missing_in_pipeline if key == "pipeline" else missing_in_policies
            blocks, notes = plan_list(config.data[key], language, needs_rules)
            changes.notes += notes
            expected[key] = list(config.data[key])
            for index, block, _ in reversed(blocks):
                expected[key].insert(index, block.data)
            if blocks and not config.data[key]:  # []
                edits.append(config.fill(key, _as_items([block for _, block, _ in blocks]), f"the {key}"))
            for index, block, why in blocks:
                if config.data[key]:
                    edits.append(config.insert_item(items, index, block, block.data["name"].rpartition(".")[2]))
                done.append(f"{config.name}: {block.data['name'].rpartition('.')[2]} {why}")
    if not is_english(language) and any(one.get("base_model") == MULTILINGUAL for one in expected["pipeline"] or []):
        changes.notes.append(
            f"The bundled model is English, so this bot, whose language is {one_line(language)}, learns from {MULTILINGUAL}: the first "
            "`rasa train` fetches it from the model hub (290 MB)."
        )
    if edits:
        change = FileChange.of(config.name, raw, edits)
        _require_meant(config, edits, expected)
        changes.files.append(change)
        changes.done += done


def _write_out(config: YamlText, key: str, classifier: Block) -> Tuple[Edit, List[Dict[str, Any]]]:
    """Rasa's own choice for a key without value, written out; it replaces the comments in which Rasa tells of it."""
    items = rasas_choice(key)
    blocks = [Block(tuple(f"{name}: {flow(value)}{ABOUT.get(name, '')}" for name, value in one.items()), one) for one in items]
    if key == "pipeline":
        blocks = [MESSAGES_BLOCK, *blocks[:-1], classifier, blocks[-1]]
    lines = _as_items(blocks)
    written = [block.data for block in blocks]
    what = f"the {key} written out"
    if config.node(key) is None:
        return config.append(key, Block((f"{key}:", *(f"  {line}" for line in lines)), written), what), written
    if config.root is not None and config.root.flow_style:
        raise ConfigError(f"{config.name}: give {key} a list, as `rasa init` writes it. Nothing was changed.")
    return config.fill(key, lines, what, r"# # No configuration for .*\n(#.*(\n|\Z))*"), written


def _as_items(blocks: Sequence[Block]) -> List[str]:
    """The lines of a list of them."""
    return [line for block in blocks for line in (f"- {block.lines[0]}", *(f"  {line}" for line in block.lines[1:]))]


def _require_meant(file: YamlText, edits: Sequence[Edit], expected: Any) -> None:
    """Raises ConfigError unless `edits` come to what was meant: an author may write YAML in ways not thought of here."""
    try:
        came = read_yaml(edited(file.text, edits), file.name) or {}
    except ConfigError:
        came = None
    if came != expected:
        added = "\n".join(edit.new.rstrip() for edit in edits)
        raise ConfigError(f"{file.name} is written in a way that cannot be added to. Nothing was changed; add by hand:\n{added}")


# ---------------------------------------------------------------- credentials.yml


def _plan_credentials(changes: Changes) -> None:
    parsed, raw = read_mapping(changes.folder, CREDENTIALS)
    done = f"{CREDENTIALS}: the voice channel, with its defaults"
    if parsed is None or raw is None:
        text = "\n".join(_CHANNEL.lines) + "\n"
        changes.files.append(FileChange.new(CREDENTIALS, text, "the voice channel"))
    elif CHANNEL in parsed.data:
        return
    else:
        edit = parsed.append(CHANNEL, _CHANNEL, "the voice channel")
        _require_meant(parsed, [edit], {**parsed.data, CHANNEL: None})
        changes.files.append(FileChange.of(CREDENTIALS, raw, [edit]))
    changes.done.append(done)


# ---------------------------------------------------------------- what is said when nothing was understood


def _plan_fallback(changes: Changes, domain: Domain) -> None:
    folder = changes.folder
    if not (folder / "data").is_dir():
        changes.notes.append(f"There is no data/: add this rule where your rules are, for what is not understood.\n{_RULE}")
        return
    rules = _free(folder, "data", ("rules_spoken.yml", "rules_spoken_intents.yml"))
    changes.files.append(FileChange.new(rules, _RULE, "the rule on nlu_fallback"))
    changes.done.append(f"{rules}: a rule for what is not understood, which nothing answered so far")
    if domain.answers:
        return
    what = "the response utter_default"
    if domain.folder:
        name = _free(folder, domain.folder, ("spoken.yml", "spoken_intents.yml"))
        text = 'version: "3.1"\n\nresponses:\n' + indented(_RESPONSE.lines, 2)
        changes.files.append(FileChange.new(name, text, what))
    else:
        parsed, raw = read_mapping(folder, domain.files[0])
        assert parsed is not None and raw is not None
        name = parsed.name
        edit = _response(parsed, what)
        expected = {**parsed.data, "responses": {**(parsed.data.get("responses") or {}), "utter_default": _RESPONSE.data}}
        _require_meant(parsed, [edit], expected)
        changes.files.append(FileChange.of(name, raw, [edit]))
    changes.done.append(f"{name}: what is said then, utter_default: {_SORRY!r}")


def _response(domain: YamlText, what: str) -> Edit:
    responses = domain.node("responses")
    if isinstance(responses, MappingNode):
        return domain.insert_entry(responses, "utter_default", _RESPONSE, what)
    if responses is None:
        block = Block(("responses:", *(f"  {line}" for line in _RESPONSE.lines)), {"utter_default": _RESPONSE.data})
        return domain.append("responses", block, what)
    return domain.fill("responses", _RESPONSE.lines, what)


def _free(folder: Path, place: str, names: Sequence[str]) -> str:
    name = next((one for one in names if not os.path.lexists(folder / place / one)), "")
    if not name:
        raise ConfigError(
            f"{place}/ has files {' and '.join(names)} that are not of `spoken-intents init`. Nothing was changed: rename one."
        )
    return f"{place}/{name}"


def _about_fallback(config: YamlText, domain: Domain, answered: str) -> List[str]:
    if answered:
        return []
    if imports_data(config.data):
        return [
            f"The data come through importers of yours: make sure that a rule or story there answers nlu_fallback, such as\n{_RULE}"
        ]
    if not domain.files:
        return ["There is no domain.yml or domain/: this project understands, and answers nothing."]
    return ["There are no policies: this project understands, and answers nothing."]


# ---------------------------------------------------------------- what goes into no repository


def _plan_ignored(changes: Changes) -> None:
    for name in (IGNORED, DOCKER_IGNORED):
        raw = read_text(changes.folder, name)
        line = _IGNORED[1] if name == IGNORED else "recordings/"
        if raw is not None and re.search(r"^/?(\*\*/)?recordings(/|/\*+)?[ \t]*\r?$", raw, re.M):
            continue
        lines = f"{_IGNORED[0]}\n{line}\n"
        if raw is None and name == IGNORED:
            changes.files.append(FileChange.new(name, lines, "recordings ignored"))
        elif raw is not None:
            text = unix(raw)[0]
            apart = "" if not text else "\n" if text.endswith("\n") else "\n\n"
            new = apart + (lines if not text or text.endswith("\n") else lines[:-1])
            changes.files.append(FileChange.of(name, raw, [Edit(len(text), len(text), new, "recordings ignored")]))
        else:
            continue
        changes.done.append(f"{name}: recordings of callers, should you switch them on, stay out")
