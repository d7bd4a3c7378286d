"""The feature specification: what it reads, and what it says about a wrong file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ranktower.data.feature_spec import RESERVED_COLUMNS, Feature, FeatureSpec
from ranktower.errors import ConfigError

GOOD = """
user_features:
  - {name: degree, kind: categorical, min_count: 3}
  - {name: age, kind: continuous, num_bins: 10}
  - {name: seen, kind: history, max_length: 20}
item_features:
  - {name: tag, kind: multi_categorical}
feedback: {click: 1, buy: 2.5}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "features.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_every_kind_and_the_defaults(tmp_path: Path) -> None:
    spec = FeatureSpec.load(write(tmp_path, GOOD))
    degree, age, seen = spec.user_features
    assert (degree.name, degree.kind, degree.min_count) == ("degree", "categorical", 3)
    assert (age.name, age.kind, age.num_bins) == ("age", "continuous", 10)
    assert (seen.name, seen.kind, seen.max_length) == ("seen", "history", 20)
    assert spec.item_features == (
        Feature(name="tag", kind="multi_categorical", num_bins=32, max_length=8, min_count=1),
    )
    assert spec.feedback == {"click": 1.0, "buy": 2.5}
    assert spec.impression_label == 1.0


def test_feedback_alone_is_a_specification(tmp_path: Path) -> None:
    spec = FeatureSpec.load(write(tmp_path, "feedback: {click: 1}"))
    assert spec.user_features == ()
    assert spec.item_features == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("feedback: {c: 1}\ncolour: red", "colour: Extra inputs are not permitted, got 'red'"),
        ("feedback: {c: 1}\nuser_features: [{name: a, kind: sparse}]", "user_features[0].kind: Input should be"),
        ("feedback: {c: 1}\nuser_features: [{name: a, kind: sparse}]", "got 'sparse'"),
        (
            "feedback: {c: 1}\nitem_features: [{name: a, kind: categorical, bins: 3}]",
            "item_features[0].bins: Extra inputs are not permitted, got 3",
        ),
        ("feedback: {c: 1}\nuser_features: [{kind: categorical}]", "user_features[0].name: Field required"),
        ("feedback: {c: 1}\nuser_features: [{name: '', kind: categorical}]", "user_features[0].name: String should"),
        (
            "feedback: {c: 1}\nuser_features: [{name: a, kind: continuous, num_bins: 0}]",
            "user_features[0].num_bins: Input should be greater than or equal to 1, got 0",
        ),
        (
            "feedback: {c: 1}\nuser_features: [{name: a, kind: history, max_length: '9'}]",
            "user_features[0].max_length: Input should be a valid integer, got '9'",
        ),
        (
            "feedback: {c: 1}\nuser_features: [{name: a, kind: categorical, of: impressions}]",
            "only a history has it, the feature 'a' is categorical",
        ),
        ("feedback: {c: 1}\nuser_features: [{name: a, kind: history, of: clicks}]", "got 'clicks'"),
        (
            "feedback: {c: 1}\nuser_features: [{name: a, kind: continuous}, {name: a, kind: categorical}]",
            "user_features: the feature 'a' is named twice",
        ),
        (
            "feedback: {c: 1}\nitem_features: [{name: a, kind: history}]",
            "item_features: the feature 'a' is a history, which only users have",
        ),
        ("feedback: {}", "feedback: Dictionary should have at least 1 item"),
        ("user_features: []", "feedback: Field required"),
        ("feedback: {stage: 1}", "feedback: the column 'stage' cannot be a feedback"),
        ("feedback: {c: -1}", "feedback.c: Input should be greater than or equal to 0, got -1"),
        ("feedback: {c: .nan}", "feedback.c: Input should be"),
        ("feedback: {c: yes}", "feedback.c: Input should be a valid number, got True"),
        ("feedback: {c: 1}\nimpression_label: .inf", "impression_label: Input should be a finite number, got inf"),
        ("- a\n- b", "the feature specification is not a mapping, got ['a', 'b']"),
        ("", "the feature specification is not a mapping, got None"),
        ("a: [", "cannot read the feature specification"),
    ],
)
def test_a_wrong_file_is_named_with_key_and_value(tmp_path: Path, text: str, problem: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        FeatureSpec.load(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert problem in str(raised.value)


def test_a_missing_file_and_one_that_is_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot read the feature specification"):
        FeatureSpec.load(tmp_path / "absent.yaml")
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"feedback: {caf\xe9: 1}")
    with pytest.raises(ConfigError, match=r"latin\.yaml: cannot read the feature specification"):
        FeatureSpec.load(path)


def test_a_long_value_is_cut_in_the_error(tmp_path: Path) -> None:
    path = write(tmp_path, f"feedback: {{c: 1}}\ncolour: {'x' * 5000}")
    with pytest.raises(ConfigError) as raised:
        FeatureSpec.load(path)
    assert len(str(raised.value)) < len(str(path)) + 300


def test_a_specification_cannot_be_changed() -> None:
    spec = FeatureSpec(feedback={"click": 1.0})
    with pytest.raises(ValidationError, match="frozen"):
        spec.impression_label = 2.0  # type: ignore[misc]


names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=10)
kinds = st.sampled_from(["categorical", "continuous", "multi_categorical"])
features = st.lists(
    st.builds(Feature, name=names, kind=kinds, num_bins=st.integers(1, 99), min_count=st.integers(1, 9)),
    max_size=4,
    unique_by=lambda feature: feature.name,
).map(tuple)
specs = st.builds(
    FeatureSpec,
    user_features=features,
    item_features=features,
    feedback=st.dictionaries(
        names.filter(lambda name: name not in RESERVED_COLUMNS), st.floats(0, 1e6), min_size=1, max_size=3
    ),
    impression_label=st.floats(0, 1e6),
)


@settings(max_examples=40)
@given(spec=specs)
def test_what_is_dumped_loads_as_equal(spec: FeatureSpec, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("spec") / "features.yaml"
    spec.dump(path)
    assert FeatureSpec.load(path) == spec
