"""The scorer and the tower alone, and releases whose parts do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranktower.data.encoder import FeatureEncoder, FieldEncoder, SideEncoder
from ranktower.embedding_store.codec import ARRAYS
from ranktower.errors import ConfigError, ReleaseError
from service.onnx import open_session
from service.scorer import Scorer, UserTower

ATOL = 4e-5


def rows(release: Any, side: str) -> np.ndarray:
    layout = release.manifest.layout(side)
    return np.fromfile(release.folder / f"{side}s" / "rows.bin", dtype=np.uint8).reshape(-1, layout.row_size)


def test_larger_requests_after_smaller_ones_and_the_other_way_round(release: Any) -> None:
    """The buffers grow and are reused; no request sees another's rows."""
    scorer = Scorer(release.folder, release.manifest)
    user = scorer.user_arrays(rows(release, "user")[:1])
    items = rows(release, "item")
    whole = scorer.score(user, items).copy()
    for start, stop in ((0, 1), (5, 300), (0, 0), (299, 300), (0, len(items))):
        np.testing.assert_allclose(scorer.score(user, items[start:stop]), whole[start:stop], atol=ATOL)
    many = np.tile(items, (8, 1))
    np.testing.assert_allclose(scorer.score(user, many), np.tile(whole, 8), atol=ATOL)
    np.testing.assert_allclose(scorer.score(user, items[:3]), whole[:3], atol=ATOL)


def test_the_tower_takes_what_the_encoder_gives(release: Any) -> None:
    tower = UserTower(release.folder)
    arrays = tower.compute(tower.encode({"country": "de", "age": 25, "tags": ["a", "d"]}))
    assert list(arrays) == list(ARRAYS)
    assert all(array.shape == (1, 4, 32) and array.dtype == np.float32 for array in arrays.values())
    with pytest.raises(ConfigError, match="unknown feature 'size' = 3"):
        tower.encode({"size": 3})


def test_features_of_another_model(release: Any, tmp_path: Path) -> None:
    other = SideEncoder((FieldEncoder("words", "multi_categorical", vocabulary=("a",), max_length=2),))
    FeatureEncoder(other, other).save(tmp_path / "features.json")
    (tmp_path / "user_tower.onnx").write_bytes((release.folder / "user_tower.onnx").read_bytes())
    with pytest.raises(ReleaseError, match=r"user_tower.onnx: inputs are .*'tags_values'.*expected .*'words_values'"):
        UserTower(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x07"])
def test_a_file_that_is_no_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "graph.onnx").write_bytes(content)
    with pytest.raises(ReleaseError, match=r"graph.onnx: cannot be run: "):
        open_session(tmp_path / "graph.onnx", inputs=[], outputs=[])


def test_a_graph_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"none.onnx: cannot be run: NoSuchFile"):
        open_session(tmp_path / "none.onnx", inputs=[], outputs=[])


def test_a_graph_without_the_output(release: Any) -> None:
    inputs = [f"{side}_{array}" for side in ("user", "item") for array in ARRAYS]
    with pytest.raises(ReleaseError, match=r"scorer.onnx: outputs \['labels'\] are missing"):
        open_session(release.folder / "scorer.onnx", inputs=inputs, outputs=["scores", "labels"])
