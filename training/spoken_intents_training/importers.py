"""Where recordings come from: MInDS-14 (Gerz et al. 2021), a CSV, one folder for each intent."""

import csv
import logging
from collections import Counter
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from spoken_intents.audio import SUFFIXES
from spoken_intents.errors import ConfigError, DataError
from spoken_intents_training.project import KINDS, Recording, listed
from spoken_intents_training.sources import first_line, hub_refusal

LANGUAGES = (
    *("cs-CZ", "de-DE", "en-AU", "en-GB", "en-US", "es-ES", "fr-FR"),
    *("it-IT", "ko-KR", "nl-NL", "pl-PL", "pt-PT", "ru-RU", "zh-CN"),
)  # of MInDS-14
INTENTS = (
    *("abroad", "address", "app_error", "atm_limit", "balance", "business_loan", "card_issues"),
    *("cash_deposit", "direct_debit", "freeze", "high_value_payment", "joint_account", "latest_transactions", "pay_bill"),
)  # of MInDS-14, in the order of its class labels
HUB = "PolyAI/minds14"


logger = logging.getLogger(__name__)


def from_csv(file: Path, columns: Mapping[str, str]) -> List[Recording]:
    """The recordings a CSV lists; paths start at its folder.

    Args:
        columns: The CSV's own names where they differ, such as {"path": "file"}; else path, intent, speaker,
            transcript and split. The last three may be missing, unless they are named here.

    Raises:
        DataError: No such file, not CSV, no row, a column or a value is missing, or fewer than two intents.
    """
    if file.is_dir():
        raise DataError(f"{file}: a folder. With one folder for each intent in it: spoken-intents import folder {file}")
    if not file.is_file():
        raise DataError(f"{file}: no such file.")
    recordings = _from_table(file, file.parent, columns)
    _require_intents(file, recordings)
    return recordings


def _require_intents(source: Path, recordings: Sequence[Recording], hint: str = "") -> None:
    intents = {one.intent for one in recordings}
    if len(intents) < 2:
        raise DataError(
            f"{source}: {len(recordings)} recording(s), all of {intents.pop()}; at least two intents are needed.{hint}"
        )


