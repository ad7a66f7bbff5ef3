"""A bundle is opened whole and unaltered or not at all."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from assets import asset_path
from bridge.contract import UserError
from bridge.embodiment import Camera
from policy.runtime.bundle import (
    ENCODER_FILES,
    MANIFEST_FILE,
    REQUIRED_FILES,
    Manifest,
    encoder_folder,
    load_manifest,
    open_bundle,
    packaged_encoder,
    write_bundle,
)
from policy.runtime.graphs import (
    PORTS_OF_ENCODER,
    ports_of_decode,
    ports_of_prefill,
    ports_of_words,
)
from policy.runtime.onnx_policy import OnnxPolicy
from policy.runtime.text_encoder import TEXT_ENCODER_FOLDER, TextEncoder, read_encoder
from robots.g1.embodiment import G1

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


PORTS = {
    "words.onnx": ports_of_words(MANIFEST.slots),
    "prefill.onnx": ports_of_prefill(G1),
    "decode.onnx": ports_of_decode(G1),
    "text_encoder.onnx": PORTS_OF_ENCODER,
}


def graph(name: str, weight: float = 1.0) -> onnx.ModelProto:
    """A graph with the inputs and outputs of a bundle's, which multiplies by `weight`."""
    inputs, outputs = (
        [helper.make_tensor_value_info(p.name, p.kind, p.shape) for p in side]
        for side in PORTS[name]
    )
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    weights = [numpy_helper.from_array(np.full(2, weight, np.float32), "w")]
    return helper.make_model(helper.make_graph([node], name, inputs, outputs, weights))


def files() -> dict[str, bytes]:
    graphs = {name: graph(name).SerializeToString() for name in PORTS}
    return dict.fromkeys(REQUIRED_FILES, b"{}") | graphs


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
    manifest = open_bundle(bundle).manifest
    assert dataclasses.replace(manifest, files={}) == MANIFEST
    assert set(manifest.files) == set(REQUIRED_FILES)
    sizes = {name: len(content) for name, content in files().items()}
    assert {name: record.size for name, record in manifest.files.items()} == sizes


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_one_altered_byte_is_refused(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} was altered .*export the bundle again"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        open_bundle(bundle)


def test_the_packaged_encoder_need_not_lie_in_a_bundle(tmp_path: Path) -> None:
    own = {name: content for name, content in files().items() if name not in ENCODER_FILES}
    manifest = dataclasses.replace(MANIFEST, files=packaged_encoder())
    write_bundle(tmp_path, own, manifest)
    assert set(open_bundle(tmp_path).manifest.files) == set(REQUIRED_FILES)
    assert encoder_folder(tmp_path, load_manifest(tmp_path)) == TEXT_ENCODER_FOLDER


def test_another_encoder_lies_in_its_bundle(bundle: Path) -> None:
    assert encoder_folder(bundle, load_manifest(bundle)) == bundle


def test_an_altered_encoder_of_the_package_is_refused(tmp_path: Path, monkeypatch) -> None:
    own = {name: content for name, content in files().items() if name not in ENCODER_FILES}
    write_bundle(tmp_path / "bundle", own, dataclasses.replace(MANIFEST, files=packaged_encoder()))
    for name in ENCODER_FILES:
        (tmp_path / name).write_bytes(b"altered")
    monkeypatch.setattr("policy.runtime.bundle.TEXT_ENCODER_FOLDER", tmp_path)
    with pytest.raises(UserError, match=rf"{ENCODER_FILES[0]} was altered"):
        open_bundle(tmp_path / "bundle")


def test_the_shipped_bundle_is_whole() -> None:
    folder = asset_path("models/bundle")
    assert encoder_folder(folder, open_bundle(folder).manifest) == TEXT_ENCODER_FOLDER


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_links_are_read_like_what_they_lead_to(tmp_path: Path, link: str) -> None:
    """Package managers and caches of models link files instead of copying them."""
    there, here = asset_path("models/bundle"), tmp_path / "bundle"
    here.mkdir()
    for name in (path.name for path in there.iterdir()):
        if link == "hardlink_to":  # of copies: only files of one disk can be linked
            shutil.copy(there / name, tmp_path / name)
        getattr(here / name, link)((there if link == "symlink_to" else tmp_path) / name)
    assert OnnxPolicy(here, threads=1).manifest == load_manifest(there)


def test_a_link_to_something_else_is_refused(bundle: Path) -> None:
    (bundle / "words.onnx").unlink()
    (bundle / "words.onnx").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is missing"):
        open_bundle(bundle)


def test_what_was_checked_is_what_is_run(bundle: Path) -> None:
    opened = open_bundle(bundle)
    (bundle / "words.onnx").write_bytes(graph("words.onnx", 2.0).SerializeToString())
    (tensor,) = opened.graphs["words.onnx"].graph.initializer
    assert numpy_helper.to_array(tensor).tolist() == [1.0, 1.0]


def earlier(bundle: Path, contract: str) -> None:
    """Makes the bundle one of release 0.1, which named its robot by a hash alone."""
    path = bundle / MANIFEST_FILE
    content = json.loads(path.read_text(encoding="utf-8")) | {"format": 2, "contract": contract}
    del content["embodiment"]
    path.write_text(json.dumps(content), encoding="utf-8")


def test_bundles_of_release_0_1_are_for_its_g1(bundle: Path) -> None:
    earlier(bundle, "258f4b459637")
    known = open_bundle(bundle).manifest.embodiment
    assert known == G1 and known.embodiment_hash == G1.embodiment_hash
    added = dataclasses.replace(G1, cameras=(*G1.cameras, Camera("wrist", 48, 64)))
    assert added.lacks(known) is None


