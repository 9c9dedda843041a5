"""Everything that can go wrong on purpose, as one tree.

SpokenIntentsError
├── ConfigError            a setting that is unknown, of the wrong type, or out of range
├── AudioError             audio that cannot be used: unreadable, empty, too long
│   └── AudioReferenceError  a reference that points to nothing, or out of the audio directories
├── SpeechError            a synthesizer that fails
├── DataError              training or test data that cannot be learnt from
├── ModelError             a model artefact that is missing, incomplete or does not fit
├── UnwellError            a server that can answer no calls; carries a code
├── ActionError            an action of the assistant failed, and its bot said nothing
├── TrainingError          fine-tuning that cannot go on
│   └── DivergedError      its numbers are none any more; gone on with, it would come to the same
└── ProtocolError          a client that breaks the wire format; carries a code and a close code
"""


class SpokenIntentsError(Exception):
    """Base of every error this project raises deliberately. The message says what to do."""


class ConfigError(SpokenIntentsError):
    """A setting that is unknown, of the wrong type, or out of range."""


class AudioError(SpokenIntentsError):
    """Audio that cannot be used: unreadable, empty, or too long."""


class AudioReferenceError(AudioError):
    """A reference that points to no clip, or out of the configured directories."""


class SpeechError(SpokenIntentsError):
    """A synthesizer fails at a sentence."""


class DataError(SpokenIntentsError):
    """Training or test data that cannot be learnt from."""


class ModelError(SpokenIntentsError):
    """A model artefact that is missing, incomplete, or does not fit this version."""


class UnwellError(SpokenIntentsError):
    """A server can answer no calls at the moment.

    Attributes:
        code: Stable word for programs, e.g. ``recognizer_late``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ActionError(SpokenIntentsError):
    """An action of the assistant failed, and its bot said nothing."""


class TrainingError(SpokenIntentsError):
    """Fine-tuning that cannot go on, or not from where it was."""


class DivergedError(TrainingError):
    """What is computed is no number any more; gone on with, fine-tuning would come to the same."""


class ProtocolError(SpokenIntentsError):
    """A client broke the wire format.

    Attributes:
        code: Stable word for programs, e.g. ``bad_json``.
        close_code: WebSocket close code: 4000 to 4999, or 1012 of a server that ends.
    """

    def __init__(self, code: str, message: str, close_code: int = 4400) -> None:
        super().__init__(message)
        self.code = code
        self.close_code = close_code


def sentence_of(error: Exception) -> str:
    """An error of ours, or of a file or the network, for people."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}." if error.filename is not None else f"{error.strerror}."


def one_line(text: str, most: int = 300) -> str:
    """What came from elsewhere, as an error may quote it, which ends up in logs: one line, and no more than helps."""
    text = text if len(text) <= most else f"{text[:most]} ..."
    return "".join(sign if sign.isprintable() else "?" for sign in text)