def _from_table(file: Path, root: Path, columns: Mapping[str, str]) -> List[Recording]:
    names = {key: columns.get(key, key) for key in ("path", "intent", "speaker", "transcript", "split")}
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.DictReader(lines, skipinitialspace=True)
            found = list(table.fieldnames or ())
            rows = [(table.line_num, row) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: not CSV in UTF-8 ({error}).") from None
    missing = [name for key, name in names.items() if name not in found and key in {"path", "intent", *columns}]
    if missing:
        raise DataError(
            f"{file}: the column {' and '.join(missing)} is missing; found {', '.join(found) or 'none'}. Options of "
            "`spoken-intents import csv` such as --path-column name others."
        )
    if not rows:
        raise DataError(f"{file}: lists no clip.")
    recordings = []
    for line, row in rows:
        value = {key: (row.get(name) or "").strip() for key, name in names.items()}
        if not value["path"] or not value["intent"]:
            raise DataError(f"{file}, line {line}: {names['path']} and {names['intent']} must both be given.")
        about = {"speaker": value["speaker"], "transcript": value["transcript"], "split": value["split"].lower()}
        recordings.append(Recording(value["path"], value["intent"], root / value["path"], **about))
    return recordings


def from_folder(folder: Path, passed_over: Optional[Path] = None) -> List[Recording]:
    """The recordings below `folder`, which holds one folder for each intent; hidden files are passed over, and that folder.

    Raises:
        DataError: No folder, no audio in it, audio that is in no intent's folder, or fewer than two intents.
    """
    expected = "Expected one folder for each intent, such as FOLDER/balance/1.wav."
    if folder.is_file():
        raise DataError(f"{folder}: a file. {expected} A list of clips is read by: spoken-intents import csv")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. {expected}")
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [file for file in files if not any(part.startswith(".") for part in file.parts)]
    if passed_over is not None:
        files = [file for file in files if passed_over.resolve() not in (folder / file).resolve().parents]
    audio = [file for file in files if file.suffix.lower() in SUFFIXES]
    loose = [file.name for file in audio if len(file.parts) == 1]
    if loose:
        raise DataError(f"{folder}: {len(loose)} recording(s) in no intent's folder:{listed(loose)}\n{expected}")
    if not audio:
        raise DataError(f"{folder}: no audio; found {_found(folder)}. {expected} {KINDS}")
    others = Counter(file.suffix or file.name for file in files if file.suffix.lower() not in SUFFIXES)
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        logger.warning("Left out what is not read: %s.", kinds)
    intents = {file.parts[0] for file in audio}
    for empty in sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if empty not in intents:
            logger.warning("Left out the intent %s: no audio in its folder.", empty)
    recordings = [Recording(file.as_posix(), file.parts[0], folder / file) for file in audio]
    below = any(len(file.parts) > 2 for file in audio)
    _require_intents(folder, recordings, f" Did you mean {folder / audio[0].parts[0]}?" if below else "")
    return recordings


def from_minds14(language: str, source: Optional[Path] = None) -> List[Recording]:
    """MInDS-14 in one language, from the hub, or from `source`: a copy of the hub's files or of the first release's.

    The hub holds ``en-US/train-*.parquet``; the first release, unpacked, ``MInDS-14/text/en-US.csv`` and
    ``MInDS-14/audio/en-US~APP_ERROR/*.wav``.

    Raises:
        ConfigError: No such language, or the extra is missing.
        DataError: The hub cannot be reached, or `source` holds neither.
    """
    if language not in LANGUAGES:
        raise ConfigError(f"--language {language}: MInDS-14 has {', '.join(LANGUAGES)}.")
    if source is None:
        return _from_dataset(_download(language), f"{HUB}, {language}")
    parquet, tables = _copies(source, language)
    if parquet:
        return _from_dataset(_read_parquet(parquet), str(parquet[0]))
    if tables:
        columns = {"path": "filepath", "intent": "intent", "transcript": "text_asr"}
        return _from_table(tables[0], tables[0].parents[1] / "audio", columns)
    above = source.resolve().parent
    hint = f" Did you mean --source {above}?" if any(_copies(above, language)) else ""
    raise DataError(
        f"--source {source}: no MInDS-14 in {language}; found {_found(source)}. Expected the hub's {language}/train-*.parquet, "
        f"or the first release's text/{language}.csv and audio/ (unpack its text.zip and audio.zip into folders of those names).{hint}"
    )


def _copies(source: Path, language: str) -> Tuple[List[Path], List[Path]]:
    """The hub's files and the first release's tables of a language that lie in `source`."""
    tables = [release / "text" / f"{language}.csv" for release in (source, source / "MInDS-14")]
    return sorted(source.glob(f"{language}/**/*.parquet")), [table for table in tables if table.is_file()]


def _found(folder: Path) -> str:
    """What lies in `folder`, in a few words."""
    if not folder.is_dir():
        return "a file" if folder.exists() else "no such folder"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5) if names else "nothing"


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(f"This needs the extra: pip install 'rasa-spoken-intents[train]' ({error}).") from None
    return datasets


def _download(language: str) -> Any:
    datasets = _datasets()
    refusal = hub_refusal(HUB, "dataset")
    try:
        if not refusal:
            return datasets.load_dataset(HUB, name=language, split="train")
    except Exception as error:  # the hub's, httpx's and pyarrow's have no root of their own
        refusal = first_line(error)
    raise DataError(
        f"MInDS-14 cannot be had from the hub ({refusal}). Take a copy of {HUB} or of MInDS-14.zip from where there is "
        "a connection, and name its folder: --source DIR. Downloaded before, HF_HUB_OFFLINE=1 reads it from the hub's cache."
    )


def _read_parquet(files: List[Path]) -> Any:
    datasets = _datasets()
    import pyarrow.parquet

    try:  # not by load_dataset, which would keep another copy in its cache
        return datasets.Dataset(pyarrow.concat_tables([pyarrow.parquet.read_table(file) for file in files]))
    except (ValueError, OSError) as error:
        raise DataError(f"{files[0].parent}: cannot be read as parquet ({error}).") from None


def _from_dataset(dataset: Any, name: str) -> List[Recording]:
    missing = [column for column in ("path", "audio", "transcription", "intent_class") if column not in dataset.features]
    if missing:
        raise DataError(f"{name}: no MInDS-14, as {' and '.join(missing)} is missing; found {', '.join(dataset.features)}.")
    labels = getattr(dataset.features["intent_class"], "names", INTENTS)
    recordings = []
    for row in dataset.cast_column("audio", _datasets().Audio(decode=False)):
        path = "/".join(Path(row["path"]).parts[-2:])  # some copies tell where on some machine the clip was
        audio = row["audio"]["bytes"] or b""
        recordings.append(Recording(path, labels[row["intent_class"]], audio, transcript=row["transcription"] or ""))
    return recordings
