"""Speech in, intent out: a voice channel and a speech-to-intent NLU component for Rasa Open Source."""

__version__ = "0.1.0"
