"""Figures of merit: against scikit-learn, against what is known of a distribution, and by their rules."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from spoken_intents_training.metrics import (
    KEPT,
    auroc,
    by_intent,
    calibration_error,
    confusion,
    fit_temperature,
    macro_f1,
    suggest_threshold,
    wilson_interval,
)

pytestmark = pytest.mark.filterwarnings("error")

INTENTS = ("affirm", "balance", "deny", "freeze")


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962), (1, 1, 0.2065, 1.0)],
)
def test_wilson_interval(right: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=1e-4)


def test_of_no_clip_everything_is_possible() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_figures_by_intent_equal_scikit_learns() -> None:
    rng, compared = np.random.default_rng(8), 0
    for _ in range(50):
        size = int(rng.integers(1, 40))
        said = [str(intent) for intent in rng.choice(INTENTS, size)]
        heard = [str(intent) for intent in rng.choice([*INTENTS, ""], size)]
        rows = by_intent(said, heard)
        labels = sorted(set(said) | set(heard) - {""})
        assert list(rows) == labels
        precision, recall, f1, n = precision_recall_fscore_support(said, heard, labels=labels, zero_division=0)
        for index, label in enumerate(labels):
            row = rows[label]
            assert (row["precision"], row["recall"], row["f1"], row["n"]) == pytest.approx(
                (precision[index], recall[index], f1[index], n[index])
            )
            assert row["recall_95"] == pytest.approx(wilson_interval(round(recall[index] * n[index]), n[index]))
            compared += 1
        assert macro_f1(rows) == pytest.approx(f1[n > 0].mean())
    assert compared > 150


def test_one_slip_into_an_intent_nobody_said_costs_no_more_than_any_other() -> None:
    said = ["affirm"] * 10 + ["deny"] * 10
    slips = [macro_f1(by_intent(said, [*said[:-1], slip])) for slip in ("freeze", "")]
    assert slips[0] == slips[1] > 0.97


def test_confusion_begins_with_the_diagonal_and_ends_with_no_speech() -> None:
    said = ["deny", "balance", "balance", "balance", "deny"]
    heard = ["deny", "affirm", "balance", "", "balance"]
    table = confusion(said, heard, "no speech")
    assert table["said"] == ["balance", "deny"]
    assert table["heard"] == ["balance", "deny", "affirm", "no speech"]
    assert table["matrix"] == [[1, 0, 1, 1], [1, 1, 0, 0]]


# ------------------------------------------------------------------ calibration


def test_perfect_calibration_is_seen_as_such() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.3, 1, 4000)
    figures = calibration_error(sure, rng.random(4000) < sure)
    assert figures["error"] < 0.03
    assert figures["error_95"][0] == 0.0
    assert figures["error"] < figures["error_if_perfect"]


@pytest.mark.parametrize(("confidence", "accuracy"), [(0.95, 0.6), (0.5, 0.8)])
def test_the_error_is_the_gap(confidence: float, accuracy: float) -> None:
    right = np.arange(1000) % 100 < 100 * accuracy
    figures = calibration_error(np.full(1000, confidence), np.random.default_rng(0).permutation(right))
    assert figures["error"] == pytest.approx(abs(confidence - accuracy), abs=0.02)
    low, high = figures["error_95"]
    assert 0 < low < abs(confidence - accuracy) < high < 1
    assert high - low < 0.1
    assert figures["confidence"] == pytest.approx(confidence)
    assert figures["accuracy"] == accuracy


def test_opposite_gaps_do_not_cancel() -> None:
    """Half of the clips with 0.6 and always right, half with 0.9 and right in half: no gap on average, 0.4 in truth."""
    sure = [0.6] * 100 + [0.9] * 100
    figures = calibration_error(sure, [1] * 100 + [1, 0] * 50)
    assert abs(figures["confidence"] - figures["accuracy"]) < 0.001
    assert figures["error"] == pytest.approx(0.4)


def test_the_interval_holds_what_is_true_nineteen_times_of_twenty() -> None:
    rng = np.random.default_rng(3)
    perfect = gap = 0
    for _ in range(40):
        sure = rng.uniform(0.4, 1, 80)
        perfect += calibration_error(sure, rng.random(80) < sure)["error_95"][0] == 0
        low, high = calibration_error(np.full(80, 0.9), rng.random(80) < 0.6, bins=1)["error_95"]
        gap += low <= 0.3 <= high
    assert perfect >= 36
    assert gap >= 34


def test_bins_hold_equally_many_clips_in_order() -> None:
    sure = np.random.default_rng(1).permutation(np.linspace(0, 1, 103))
    figures = calibration_error(sure, sure > 0.5)
    sizes = [one["n"] for one in figures["bins"]]
    assert len(sizes) == 10 and sum(sizes) == figures["n"] == 103
    assert max(sizes) - min(sizes) <= 1
    means = [one["confidence"] for one in figures["bins"]]
    assert means == sorted(means)
    assert [one["accuracy"] for one in figures["bins"]][:4] == [0, 0, 0, 0]
    assert sum(figures["histogram"]) == 103


def test_few_clips_make_few_bins() -> None:
    assert [one["n"] for one in calibration_error(np.linspace(0.3, 1, 24), [0, 1] * 12)["bins"]] == [6, 6, 6, 6]
    assert [one["n"] for one in calibration_error([0.5, 0.7, 0.9], [0, 1, 1])["bins"]] == [3]
    assert calibration_error([0.8], [1])["error"] == pytest.approx(0.2)


def test_the_same_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(2)
    sure = rng.random(50)
    right = rng.random(50) < 0.5
    first, again, other = (calibration_error(sure, right, seed=seed)["error_95"] for seed in (0, 0, 1))
    assert first == again != other


# ------------------------------------------------------------------ separation


def test_auroc_equals_scikit_learns_with_ties() -> None:
    rng = np.random.default_rng(5)
    for _ in range(100):
        positives, negatives = (rng.integers(0, 8, rng.integers(1, 40)) / 8 for _ in range(2))
        truth = [1] * len(positives) + [0] * len(negatives)
        assert auroc(positives, negatives) == pytest.approx(roc_auc_score(truth, np.concatenate([positives, negatives])))
    assert auroc([0.5], [0.5]) == 0.5
    assert auroc([0.9, 0.8], [0.1]) == 1.0


@pytest.mark.parametrize(("positives", "negatives"), [([], [0.5]), ([0.5], [])])
def test_auroc_wants_both_kinds(positives: list, negatives: list) -> None:
    with pytest.raises(ValueError, match="one of them has none"):
        auroc(positives, negatives)


# ------------------------------------------------------------------ the threshold to set


def test_with_nothing_to_reject_nearly_all_is_kept() -> None:
    right = np.linspace(0.4, 1, 601)
    assert suggest_threshold(right, []) == 0.41
    assert suggest_threshold([0.05] * 10, []) == 0.2, "not below 0.2"
    assert suggest_threshold([0.99] * 10, []) == 0.9, "not above 0.9"


def test_what_can_be_told_apart_is_cut_in_the_middle() -> None:
    assert suggest_threshold([0.8, 0.9, 0.95], [0.3, 0.4]) == pytest.approx(0.61, abs=0.01)
    assert suggest_threshold([0.8, 0.9, 0.95], [], [0.3, 0.4]) == pytest.approx(0.61, abs=0.01)


def test_what_is_wrong_and_what_is_out_of_scope_count_alike() -> None:
    right = [0.7, 0.75, 0.8, 0.9]
    assert suggest_threshold(right, [0.3], [0.5, 0.65]) == suggest_threshold(right, [0.3, 0.5, 0.65])
    assert suggest_threshold(right, [0.3], [0.5, 0.65]) > suggest_threshold(right, [0.3])


def test_one_sure_mistake_does_not_cost_the_callers_who_were_understood() -> None:
    right = np.linspace(0.5, 0.99, 100)
    threshold = suggest_threshold(right, [0.97])  # the plain best separation would be at 0.98: none but two are kept
    assert np.mean(right >= threshold) >= KEPT


def test_the_sum_of_both_shares_is_what_is_best() -> None:
    rng = np.random.default_rng(4)
    right, wrong = rng.beta(6, 2, 300), rng.beta(3, 4, 60)

    def separation(threshold: float) -> float:
        kept = np.mean(right >= threshold)
        return kept + np.mean(wrong < threshold) if kept >= KEPT else -1

    suggested = suggest_threshold(right, wrong)
    assert separation(suggested) == max(separation(threshold) for threshold in np.arange(20, 91) / 100)


def test_an_unsure_model_gets_the_lowest_threshold() -> None:
    assert suggest_threshold([0.1, 0.15, 0.12], [0.3, 0.4]) == 0.2


def test_temperature_makes_confidence_honest() -> None:
    """Logits that are three times too sure of themselves are cooled by about three."""
    rng = np.random.default_rng(0)
    fair = rng.standard_normal((4000, 4)) * 1.5
    odds = np.exp(fair)
    truth = np.array([rng.choice(4, p=row / row.sum()) for row in odds])
    assert fit_temperature(fair * 3, truth) == pytest.approx(3, rel=0.15)
