"""What this process counts for Prometheus, as a scrape gives it."""

from typing import Any, Dict, Sequence

from prometheus_client.parser import text_string_to_metric_families

from spoken_intents import metrics


class Counted:
    """What was counted since this was made."""

    def __init__(self) -> None:
        self._before = samples()

    def __call__(self, name: str, **labels: str) -> float:
        """The sum over all series of `name` that have `labels`."""
        return _sum(samples(), name, labels) - _sum(self._before, name, labels)


def samples() -> Sequence[Any]:
    return [sample for family in text_string_to_metric_families(metrics.exposition().decode()) for sample in family.samples]


def _sum(samples: Sequence[Any], name: str, labels: Dict[str, str]) -> float:
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())
