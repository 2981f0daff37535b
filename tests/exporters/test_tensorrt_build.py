"""Engines built against stand-ins of every TensorRT pinned: a call one of them lacks fails here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.models import classifier
from fakes.tensorrt import VERSIONS

from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.protocol import PRECISIONS
from mvp_deploy.exporters.tensorrt.build import Options, Profile, build
from mvp_deploy.exporters.tensorrt.probe import probe

EVERYTHING = {"workspace": 512, "level": 4, "version_compatible": True, "hardware_compatible": True}


def names(calls: list[dict], key: str) -> list[str]:
    return [call[key].name for call in calls]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_precision_builds_on_every_version(install, tmp_path: Path, version: str, precision: str) -> None:
    trt = install(version)
    offer = probe()
    built = build(offer, classifier(tmp_path / "a.onnx", precision), Options(precision), tmp_path / "timing")
    assert built.layers[precision] >= 1
    flags = names(trt.called("IBuilderConfig.set_flag"), "flag")
    assert flags == ([] if offer.typed else {"fp32": [], "fp16": ["FP16"], "int8": ["INT8", "FP16"]}[precision])
    assert names(trt.called("IBuilderConfig.clear_flag"), "flag") == (["TF32"] if precision == "fp32" else [])


@pytest.mark.parametrize("version", [version for version in VERSIONS if not version.startswith("8.5")])
def test_every_option_is_passed_on(install, tmp_path: Path, version: str) -> None:
    trt = install(version)
    profiles = (Profile(1, 1, 1), Profile(1, 8, 32))
    build(probe(), classifier(tmp_path / "a.onnx"), Options("fp32", profiles, **EVERYTHING))
    (limit,) = trt.called("IBuilderConfig.set_memory_pool_limit")
    assert (limit["pool"].name, limit["pool_size"]) == ("WORKSPACE", 512 << 20)
    assert names(trt.called("IBuilderConfig.set_flag"), "flag") == ["VERSION_COMPATIBLE"]
    shapes = [(call["min"][0], call["opt"][0], call["max"][0]) for call in trt.called("IOptimizationProfile.set_shape")]
    assert shapes == [(1, 1, 1), (1, 8, 32)]


@pytest.mark.parametrize("option", [{"level": 4}, {"version_compatible": True}, {"hardware_compatible": True}])
def test_an_option_that_a_version_lacks_is_refused(install, tmp_path: Path, option: dict) -> None:
    install("8.5.3.1")
    with pytest.raises(MvpError, match=r"TensorRT 8\.5\.3\.1 has no .*leave the option out") as caught:
        build(probe(), classifier(tmp_path / "a.onnx"), Options(**option))
    assert caught.value.code == ExitCode.ENVIRONMENT


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_that_ignores_the_precision_fails_the_build(install, tmp_path: Path, version: str) -> None:
    install(version).ignores_precision = True
    with pytest.raises(MvpError, match=r"fp16 was asked for.*does not use it") as caught:
        build(probe(), classifier(tmp_path / "a.onnx", "fp16"), Options("fp16"))
    assert caught.value.code == ExitCode.PARITY


def test_float32_onnx_is_not_an_fp16_engine_where_types_rule(install, tmp_path: Path) -> None:
    """TensorRT 11 gives tools that rely on flags a float32 engine without a word."""
    install("11.4.0.106")
    with pytest.raises(MvpError, match="ONNX file must be of that precision"):
        build(probe(), classifier(tmp_path / "a.onnx", "fp32"), Options("fp16"))
    install("10.3.0")
    assert build(probe(), tmp_path / "a.onnx", Options("fp16")).layers["fp16"] == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_parser_errors_become_one_message_that_names_the_node(install, tmp_path: Path, version: str) -> None:
    trt = install(version)
    trt.parser_errors = [(7, "Mish", "block/act", "No importer registered for op: Mish")] * 2
    with pytest.raises(MvpError) as caught:
        build(probe(), classifier(tmp_path / "a.onnx"), Options())
    message = str(caught.value)
    assert "cannot read a.onnx" in message
    assert "Mish" in message
    assert "block/act" in message
    assert message.count("No importer registered") == 1
    assert "Begin node" not in message


def test_builder_errors_become_one_message(install, tmp_path: Path) -> None:
    error = "10: [computeCosts] Could not find any implementation for node {ForeignNode[conv1...fc]}.\nmore"
    install("8.6.0").builder_errors = [error, error]
    with pytest.raises(MvpError) as caught:
        build(probe(), classifier(tmp_path / "a.onnx"), Options("fp16"))
    assert "cannot build a.onnx in fp16" in str(caught.value)
    assert str(caught.value).count("ForeignNode[conv1...fc]") == 1


@pytest.mark.parametrize("version", ["8.5.3.1", "8.6.0"])
def test_an_opset_that_would_be_misread_is_refused(install, tmp_path: Path, version: str) -> None:
    trt = install(version)
    with pytest.raises(MvpError, match=r"opset 18 and TensorRT 8.* reads up to 17: export it again with .*--opset 17"):
        build(probe(), classifier(tmp_path / "a.onnx", opset=18), Options())
    assert not trt.called("OnnxParser.parse_from_file")


def test_timing_caches_add_up_and_another_versions_is_left_aside(install, tmp_path: Path) -> None:
    timing = tmp_path / "cache" / "timing"
    install("8.6.0")
    build(probe(), classifier(tmp_path / "a.onnx", seed=1), Options(), timing)
    build(probe(), classifier(tmp_path / "b.onnx", seed=2), Options(), timing)
    assert len(timing.read_text().splitlines()) == 4  # two lines to say what it is, and both builds
    assert [path.name for path in timing.parent.iterdir()] == ["timing"]
    install("10.3.0")
    build(probe(), tmp_path / "a.onnx", Options(), timing)
    assert timing.read_text().splitlines()[1:2] == ["10.3.0"]


@pytest.mark.parametrize(("text", "sizes"), [("8", (8, 8, 8)), ("1:8:32", (1, 8, 32))])
def test_batch_sizes_are_written_as_one_number_or_three(text: str, sizes: tuple[int, ...]) -> None:
    assert Profile.parse(text) == Profile(*sizes)


@pytest.mark.parametrize("text", ["", "0", "8:1:32", "1:8", "1,8,32", "x"])
def test_other_batch_sizes_are_refused(text: str) -> None:
    with pytest.raises(MvpError, match="batch size"):
        Profile.parse(text)


def test_a_fixed_batch_takes_no_other(install, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(classifier(tmp_path / "a.onnx"))
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "a.onnx")
    install("10.3.0")
    with pytest.raises(MvpError, match="batches of 4 alone: pass --batch 4"):
        build(probe(), tmp_path / "a.onnx", Options())
    assert build(probe(), tmp_path / "a.onnx", Options(profiles=(Profile(4, 4, 4),))).layers


def test_no_member_beyond_the_snapshot_exists(install: Callable) -> None:
    """The stand-in itself: what a version lacks must fail here, or the tests above would prove nothing."""
    trt = install("11.4.0.106")
    with pytest.raises(AttributeError):
        trt.BuilderFlag.FP16  # noqa: B018
    probe()
    builder = trt.Builder(type("Log", (trt.ILogger,), {})())
    with pytest.raises(AttributeError):
        builder.platform_has_fast_fp16  # noqa: B018
    with pytest.raises(AttributeError):
        builder.create_builder_config().int8_calibrator = None
    with pytest.raises(TypeError):
        builder.create_network(1, 2)
    with pytest.raises(NotImplementedError):
        builder.reset()
