"""Fine-tunes, evaluates, exports and distils spoken-intent models. Needs the extra ``[train]``."""