def test_a_contract_of_no_release_is_refused(bundle: Path) -> None:
    earlier(bundle, "0123456789ab")
    with pytest.raises(UserError, match=r"manifest\.json .*contract 0123456789ab.*: make it again"):
        load_manifest(bundle)


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_bundle(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a bundle"):
        open_bundle(tmp_path)
    for content in (b"", b"\xff\xfe", b"[]", b'{"model_id": 3}'):
        (tmp_path / MANIFEST_FILE).write_bytes(content)
        with pytest.raises(UserError, match=r"manifest\.json cannot be read .*: copy or export"):
            open_bundle(tmp_path)


@pytest.mark.parametrize("name", ["../secret.onnx", "/etc/passwd", "a/b.onnx", "..", "a\\b"])
def test_no_path_leaves_the_folder(bundle: Path, name: str) -> None:
    records = json.loads((bundle / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
    alter_manifest(bundle, files=records | {name: {"sha256": "0", "size": 0}})
    with pytest.raises(UserError, match="outside its folder"):
        open_bundle(bundle)


def test_an_incomplete_manifest_is_refused(bundle: Path) -> None:
    records = json.loads((bundle / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
    del records["decode.onnx"]
    alter_manifest(bundle, files=records)
    with pytest.raises(UserError, match=r"does not list decode\.onnx"):
        open_bundle(bundle)


def refusal(folder: Path, name: str, content: onnx.ModelProto | bytes) -> str:
    """Why a bundle with this file, sealed by its manifest, is refused."""
    raw = content if isinstance(content, bytes) else content.SerializeToString()
    write_bundle(folder, files() | {name: raw}, MANIFEST)
    with pytest.raises(UserError, match=rf"{name} cannot be used: .*export the bundle") as caught:
        open_bundle(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_non_finite_weights_are_refused(tmp_path: Path, weight: float) -> None:
    told = refusal(tmp_path, "prefill.onnx", graph("prefill.onnx", weight))
    assert "non-finite weights (w)" in told


def test_non_finite_constants_are_refused(tmp_path: Path) -> None:
    nan = numpy_helper.from_array(np.array([np.nan], np.float32))
    inner = helper.make_graph(
        [], "inner", [], [], [numpy_helper.from_array(np.full(1, np.nan), "i")]
    )
    for node in (
        helper.make_node("Constant", [], ["c"], value=nan),
        helper.make_node("Constant", [], ["c"], value_float=float("nan")),
        helper.make_node("Constant", [], ["c"], value_floats=[1.0, float("inf")]),
        helper.make_node("If", ["c"], ["d"], then_branch=inner),
    ):
        model = graph("decode.onnx")
        model.graph.node.append(node)
        assert "non-finite" in refusal(tmp_path, "decode.onnx", model)


def external(**places: object) -> onnx.ModelProto:
    model = graph("words.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in places.items():
        tensor.external_data.add(key=key, value=str(value))
    return model


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (external(location="../weights.bin"), "keeps w elsewhere"),
        (external(location="weights.bin", offset=0, length=99), "lies beyond"),
        (external(location="weights.bin", offset=-1), "lies beyond"),
        (external(location="weights.bin", offset="x"), "invalid literal"),
        (external(location="weights.bin"), ""),  # two bytes where two floats should be
        (b"", "no ONNX graph"),
        (b"\xff" * 99, ""),
    ],
)
def test_malformed_graphs_are_refused(
    tmp_path: Path, content: onnx.ModelProto | bytes, complaint: str
) -> None:
    assert complaint in refusal(tmp_path, "words.onnx", content)


def test_graphs_are_what_the_manifest_promises(tmp_path: Path) -> None:
    told = refusal(tmp_path, "decode.onnx", graph("prefill.onnx"))
    assert "it has word float (1, ?) where the manifest promises bands int64 (?)" in told
    refusal(tmp_path, "words.onnx", graph("text_encoder.onnx"))
    less = graph("prefill.onnx")
    del less.graph.output[-1]
    assert "4 inputs or outputs, not 5" in refusal(tmp_path, "prefill.onnx", less)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"bands": 5}, "decode.onnx cannot be used: it has 6 bands, the manifest 5"),
        ({"bands": 0}, "bands is 0"),
        ({"slots": {"action": ["stop"]}}, "words.onnx .*prior .*1, 44.* where .*prior .*1, 2"),
        ({"slots": 3}, "slots is 3"),
        ({"embodiment": {}}, "embodiment is {}"),
        ({"files": {"a": {"sha256": "", "size": -1}}}, "files.*size|files.*-1"),
    ],
)
def test_a_manifest_that_promises_something_else_is_refused(
    tmp_path: Path, changes: dict, complaint: str
) -> None:
    shutil.copytree(asset_path("models/bundle"), tmp_path / "bundle")
    alter_manifest(tmp_path / "bundle", **{"format": 3, "embodiment": G1.to_dict()} | changes)
    with pytest.raises(UserError, match=complaint):
        open_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("name", ["tokenizer.json", "text_encoder.onnx"])
def test_an_encoder_that_cannot_be_run_is_told_in_a_line(bundle: Path, name: str) -> None:
    altered = read_encoder(TEXT_ENCODER_FOLDER) | {name: files()[name]}
    with pytest.raises(UserError, match=rf"{name} .*: restore it") as caught:
        TextEncoder(bundle, threads=1, files=altered)
    assert "\n" not in str(caught.value)


def test_an_interrupted_write_is_no_bundle(bundle: Path, monkeypatch) -> None:
    def full_disk(*_: object) -> None:
        raise UserError("disk full")

    monkeypatch.setattr("policy.runtime.bundle.write_json", full_disk)
    with pytest.raises(UserError, match="disk full"):
        write_bundle(bundle, files(), MANIFEST)
    with pytest.raises(UserError, match="not a bundle"):
        open_bundle(bundle)
