"""The towers of a release: rows of one user or many items, to the byte those that would have been stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranktower.data.encoder import FeatureEncoder, FieldEncoder, SideEncoder
from ranktower.errors import ConfigError, ReleaseError
from ranktower.onnx_runtime import onnxruntime
from service.towers import open_towers


def layouts(built: Any) -> dict[str, Any]:
    return {side: built.manifest.layout(side) for side in ("user", "item")}


@pytest.fixture(scope="module", params=[("float16", "projected"), ("float32", "embedding")], ids=lambda one: one[0])
def built(request: pytest.FixtureRequest, build_release: Callable[..., Any], tmp_path_factory: Any) -> Any:
    """A release of either dtype and either kind of item rows."""
    dtype, item_rows = request.param
    return build_release(tmp_path_factory.mktemp("registry"), seed=74, row_dtype=dtype, item_rows=item_rows)


FEATURES: dict[str, list[dict[str, Any]]] = {
    "user": [{"country": "de", "age": 25, "tags": ["a", "d"]}],
    "item": [{"shelf": 3, "genres": ["x"]}, {}, {"price": 1.5, "shelf": "96", "genres": ["z", None, "y"]}],
}


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_computed_row_is_a_stored_row_to_the_byte(built: Any, side: Any) -> None:
    """The tag, then the tower's arrays one after another in the release's dtype."""
    tower = open_towers(built.folder, layouts(built))[side]
    encoded = [tower.encode(features) for features in FEATURES[side]]
    rows = tower.compute(encoded)
    session = onnxruntime.InferenceSession(str(built.folder / f"{side}_tower.onnx"), providers=["CPUExecutionProvider"])
    stored = np.dtype(built.manifest.row_dtype).newbyteorder("<")
    names = ["embedding", "query", "key", "value", "gate"]
    if side == "user" or built.manifest.item_rows == "embedding":
        names = names[:1]
    for one, row in zip(encoded, rows, strict=True):
        arrays = session.run([f"{side}_{name}" for name in names], dict(one))
        assert row.tobytes()[:8] == bytes.fromhex(built.manifest.tag)
        found = np.frombuffer(row.tobytes()[8:], dtype=stored).astype(np.float64)
        # One row or several: the last bit of a float32 may differ, and with it a rounding.
        expected = np.concatenate([array.ravel() for array in arrays])
        np.testing.assert_allclose(found, expected, rtol=2 * np.finfo(stored).eps, atol=1e-6)
    assert rows.shape == (len(encoded), layouts(built)[side].row_size)


def test_the_tower_takes_what_the_encoder_gives(release: Any) -> None:
    towers = open_towers(release.folder, layouts(release))
    with pytest.raises(ConfigError, match="unknown feature 'size' = 3"):
        towers["user"].encode({"size": 3})


def test_features_of_another_model(release: Any, tmp_path: Path) -> None:
    other = SideEncoder((FieldEncoder("words", "multi_categorical", vocabulary=("a",), max_length=2),))
    FeatureEncoder(other, other).save(tmp_path / "features.json")
    (tmp_path / "user_tower.onnx").write_bytes((release.folder / "user_tower.onnx").read_bytes())
    with pytest.raises(ReleaseError, match=r"user_tower.onnx: inputs are .*'tags_values'.*expected .*'words_values'"):
        open_towers(tmp_path, layouts(release))


def test_rows_of_another_shape(release: Any) -> None:
    wrong = layouts(release) | {"item": release.manifest.layout("user")}
    open_towers(release.folder, wrong)  # the reference shape has as many sub-spaces on either side
    wrong["item"] = type(wrong["item"])(3, 32, 32, "float16", wrong["item"].tag, kind="embedding")
    with pytest.raises(ReleaseError, match=r"^item_tower.onnx: gives no row of this release: embedding: shape "):
        open_towers(release.folder, wrong)


def test_features_that_cannot_be_read(release: Any, tmp_path: Path) -> None:
    (tmp_path / "features.json").write_text("{")
    with pytest.raises(ReleaseError, match=r"features.json: cannot read the feature encoder"):
        open_towers(tmp_path, layouts(release))
