"""Voice for a Rasa project that has none: what it lacks, as changes to its files, made all or none, and taken back."""
