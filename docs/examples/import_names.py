"""python import_names.py RECORDINGS PROJECT: recordings whose names tell everything, such as anna-card_issues-3.wav."""

import sys
from pathlib import Path
from typing import List

from rich.console import Console

from spoken_intents.errors import DataError, SpokenIntentsError
from spoken_intents_training.project import Recording, import_recordings


def from_names(folder: Path) -> List[Recording]:
    """One recording for each speaker-intent-number.wav in `folder`."""
    recordings = []
    for file in sorted(folder.glob("*.wav")):
        speaker, intent, number = [*file.stem.split("-"), "", ""][:3]
        if not number:
            raise DataError(f"{file}: expected a name such as anna-card_issues-3.wav.")
        recordings.append(Recording(file.name, intent, file, speaker=speaker))
    return recordings


if __name__ == "__main__":
    try:
        imported = import_recordings(from_names(Path(sys.argv[1])), Path(sys.argv[2]))
    except SpokenIntentsError as error:
        sys.exit(str(error))
    Console().print(imported.table())
