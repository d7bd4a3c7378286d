"""The Open Inference Protocol on a running server: with Triton's own client, and with JSON written by hand."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from ranktower import __version__
from ranktower.pointer import Variation
from ranktower.registry import Registry
from service.inference_schemas import InferRequest, InferResponse, ModelMetadata, ServerMetadata

LEAST = -3.4028234663852886e38
INFER = "/v2/models/demo/infer"


def tensors(user_id: str, candidates: Sequence[Any], *, binary: bool, wide: bool = False) -> list[triton.InferInput]:
    """Both inputs as Triton's client sends them; the candidates are INT64 where they are integers."""
    user = np.array([user_id], dtype=np.object_)
    integers = all(isinstance(one, int) for one in candidates) and len(candidates) > 0
    items = np.array(candidates, dtype=np.int64 if integers else np.object_)
    made = []
    for name, array, datatype in (
        ("user_id", user, "BYTES"),
        ("candidate_ids", items, "INT64" if integers else "BYTES"),
    ):
        shaped = array[None] if wide else array
        made.append(
            triton.InferInput(name, list(shaped.shape), datatype).set_data_from_numpy(shaped, binary_data=binary)
        )
    return made


def plain(server: Any, user_id: str, candidates: Sequence[Any]) -> tuple[NDArray[np.float32], list[bool]]:
    """What ``/v1/score`` says: the scores, and which there are."""
    scores = server.score(user_id, list(candidates)).json()["scores"]
    return (
        np.array([LEAST if score is None else score for score in scores], dtype=np.float32),
        [score is not None for score in scores],
    )


@pytest.fixture
def client(server: Any) -> Any:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as made:
        yield made


CANDIDATES: list[list[Any]] = [
    [5, 17, 250, 5],
    ["5", "nowhere", "250", "ключ-ß-鍵", 'a "quoted" id'],
    ["nowhere"],
    [-1, 2**63 - 1, -(2**63), 3],
    list(range(300)) * 33,
]


@pytest.mark.parametrize("candidates", CANDIDATES, ids=len)
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("binary", [False, True])
def test_tritons_client_gets_the_scores_of_v1_to_the_bit(
    server: Any, client: Any, candidates: list[Any], wide: bool, binary: bool
) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("present", "scores")]
    for asked in (None, outputs):  # without outputs Triton's client asks for all in binary
        inputs = tensors("user-3", candidates, binary=binary, wide=wide)
        result = client.infer("demo", inputs, outputs=asked, request_id="mine")
        scores, present = plain(server, "user-3", candidates)
        shape = (1, len(candidates)) if wide else (len(candidates),)
        assert result.as_numpy("scores").shape == result.as_numpy("present").shape == shape
        assert result.as_numpy("scores").dtype == np.float32
        assert result.as_numpy("scores").tobytes() == scores.tobytes()
        assert result.as_numpy("present").ravel().tolist() == present
        assert result.get_response()["id"] == "mine"


async def test_its_asynchronous_client_too(server: Any) -> None:
    async with triton_aio.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("demo")
        result = await client.infer("demo", tensors("user-3", ["1", "none", "3"], binary=True))
        scores, present = plain(server, "user-3", ["1", "none", "3"])
        assert result.as_numpy("scores").tobytes() == scores.tobytes()
        assert result.as_numpy("present").tolist() == present


def test_who_overlooks_present_sorts_missing_candidates_last(client: Any) -> None:
    found = client.infer("demo", tensors("user-3", ["none", "1", "nothing", "2"], binary=True)).as_numpy("scores")
    assert set(np.argsort(-found)[2:]) == {0, 2}
    assert np.isfinite(found).all()


