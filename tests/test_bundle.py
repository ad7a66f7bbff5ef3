"""A bundle is opened whole and unaltered or not at all."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bridge.contract import UserError
from bridge.embodiment import Camera
from policy.runtime.bundle import (
    MANIFEST_FILE,
    REQUIRED_FILES,
    Manifest,
    load_manifest,
    verify_bundle,
    write_bundle,
)
from robots.g1.embodiment import G1


def graph(weight: float = 1.0) -> bytes:
    """A graph that scales its input by `weight`."""
    value = helper.make_tensor_value_info
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    made = helper.make_graph(
        [node],
        "scale",
        [value("x", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.full(2, weight, np.float32), "w")],
    )
    return helper.make_model(made).SerializeToString()


def files() -> dict[str, bytes]:
    return {name: graph() if name.endswith(".onnx") else b"{}" for name in REQUIRED_FILES}


MANIFEST = Manifest(
    model_id="m1",
    normalisation_id="n1",
    embodiment=G1,
    slots={"action": ["stop", "wave"]},
    bands=6,
    quantization={"bits": 8},
    provenance={"dataset": "test"},
    parity={"max_abs": 0.0},
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle", files(), MANIFEST)
    return tmp_path / "bundle"


def alter_manifest(bundle: Path, **changes: object) -> None:
    path = bundle / MANIFEST_FILE
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8"
    )


def test_a_whole_bundle_is_read_back(bundle: Path) -> None:
    manifest = verify_bundle(bundle)
    assert dataclasses.replace(manifest, files={}) == MANIFEST
    assert set(manifest.files) == set(REQUIRED_FILES)
    assert manifest.policy_bytes() == 3 * len(graph()) + len(b"{}")


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_one_altered_byte_is_refused(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} was altered .*export the bundle again"):
        verify_bundle(bundle)


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        verify_bundle(bundle)


def test_a_link_is_not_followed(bundle: Path, tmp_path: Path) -> None:
    name = REQUIRED_FILES[0]
    (bundle / name).rename(tmp_path / name)
    (bundle / name).symlink_to(tmp_path / name)
    with pytest.raises(UserError, match="is missing"):
        verify_bundle(bundle)


def earlier(bundle: Path, contract: str) -> None:
    """Makes the bundle one of release 0.1, which named its robot by a hash alone."""
    path = bundle / MANIFEST_FILE
    content = json.loads(path.read_text(encoding="utf-8")) | {"format": 2, "contract": contract}
    del content["embodiment"]
    path.write_text(json.dumps(content), encoding="utf-8")


def test_bundles_of_release_0_1_are_for_its_g1(bundle: Path) -> None:
    earlier(bundle, "258f4b459637")
    known = verify_bundle(bundle).embodiment
    assert known == G1 and known.embodiment_hash == G1.embodiment_hash
    added = dataclasses.replace(G1, cameras=(*G1.cameras, Camera("wrist", 48, 64)))
    assert added.lacks(known) is None


def test_a_contract_of_no_release_is_refused(bundle: Path) -> None:
    earlier(bundle, "0123456789ab")
    with pytest.raises(UserError, match=r"manifest\.json .*contract 0123456789ab.*: make it again"):
        load_manifest(bundle)


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        verify_bundle(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a bundle"):
        verify_bundle(tmp_path)
    for content in (b"", b"\xff\xfe", b"[]", b'{"model_id": 3}'):
        (tmp_path / MANIFEST_FILE).write_bytes(content)
        with pytest.raises(UserError, match="not a bundle's manifest"):
            verify_bundle(tmp_path)


@pytest.mark.parametrize("name", ["../secret.onnx", "/etc/passwd", "a/b.onnx", "..", "a\\b"])
def test_no_path_leaves_the_folder(bundle: Path, name: str) -> None:
    records = json.loads((bundle / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
    alter_manifest(bundle, files=records | {name: {"sha256": "0", "size": 0}})
    with pytest.raises(UserError, match="outside its folder"):
        verify_bundle(bundle)


def test_an_incomplete_manifest_is_refused(bundle: Path) -> None:
    records = json.loads((bundle / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
    del records["decode.onnx"]
    alter_manifest(bundle, files=records)
    with pytest.raises(UserError, match=r"does not list decode\.onnx"):
        verify_bundle(bundle)


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_non_finite_weights_are_refused(tmp_path: Path, weight: float) -> None:
    write_bundle(tmp_path, files() | {"prefill.onnx": graph(weight)}, MANIFEST)
    with pytest.raises(UserError, match=r"prefill\.onnx has non-finite weights \(w\)"):
        verify_bundle(tmp_path)


def test_weights_kept_outside_the_graph_are_refused(tmp_path: Path) -> None:
    model = onnx.load_from_string(graph())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../weights.bin")
    write_bundle(tmp_path, files() | {"words.onnx": model.SerializeToString()}, MANIFEST)
    with pytest.raises(UserError, match=r"words\.onnx keeps w elsewhere"):
        verify_bundle(tmp_path)


def test_an_interrupted_write_is_no_bundle(bundle: Path, monkeypatch) -> None:
    def full_disk(*_: object) -> None:
        raise UserError("disk full")

    monkeypatch.setattr("policy.runtime.bundle.write_json", full_disk)
    with pytest.raises(UserError, match="disk full"):
        write_bundle(bundle, files(), MANIFEST)
    with pytest.raises(UserError, match="not a bundle"):
        verify_bundle(bundle)
