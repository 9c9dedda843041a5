"""Settings and recipes: what is taken, what is refused, and by which words."""

import subprocess
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import pytest
import yaml

from spoken_intents.config import require, settings_from
from spoken_intents.errors import ConfigError, SpokenIntentsError
from spoken_intents_training.recipe import RECIPES, Recipe, load_recipe, overrides, recipe_names

pytestmark = pytest.mark.filterwarnings("error")


@dataclass(frozen=True)
class Oven:
    """Settings to try things on."""

    name: str = "oven"
    degrees: int = 180
    hours: float = 1.5
    fan: bool = False
    grill: Optional[int] = None
    tare: Optional[float] = None
    dishes: Tuple[str, ...] = ()
    weights: Tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require(self.degrees <= 300, f"degrees takes up to 300, got {self.degrees}.")


# ---------------------------------------------------------------- settings


def test_what_is_left_out_keeps_its_default() -> None:
    assert settings_from(Oven, None, "oven.yml") == Oven()
    assert settings_from(Oven, {}, "oven.yml") == Oven()
    assert settings_from(Oven, {"degrees": 200, "fan": True}, "oven.yml") == Oven(degrees=200, fan=True)


def test_an_unknown_key_names_the_allowed_ones() -> None:
    message = r"^oven\.yml: unknown 3, degree\. Allowed: degrees, dishes, fan, grill, hours, name, tare, weights\.$"
    with pytest.raises(ConfigError, match=message):
        settings_from(Oven, {"degree": 200, "fan": True, 3: 4}, "oven.yml")  # type: ignore[dict-item]


