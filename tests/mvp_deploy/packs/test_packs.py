"""`pack` and `push`: bundles as Triton, DeepStream and Hugging Face take them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml
from click.testing import CliRunner, Result
from fakes.bundle import tiny_bundle
from fakes.hub import hub

from mvp_deploy import bundle
from mvp_deploy.base.errors import ExitCode, InputError, ParityError
from mvp_deploy.cli import main
from mvp_deploy.packs import deepstream
from mvp_deploy.packs.pack import pack
from mvp_deploy.tasks import Preprocessing

HOW = Preprocessing((3, 8, 8), "bilinear", 0.875, "center", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("packs") / "dogs", ["fp32", "int8"])


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_a_triton_repository_has_the_model_its_labels_and_a_config_of_its_inputs(made: Path, tmp_path: Path) -> None:
    result = call("pack", made, "--for", "triton", "--out", tmp_path / "repository", "--name", "my dogs")
    assert result.exit_code == 0, result.output
    model = tmp_path / "repository" / "my-dogs"
    assert (model / "1" / "model.onnx").read_bytes() == (made / "models" / "pruned.fp32.onnx").read_bytes()
    assert (model / "labels.txt").read_text() == "a\nb\nc\nd\n"
    config = (model / "config.pbtxt").read_text()
    session = onnxruntime.InferenceSession(model / "1" / "model.onnx")
    (given,), (found,) = session.get_inputs(), session.get_outputs()
    assert f'name: "{given.name}"' in config
    assert f'name: "{found.name}"' in config
    assert f"dims: [ {', '.join(map(str, given.shape[1:]))} ]" in config
    assert "dims: [ 4 ]" in config
    assert "dynamic_batching" in config
    assert re.search(r"max_batch_size: [1-9]", config)


def test_tritons_own_parser_takes_the_config(made: Path, tmp_path: Path) -> None:
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] is not installed")
    from google.protobuf import text_format

    pack(bundle.read(made), "triton", tmp_path / "repository", name="dogs")
    config = text_format.Parse((tmp_path / "repository/dogs/config.pbtxt").read_text(), schema.ModelConfig())
    assert config.name == "dogs"
    assert list(config.input[0].dims) == [3, 8, 8]


@pytest.mark.parametrize("how", [HOW, replace(HOW, std=(0.5, 0.5, 0.5))])
def test_nvinfers_factor_and_offsets_are_the_normalisation(how: Preprocessing) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    factor, offsets, rest = deepstream.normalisation(how)
    given = factor * (pixels.transpose(2, 0, 1).astype(np.float32) - np.reshape(offsets, (3, 1, 1)))
    given = given * np.reshape(rest or (1, 1, 1), (3, 1, 1))
    image = (pixels.astype(np.float32) / 255 - np.float32(how.mean)) / np.float32(how.std)
    np.testing.assert_allclose(given, image.transpose(2, 0, 1), atol=1e-5)
    assert (rest is None) == (len(set(how.std)) == 1)


def test_what_nvinfer_cannot_say_of_the_normalisation_is_in_the_graph(made: Path) -> None:
    source = made / "models" / "pruned.fp32.onnx"
    given = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(deepstream.changed(source, (1.0, 2.0, 4.0)))
    (found,) = session.run(None, {session.get_inputs()[0].name: given})
    scaled = given * np.float32((1, 2, 4)).reshape(3, 1, 1)
    logits = onnxruntime.InferenceSession(source).run(None, {"input": scaled})[0]
    powers = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(found, powers / powers.sum(1, keepdims=True), atol=1e-5)


def test_a_deepstream_folder_names_what_it_holds_and_what_nvinfer_does_otherwise(made: Path, tmp_path: Path) -> None:
    result = call("pack", made, "--for", "deepstream", "--out", tmp_path / "ds", "--json")
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "ds" / "config_infer.txt").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert values["infer-dims"] == "3;8;8"
    assert values["network-mode"] == "1"  # the bundle's file for TensorRT is its int8
    assert float(values["net-scale-factor"]) == pytest.approx(1 / 127.5)
    assert values["offsets"] == "127.5;127.5;127.5"
    assert (tmp_path / "ds" / values["labelfile-path"]).read_text() == "a;b;c;d\n"
    assert (tmp_path / "ds" / values["onnx-file"]).is_file()
    assert any("antialiased" in note for note in json.loads(result.stdout)["notes"])


def test_a_graph_that_gives_something_else_is_not_packed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deepstream, "normalisation", lambda how: (1.0, (0.0, 0.0, 0.0), None))
    with pytest.raises(ParityError, match="are off by"):
        pack(bundle.read(made), "deepstream", tmp_path / "ds", file="models/pruned.fp32.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_hub_folder_has_a_card_with_the_numbers_and_the_bundle_as_it_is(made: Path, tmp_path: Path) -> None:
    notes = pack(bundle.read(made), "hf", tmp_path / "hub", name="dogs")
    assert bundle.verify(tmp_path / "hub" / "bundle") == []
    _, front, text = (tmp_path / "hub" / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["pipeline_tag"] == "image-classification"
    assert told["license"] == "unknown"
    assert told["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(0.9)
    assert "models/pruned.int8.onnx" in text
    assert any("licence" in note for note in notes)
    assert any(f"mvp-deploy push {tmp_path / 'hub'} USER/dogs" in note for note in notes)


def test_a_licence_that_the_hub_knows_is_named_by_its_word(made: Path, tmp_path: Path) -> None:
    opened = bundle.read(made)
    info = {**opened.info, "licence": {"backbone weights": "Apache-2.0", "source": "timm/resnet18"}}
    pack(replace(opened, info=info), "hf", tmp_path / "hub")
    text = (tmp_path / "hub" / "README.md").read_text()
    assert "license: apache-2.0" in text
    assert "timm/resnet18" in text


def test_push_uploads_every_file(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    pack(bundle.read(made), "hf", tmp_path / "hub", name="dogs")
    with hub() as there:
        monkeypatch.setattr(constants, "ENDPOINT", there.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_stub")
        result = call("push", tmp_path / "hub", "me/dogs", "--private")
        assert result.exit_code == 0, result.output + repr(result.exception)
        files = {f.relative_to(tmp_path / "hub").as_posix(): f.read_bytes() for f in (tmp_path / "hub").rglob("*.*")}
        assert {name: there.files.get(name) for name in files} == files
        assert there.created[0]["name"] == "dogs"
        assert "private" in {*there.created[0], *there.created[0].values()}
        assert there.tokens == {"Bearer hf_stub"}
        there.files |= {f"bundle/{name}": b"old" for name in ("models/pruned.fp16.onnx", "model.sig", "extra/mine.txt")}
        assert call("push", tmp_path / "hub", "me/dogs").exit_code == 0
        assert there.files.keys() == {*files, "bundle/extra/mine.txt"}


def test_a_missing_file_for_nvinfer_is_asked_for_by_its_target(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--target tensorrt"):
        pack(bundle.read(made), "deepstream", tmp_path / "ds", file="models/no.onnx")


def test_what_is_not_packed_for_the_hub_is_not_pushed(made: Path) -> None:
    result = call("push", made, "me/dogs")
    assert result.exit_code == ExitCode.INPUT
    assert "--for hf" in result.output


def test_a_full_folder_and_a_file_that_is_not_there_are_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="choose another --out"):
        pack(bundle.read(made), "triton", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    with pytest.raises(InputError, match=r"no model models/no\.onnx"):
        pack(bundle.read(made), "triton", tmp_path / "new", file="models/no.onnx")
