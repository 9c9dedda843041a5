"""Settings enter once, as frozen dataclasses that refuse what they do not know."""

import importlib
from dataclasses import fields
from typing import Any, Mapping, Optional, Sequence, Type, TypeVar, get_args, get_origin, get_type_hints

from spoken_intents.errors import ConfigError, one_line

Settings = TypeVar("Settings")


def settings_from(cls: Type[Settings], values: Optional[Mapping[str, Any]], where: str) -> Settings:
    """The dataclass `cls` filled from `values`; keys left out keep their defaults.

    Args:
        where: What the user calls the place the values came from, for messages.

    Raises:
        ConfigError: Unknown key, wrong type, or a value the dataclass itself refuses.
    """
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected settings (name: value), got {type(values).__name__}.")
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in values if key not in known)
    if unknown:
        raise ConfigError(f"{where}: unknown {one_line(', '.join(unknown))}. Allowed: {', '.join(sorted(known))}.")
    hints = get_type_hints(cls)
    secret = {field.name for field in fields(cls) if not field.repr}  # type: ignore[arg-type]
    for key in secret & set(values):
        if not isinstance(values[key], (str, type(None))):
            raise ConfigError(f"{where}: {key} takes text: put it in quotation marks.")
    checked = {key: _checked(value, hints[key], f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**checked)
    except ConfigError as error:
        raise ConfigError(f"{where}: {one_line(str(error))}") from None


def require(condition: bool, message: str) -> None:
    """Refuses a setting out of range: for use in a settings dataclass's ``__post_init__``."""
    if not condition:
        raise ConfigError(message)


def class_at(path: str, setting: str, known: Sequence[str]) -> Any:
    """The class at a dotted path, such as ``my_package.Engine``: one of the assistant's own, which trusts it as its actions.

    Args:
        setting: Whose value the path is.
        known: What it takes beside paths.

    Raises:
        ConfigError: It has no dot, or cannot be imported.
    """
    module, _, attribute = path.rpartition(".")
    if not module:
        raise ConfigError(f"{setting} takes {', '.join(known)}, or a class of yours by its dotted path; got {path!r}.")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the latter two: of names that no module can have
        raise ConfigError(f"{setting}: {path} cannot be imported ({error}). Known by name: {', '.join(known)}.") from None


def _checked(value: Any, hint: Any, where: str) -> Any:
    if get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} takes a list, got {value!r:.100}.")
        return tuple(_checked(item, get_args(hint)[0], where) for item in value)
    allowed = get_args(hint) or (hint,)  # Optional[int] -> (int, NoneType)
    if isinstance(value, bool) and bool not in allowed:
        raise ConfigError(f"{where} takes {_names(allowed)}, got {value!r:.100}.")
    if float in allowed and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-5 as text
        except (ValueError, OverflowError):  # a whole number may be larger than any fraction
            pass
    if not isinstance(value, allowed):
        raise ConfigError(f"{where} takes {_names(allowed)}, got {value!r:.100}.")
    return value


def _names(allowed: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    return " or ".join(words.get(kind, getattr(kind, "__name__", str(kind))) for kind in allowed)