@pytest.mark.parametrize("values", [["degrees"], "degrees: 3", 7])
def test_what_is_no_mapping_is_refused(values: Any) -> None:
    with pytest.raises(ConfigError, match=rf"oven\.yml: expected settings \(name: value\), got {type(values).__name__}"):
        settings_from(Oven, values, "oven.yml")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"degrees": "200"}, "oven.yml: degrees takes a whole number, got '200'"),
        ({"degrees": 200.0}, "degrees takes a whole number, got 200.0"),
        ({"degrees": True}, "degrees takes a whole number, got True"),
        ({"degrees": None}, "degrees takes a whole number, got None"),
        ({"degrees": [200]}, "degrees takes a whole number, got [200]"),
        ({"hours": "long"}, "hours takes a number, got 'long'"),
        ({"hours": False}, "hours takes a number, got False"),
        ({"hours": None}, "hours takes a number, got None"),
        ({"fan": 1}, "fan takes true or false, got 1"),
        ({"fan": "yes"}, "fan takes true or false, got 'yes'"),
        ({"name": 3}, "name takes text, got 3"),
        ({"name": True}, "name takes text, got True"),
        ({"grill": "hot"}, "grill takes a whole number or nothing, got 'hot'"),
        ({"grill": True}, "grill takes a whole number or nothing, got True"),
        ({"tare": "light"}, "tare takes a number or nothing, got 'light'"),
        ({"dishes": "pan"}, "dishes takes a list, got 'pan'"),
        ({"dishes": ["pan", 3]}, "dishes takes text, got 3"),
        ({"dishes": None}, "dishes takes a list, got None"),
        ({"weights": [1.0, "x"]}, "weights takes a number, got 'x'"),
    ],
)
def test_a_wrong_type_is_refused(value: Dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_from(Oven, value, "oven.yml")
    assert message in str(caught.value)


def test_what_yaml_makes_of_lists_and_numbers_is_taken() -> None:
    oven = settings_from(Oven, {"hours": "1e-5", "weights": [1, "2e3"], "dishes": ["pan", "pot"], "tare": 2, "grill": None}, "")
    assert oven == Oven(hours=1e-5, weights=(1.0, 2000.0), dishes=("pan", "pot"), tare=2.0)
    assert type(oven.hours) is float and type(oven.tare) is float and type(oven.dishes) is tuple
    assert type(settings_from(Oven, {"hours": 3}, "").hours) is float


def test_what_the_settings_refuse_says_where_it_came_from() -> None:
    with pytest.raises(ConfigError, match=r"^oven\.yml: degrees takes up to 300, got 301\.$"):
        settings_from(Oven, {"degrees": 301}, "oven.yml")


def test_require() -> None:
    require(True, "not raised")
    with pytest.raises(SpokenIntentsError, match="because"):
        require(False, "because")


# ---------------------------------------------------------------- recipes


def test_the_shipped_recipes_are_these() -> None:
    assert recipe_names() == ["default", "reference", "reference-short"]


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads_as_written(name: str) -> None:
    values = yaml.safe_load((RECIPES / f"{name}.yml").read_text())
    recipe = load_recipe(name)
    assert asdict(recipe) == {key: pytest.approx(value) if isinstance(value, float) else value for key, value in values.items()}


def test_the_reference_recipe_is_to_the_letter() -> None:
    reference = load_recipe("reference")
    assert (reference.context, reference.pooling, reference.batch_size, reference.epochs) == ("padded", "mean", 1, 3)
    assert (reference.learning_rate, reference.head_learning_rate, reference.warmup_share) == (1e-5, None, 0)
    assert (reference.weight_decay, reference.max_grad_norm) == (0, 0)
    assert (reference.frozen_layers, reference.min_steps) == (0, 0)
    assert reference.precision == "fp32"
    assert (reference.non_speech_share, reference.held_out_share) == (0, 0)


def test_the_short_reference_differs_in_its_context_alone() -> None:
    assert load_recipe("reference-short") == replace(load_recipe("reference"), context="short")


@pytest.mark.parametrize(
    ("recipe", "clips", "epochs"),
    [
        (load_recipe("reference", epochs=3), 5, 3),
        (load_recipe("reference", epochs=3, batch_size=8, min_steps=100), 800, 3),  # 300 steps are enough
        (load_recipe("reference", epochs=3, batch_size=8, min_steps=300), 800, 3),
        (load_recipe("reference", epochs=3, batch_size=8, min_steps=301), 800, 4),
        (load_recipe("reference", epochs=3, batch_size=8, min_steps=150), 40, 30),
        (load_recipe("reference", epochs=1, batch_size=8, min_steps=10), 9, 5),  # two steps an epoch, the second of one clip
        (load_recipe("reference", epochs=1, batch_size=8, min_steps=10), 1, 10),
    ],
)
def test_few_clips_are_passed_over_more_often(recipe: Recipe, clips: int, epochs: int) -> None:
    assert recipe.epochs_for(clips) == epochs


def test_a_recipe_may_be_a_file_or_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text("epochs: 4\nlearning_rate: 1e-5\n")  # YAML 1.1 reads this as text
    mine = replace(load_recipe("default"), epochs=4, learning_rate=1e-5)  # what is not said is as in the default recipe
    assert load_recipe(str(file)) == mine
    assert load_recipe({"epochs": 4, "learning_rate": "1e-5"}) == mine
    (tmp_path / "empty.yml").write_text("# nothing yet\n")
    assert load_recipe(str(tmp_path / "empty.yml")) == load_recipe("default")


def test_changes_come_on_top() -> None:
    assert load_recipe("default", epochs=1, seed=7) == replace(load_recipe("default"), epochs=1, seed=7)
    assert load_recipe({"epochs": 2}, epochs=5).epochs == 5
    with pytest.raises(ConfigError, match="epochs takes 1 to 1000, got 0"):
        load_recipe("default", epochs=0)


def test_epochs_that_a_user_names_are_not_made_more() -> None:
    named = load_recipe("default", **overrides(epochs=2))
    assert named.epochs_for(14) == 2 and named == replace(load_recipe("default"), epochs=2, min_steps=0)
    assert load_recipe("default", **overrides(seed=5)) == replace(load_recipe("default"), seed=5)
    assert load_recipe("default", **overrides()) == load_recipe("default")


def test_a_typo_in_a_recipe_names_what_there_is(tmp_path: Path) -> None:
    allowed = ", ".join(sorted(field.name for field in fields(Recipe)))
    with pytest.raises(ConfigError, match=f"recipe: unknown learning_rat. Allowed: {allowed}"):
        load_recipe({"learning_rat": 1})
    file = tmp_path / "mine.yml"
    file.write_text("epoch: 3\n")
    with pytest.raises(ConfigError, match=r"recipe '.*mine\.yml': unknown epoch\. Allowed: "):
        load_recipe(str(file))


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    for name in ("refrence", str(tmp_path / "none.yml"), str(tmp_path), "x" * 300):
        with pytest.raises(ConfigError, match=r"neither a recipe's name \(default, reference, reference-short\) nor a file"):
            load_recipe(name)


@pytest.mark.parametrize("text", ["- epochs\n- 3\n", "just words\n"])
def test_a_file_that_holds_no_settings(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yml").write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yml': expected settings \(name: value\), got (list|str)"):
        load_recipe(str(tmp_path / "mine.yml"))


@pytest.mark.parametrize("content", [b"epochs: [3\n", b"epochs: 3 \xff\xfe\n"], ids=["not YAML", "not UTF-8"])
def test_a_file_that_is_no_yaml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.yml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"mine\.yml"):
        load_recipe(str(tmp_path / "mine.yml"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs takes 1 to 1000, got 0"),
        ({"epochs": 1001}, "epochs takes 1 to 1000, got 1001"),
        ({"batch_size": 0}, "batch_size takes 1 to 1024, got 0"),
        ({"batch_size": 1025}, "batch_size takes 1 to 1024, got 1025"),
        ({"learning_rate": 0}, "learning_rate takes a number between 0 and 1, got 0"),
        ({"learning_rate": 1}, "learning_rate takes a number between 0 and 1, got 1"),
        ({"learning_rate": "nan"}, "learning_rate takes a number between 0 and 1, got nan"),
        ({"learning_rate": None}, "learning_rate takes a number, got None"),
        ({"head_learning_rate": -0.1}, "head_learning_rate takes a number between 0 and 1, got -0.1"),
        ({"warmup_share": -0.1}, "warmup_share takes 0 to below 1, got -0.1"),
        ({"warmup_share": 1}, "warmup_share takes 0 to below 1, got 1"),
        ({"non_speech_share": 1.0}, "non_speech_share takes 0 to below 1, got 1.0"),
        ({"held_out_share": 1.5}, "held_out_share takes 0 to below 1, got 1.5"),
        ({"weight_decay": -1}, "weight_decay takes 0 or more, got -1"),
        ({"weight_decay": float("inf")}, "weight_decay takes 0 or more, got inf"),
        ({"max_grad_norm": -1}, "max_grad_norm takes 0 (no clipping) or more, got -1"),
        ({"min_steps": -1}, "min_steps takes 0 to 100000, got -1"),
        ({"min_steps": 100_001}, "min_steps takes 0 to 100000, got 100001"),
        ({"context": "long"}, "context takes padded or short, got long"),
        ({"context": "short", "pooling": "max"}, "pooling takes auto, mean, statistics, attention, got max"),
        ({"context": "padded", "pooling": "statistics"}, "context: padded takes pooling: mean only, got statistics"),
        ({"context": "padded"}, "context: padded takes pooling: mean only, got auto"),
        ({"frozen_layers": -1}, "frozen_layers takes 0 to 64, got -1"),
        ({"frozen_layers": 65}, "frozen_layers takes 0 to 64, got 65"),
        ({"seed": -1}, "seed takes"),
        ({"seed": 2**32}, "seed takes"),
    ],
)
def test_a_recipe_out_of_range_is_refused(change: Dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(change)
    assert message in str(caught.value) and str(caught.value).startswith("recipe: ")


def test_a_recipe_is_read_without_torch() -> None:
    """Serving and evaluating need none, and it takes seconds to load."""
    read = (
        "import sys; sys.modules['torch'] = None; from spoken_intents_training.recipe import load_recipe; load_recipe('default')"
    )
    subprocess.run([sys.executable, "-c", read], check=True, timeout=120)