def test_health_and_metadata_by_tritons_client(client: Any, release: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    for version, served in (("", True), (release.release, True), ("20200101T000000Z-00000000", False)):
        assert client.is_model_ready("demo", version) is served
    assert not client.is_model_ready("other")
    server = client.get_server_metadata()
    assert server == ServerMetadata.model_validate(server).model_dump()
    assert server["version"] == __version__
    assert "binary_tensor_data" in server["extensions"]
    for version in ("", release.release):
        model = client.get_model_metadata("demo", version)
        assert model == ModelMetadata.model_validate(model).model_dump()
        assert model["versions"] == [release.release]
    assert {one["name"]: (one["datatype"], one["shape"]) for one in model["inputs"]} == {
        "user_id": ("BYTES", [1]),
        "candidate_ids": ("BYTES", [-1]),
    }
    assert {one["name"]: (one["datatype"], one["shape"]) for one in model["outputs"]} == {
        "scores": ("FP32", [-1]),
        "present": ("BOOL", [-1]),
    }
    with pytest.raises(InferenceServerException, match='model: "other" is not served here, only "demo"'):
        client.get_model_metadata("other")
    with pytest.raises(InferenceServerException, match=f'version: "1" is not served, only {release.release}'):
        client.infer("demo", tensors("user-3", [1], binary=True), model_version="1")


def test_json_written_by_hand(server: Any, release: Any) -> None:
    body = {
        "id": "42",
        "inputs": [
            {"name": "candidate_ids", "shape": [1, 3], "datatype": "BYTES", "data": [["1", "none", "3"]]},
            {"name": "user_id", "shape": [1], "datatype": "INT64", "data": [12]},
        ],
        "outputs": [{"name": "present"}, {"name": "scores", "parameters": {"binary_data": False}}],
        "parameters": {"budget_ms": 60_000.0, "timeout": 59_000_000, "priority": 1},
    }
    InferRequest.model_validate(body)
    found = server.client.post(INFER, json=body, headers={"x-request-id": "r-1"})
    assert found.status_code == 200
    assert found.headers["content-type"] == "application/json"
    InferResponse.model_validate(found.json())
    answer = found.json()
    assert 0 < answer["parameters"].pop("took_ms") < 10_000
    scores, _ = plain(server, "12", ["1", "none", "3"])
    assert answer == {
        "model_name": "demo",
        "model_version": release.release,
        "parameters": {"request_id": "r-1", "user": "FALLBACK"},
        "id": "42",
        "outputs": [
            {"name": "present", "shape": [1, 3], "datatype": "BOOL", "data": [True, False, True]},
            {"name": "scores", "shape": [1, 3], "datatype": "FP32", "data": answer["outputs"][1]["data"]},
        ],
    }
    assert np.array(answer["outputs"][1]["data"], dtype=np.float32).tobytes() == scores.tobytes()


def test_binary_tensors_written_by_hand(server: Any) -> None:
    head = {
        "inputs": [
            {"name": "user_id", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 10}},
            {"name": "candidate_ids", "shape": [2], "datatype": "INT64", "parameters": {"binary_data_size": 16}},
        ],
        "outputs": [{"name": "scores", "parameters": {"binary_data": True}}, {"name": "present"}],
    }
    text = json.dumps(head).encode()
    raw = b"\x06\x00\x00\x00user-3" + (7).to_bytes(8, "little") + (-1).to_bytes(8, "little", signed=True)
    headers = {"inference-header-content-length": str(len(text)), "content-type": "application/octet-stream"}
    found = server.client.post(INFER, content=text + raw, headers=headers)
    size = int(found.headers["inference-header-content-length"])
    assert found.headers["content-type"] == "application/octet-stream"
    outputs = json.loads(found.content[:size])["outputs"]
    assert outputs[0] == {
        "name": "scores", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8},
    }  # fmt: skip
    assert outputs[1]["data"] == [True, False]
    assert found.content[size:] == plain(server, "user-3", [7, -1])[0].tobytes()


def test_an_empty_list_gets_empty_tensors(client: Any) -> None:
    for binary in (False, True):
        assert client.infer("demo", tensors("user-1", [], binary=binary)).as_numpy("scores").shape == (0,)


def test_tritons_own_way_of_a_deadline_and_of_priorities(server: Any, client: Any) -> None:
    """A server that computes for others takes what is not of the lower class first; here only that both are taken."""
    inputs = tensors("user-1", [1], binary=True)
    assert client.infer("demo", inputs, timeout=0)  # none
    assert client.infer("demo", inputs, timeout=30_000_000, priority=2, parameters={"budget_ms": 60_000})
    with pytest.raises(InferenceServerException, match="the budget was used up") as refused:
        client.infer("demo", inputs, timeout=1)
    assert refused.value.status() == "504"


def test_without_a_release_it_is_alive_but_not_ready(tmp_path: Path, start_server: Callable[..., Any]) -> None:
    server = start_server(tmp_path)
    server.wait_not_ready("no_release")
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready("demo")
        with pytest.raises(InferenceServerException, match="no release has been promoted"):
            client.infer("demo", tensors("user-1", [1], binary=True))
    server.stop()


def versions(server: Any) -> list[str]:
    found: list[str] = server.client.get("/v2/models/demo").json()["versions"]
    return found


def test_the_canary_is_a_version_that_may_be_asked_for(
    tmp_path: Path, build_release: Callable[..., Any], start_server: Callable[..., Any]
) -> None:
    """It answers one user in a million by itself, and everyone who names it."""
    old, new = build_release(tmp_path, seed=1, num_items=50), build_release(tmp_path, seed=2, num_items=50)
    old.promote()
    Registry(tmp_path).vary("demo", "canary", Variation(release=new.release, share=1e-6))
    server = start_server(tmp_path)
    server.wait_ready(old.release)
    server.wait_until(lambda: new.release in versions(server), "serving its canary")
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert client.get_model_metadata("demo")["versions"] == [old.release, new.release]
        for version, expected in (("", old), (old.release, old), (new.release, new)):
            result = client.infer("demo", tensors("user-1", [1, 2, 3], binary=True), model_version=version)
            assert result.get_response()["model_version"] == expected.release
            np.testing.assert_allclose(result.as_numpy("scores"), expected.scores("user-1", [1, 2, 3]), atol=4e-5)
    server.stop()


def test_the_pages_example(server: Any) -> None:
    text = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    mark = "<!-- run by: tests/service/routes/test_inference.py::test_the_pages_example -->\n"
    command = text.partition(f"{mark}```sh\n")[2].partition("```")[0]
    here = command.replace("localhost:8000/v2/models/ranktower", f"{server.url}/v2/models/demo")
    done = subprocess.run(["sh", "-c", here], check=True, capture_output=True, text=True)
    answer = json.loads(done.stdout)
    InferResponse.model_validate(answer)
    assert answer["outputs"][0]["data"][2] == pytest.approx(LEAST)
    assert answer["outputs"][1]["data"] == [True, True, False]
