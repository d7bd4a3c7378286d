"""The prepared data set on disk: whole, hashed, without pickle, and refused when damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ranktower.data import dataset as dataset_module
from ranktower.data.dataset import Interactions, PreparedDataset, Side, array_sha256, with_content_id
from ranktower.data.encoder import EncodedFeatures, FeatureEncoder, SideEncoder
from ranktower.data.feature_spec import Feature, FeatureSpec
from ranktower.data.field_encoder import FieldEncoder
from ranktower.data.prepare import PrepareOptions, prepare
from ranktower.data.tables import Tables
from ranktower.errors import DataError


@pytest.fixture(name="prepared")
def prepared_fixture(draw_tables: Callable[..., Tables]) -> PreparedDataset:
    return prepare(draw_tables(), PrepareOptions(min_impressions=5, min_positives=1))


def assert_equal(left: PreparedDataset, right: PreparedDataset) -> None:
    for side in ("users", "items"):
        one, other = getattr(left, side), getattr(right, side)
        assert one.ids.tolist() == other.ids.tolist()
        np.testing.assert_array_equal(one.features.codes, other.features.codes)
        assert list(one.features.bags) == list(other.features.bags)
        for name in one.features.bags:
            np.testing.assert_array_equal(one.features.bags[name], other.features.bags[name])
            np.testing.assert_array_equal(one.features.lengths[name], other.features.lengths[name])
    for name in ("user_row", "item_row", "stage", "split", "feedback", "teacher_scores", "timestamp"):
        one, other = getattr(left.interactions, name), getattr(right.interactions, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert left.encoder == right.encoder
    assert left.spec == right.spec
    assert left.info == right.info


@pytest.mark.parametrize("mapped_from", [0, 1 << 20])
def test_what_is_saved_is_loaded(
    prepared: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped_from: int
) -> None:
    monkeypatch.setattr(dataset_module, "MIN_MAPPED_BYTES", mapped_from)
    prepared.save(tmp_path / "set")
    loaded = PreparedDataset.load(tmp_path / "set")
    assert_equal(loaded, prepared)
    assert isinstance(loaded.interactions.item_row, np.memmap) == (mapped_from == 0)
    assert_equal(PreparedDataset.load(tmp_path / "set", verify=False), prepared)
    loaded.save(tmp_path / "set")
    assert_equal(PreparedDataset.load(tmp_path / "set"), prepared)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_same_content_same_bytes(prepared: PreparedDataset, tmp_path: Path) -> None:
    for name in ("one", "two"):
        prepared.save(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def tiny(ids: list[str], feedback: list[float], stage: list[int]) -> PreparedDataset:
    """One item side and user side without features; a row for each feedback."""
    count = len(feedback)
    nothing = EncodedFeatures(codes=np.zeros((len(ids), 0), dtype=np.int32), bags={}, lengths={})
    side = Side(ids=np.array(ids, dtype=object), features=nothing)
    interactions = Interactions(
        user_row=np.zeros(count, dtype=np.int32),
        item_row=np.arange(count, dtype=np.int32),
        stage=np.array(stage, dtype=np.uint8),
        split=np.zeros(count, dtype=np.uint8),
        feedback=np.array(feedback, dtype=np.float32),
        teacher_scores=np.full(count, np.nan, dtype=np.float32),
        timestamp=np.arange(count, dtype=np.int64),
    )
    encoder = FeatureEncoder(user=SideEncoder(()), item=SideEncoder(()))
    spec = FeatureSpec(feedback={"click": 1.0}, impression_label=0.5)
    return with_content_id(
        PreparedDataset(users=side, items=side, interactions=interactions, encoder=encoder, spec=spec, info={})
    )


IDS = ["12", "a b", "line\nbreak", "quote\"'", "é" * 128, "日本"]


def test_any_id_survives(tmp_path: Path) -> None:
    tiny(IDS, [0.0] * 6, [0] * 6).save(tmp_path / "set")
    loaded = PreparedDataset.load(tmp_path / "set")
    assert loaded.users.ids.tolist() == IDS
    assert all(type(text) is str for text in loaded.users.ids)
    assert len(loaded.items) == 6
    assert len(loaded.interactions) == 6


def test_training_labels() -> None:
    labels = tiny(IDS, [0.0, 1.0, 3.5, 0.0, 0.0, 0.0], [0, 0, 0, 1, 2, 3]).training_labels()
    assert labels.tolist() == [0.5, 1.5, 4.0, 0.0, 0.0, 0.0]
    assert labels.dtype == np.float32


def test_take_of_interactions() -> None:
    interactions = tiny(IDS, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0] * 6).interactions.take([4, 1])
    assert interactions.feedback.tolist() == [4.0, 1.0]
    assert interactions.item_row.tolist() == [4, 1]
    assert len(interactions) == 2


def test_feature_names_need_not_be_file_names(tmp_path: Path) -> None:
    plain = tiny(IDS, [0.0], [0])
    field = FieldEncoder(name="../tags/ü", kind="multi_categorical", vocabulary=("x",), max_length=1)
    features = SideEncoder((field,)).encode({field.name: [["x"], [], [], [], [], ["x"]]}, 6)
    dataset = with_content_id(
        replace(
            plain,
            items=Side(ids=plain.items.ids, features=features),
            encoder=FeatureEncoder(user=SideEncoder(()), item=SideEncoder((field,))),
            spec=FeatureSpec(item_features=(Feature(name=field.name, kind="multi_categorical"),), feedback={"a": 1.0}),
        )
    )
    dataset.save(tmp_path / "set")
    loaded = PreparedDataset.load(tmp_path / "set")
    assert loaded.items.features.bags["../tags/ü"].tolist() == [[1], [0], [0], [0], [0], [1]]
    assert loaded.spec == dataset.spec


def test_the_id_changes_with_the_content_and_not_with_the_info(prepared: PreparedDataset) -> None:
    assert len(prepared.data_id) == 64
    assert with_content_id(replace(prepared, info={"other": 1})).data_id == prepared.data_id
    feedback = prepared.interactions.feedback.copy()
    feedback[0] += 1
    interactions = replace(prepared.interactions, feedback=feedback)
    assert with_content_id(replace(prepared, interactions=interactions)).data_id != prepared.data_id
    spec = prepared.spec.model_copy(update={"impression_label": 3.0})
    assert with_content_id(replace(prepared, spec=spec)).data_id != prepared.data_id


def test_the_hash_of_an_array_knows_shape_and_type() -> None:
    array = np.arange(6, dtype=np.int32)
    hashes = [array, array.reshape(2, 3), array.astype(np.int64), array.view(np.uint32), array[::-1], array[:0]]
    assert len({array_sha256(entry) for entry in hashes}) == len(hashes)
    assert array_sha256(array.reshape(2, 3)) == array_sha256(np.asfortranarray(array.reshape(2, 3)))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_file_is_protected(prepared: PreparedDataset, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    prepared.save(folder)
    names = names_in(folder)
    assert len(names) == 3 + 7 + 2 * 6
    for name in names:
        path = folder / name
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 0x10
        for wrong in (bytes(flipped), content[: len(content) // 2], b""):
            path.write_bytes(wrong)
            with pytest.raises(DataError) as raised:
                PreparedDataset.load(folder)
            assert str(path) in str(raised.value)
        path.unlink()
        with pytest.raises(DataError) as raised:
            PreparedDataset.load(folder)
        assert str(path) in str(raised.value)
        path.write_bytes(content)
    assert_equal(PreparedDataset.load(folder), prepared)


def test_the_texts_of_a_damaged_folder(prepared: PreparedDataset, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(DataError) as raised:
        PreparedDataset.load(folder)
    expected = f"{folder / 'info.json'}: no such file; is this a folder that 'ranktower prepare' wrote?"
    assert str(raised.value) == expected
    prepared.save(folder)
    np.save(folder / "users.codes.npy", np.zeros((20, 2), dtype=np.int32))
    with pytest.raises(DataError) as raised:
        PreparedDataset.load(folder)
    expected = f"{folder / 'users.codes.npy'}: is damaged: its SHA-256 is not the one in info.json"
    assert str(raised.value) == expected
    (folder / "users.codes.npy").unlink()
    with pytest.raises(DataError) as raised:
        PreparedDataset.load(folder)
    assert str(raised.value) == f"{folder / 'users.codes.npy'}: no such file"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format_version": 2}, "format_version 1 is read here, got 2"),
        ({"data_id": "0" * 64}, "data_id does not fit the list of parts"),
        ({"sha256": {}}, "data_id does not fit the list of parts"),
        ({"sha256": None}, "data_id does not fit the list of parts"),
    ],
)
def test_a_wrong_info(prepared: PreparedDataset, tmp_path: Path, change: dict[str, object], problem: str) -> None:
    prepared.save(tmp_path)
    path = tmp_path / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError) as raised:
        PreparedDataset.load(tmp_path)
    assert str(raised.value) == f"{path}: {problem}"


def test_an_info_that_lists_too_few_parts(prepared: PreparedDataset, tmp_path: Path) -> None:
    prepared.save(tmp_path)
    path = tmp_path / "info.json"
    info = json.loads(path.read_text())
    del info["sha256"]["interactions.split.npy"]
    info["data_id"] = dataset_module._data_id(info["sha256"])
    path.write_text(json.dumps(info))
    with pytest.raises(DataError) as raised:
        PreparedDataset.load(tmp_path)
    assert str(raised.value) == f"{path}: its list of parts lacks 'interactions.split.npy'"


def test_an_array_of_objects_is_never_unpickled(prepared: PreparedDataset, tmp_path: Path) -> None:
    prepared.save(tmp_path)
    np.save(tmp_path / "users.codes.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"users\.codes\.npy: is no whole array: Object arrays cannot be loaded"):
        PreparedDataset.load(tmp_path)


def test_somebody_elses_folder_is_not_replaced(prepared: PreparedDataset, tmp_path: Path) -> None:
    (tmp_path / "weights.npy").write_bytes(b"mine")
    with pytest.raises(DataError) as raised:
        prepared.save(tmp_path)
    assert str(raised.value) == f"{tmp_path}: will not replace this folder: it also holds 'weights.npy'"
    assert names_in(tmp_path) == ["weights.npy"]
