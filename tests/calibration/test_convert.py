from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mvp_deploy.calibration.convert import Measured, convert_fp16, convert_int8, measure
from mvp_deploy.calibration.guard import Limit, allowed_drop
from mvp_deploy.calibration.layers import Target
from mvp_deploy.exporters.errors import ExitCode, MvpError

if TYPE_CHECKING:
    from conftest import Trained


def spoil(trained: Trained, path: Path) -> tuple[Measured, str]:
    """The same model, but one channel between two convolutions is huge, and then ignored; and the second's name.

    float32 does not mind; in int8 the scale must span that channel, and nothing is left of the others.
    """
    model = onnx.load(trained.path)
    first, second = [node for node in model.graph.node if node.op_type == "Conv"][1:3]
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name == first.input[2]:
            values[0] = 3000
        elif tensor.name == second.input[1]:
            values[:, 0] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    return measure(path, trained.measured.images), second.name


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_the_layer_that_costs_the_accuracy_goes_back_and_is_named(
    trained: Trained, target: Target, tmp_path: Path
) -> None:
    measured, guilty = spoil(trained, tmp_path / "spoilt.onnx")
    converted = convert_int8(measured, tmp_path / "m.onnx", trained.limit(), target=target, method="minmax")
    assert guilty in converted.kept
    assert len(converted.kept) <= 2  # on the CPU the layer that gives the huge channel may cost as much
    assert trained.accuracy_of(onnx.load(converted.path)) >= trained.accuracy_of(measured.model) - 0.0101


def test_a_sound_model_keeps_all_its_layers_in_int8(trained: Trained, tmp_path: Path) -> None:
    converted = convert_int8(trained.measured, tmp_path / "m.onnx", trained.limit(0.02), target="cpu", method="entropy")
    assert converted.kept == ()


def test_a_limit_that_cannot_be_met_fails_with_the_numbers(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(MvpError, match=r"int8 has \d+\.\d% accuracy on \d+ training images where float32") as error:
        convert_int8(trained.measured, tmp_path / "m.onnx", trained.limit(-0.5), target="tensorrt", method="entropy")
    assert error.value.code == ExitCode.ACCURACY
    assert "2 costliest of 4 layers" in str(error.value)
    assert not (tmp_path / "m.onnx").exists()


def test_the_order_of_the_calibration_images_changes_no_byte(trained: Trained, tmp_path: Path) -> None:
    images = trained.measured.images
    order = np.random.default_rng(0).permutation(len(images))
    shuffled = measure(trained.path, type(images)(images.images[order], images.labels[order]))
    for name, measured in (("a", trained.measured), ("b", shuffled)):
        convert_int8(measured, tmp_path / name, trained.limit(1.0), target="cpu", method="entropy")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_int8_with_the_rest_in_fp16_keeps_its_accuracy_too(trained: Trained, tmp_path: Path) -> None:
    limit = trained.limit(0.02)
    whole = convert_int8(trained.measured, tmp_path / "a.onnx", limit, target="tensorrt", method="entropy")
    mixed = convert_int8(trained.measured, tmp_path / "b.onnx", limit, target="tensorrt", rest="fp16", method="entropy")
    found, wanted = (trained.accuracy_of(onnx.load(each.path)) for each in (mixed, whole))
    assert abs(found - wanted) < 0.02
    assert mixed.path.stat().st_size < 0.7 * whole.path.stat().st_size


def test_fp16_is_written_as_a_file(trained: Trained, tmp_path: Path) -> None:
    converted = convert_fp16(trained.measured, tmp_path / "m.onnx")
    found, wanted = (trained.accuracy_of(model) for model in (onnx.load(converted.path), trained.measured.model))
    assert found == pytest.approx(wanted, abs=0.01)


def test_a_model_too_narrow_for_int8_is_refused(trained: Trained, tmp_path: Path) -> None:
    from samples import make_onnx

    path = make_onnx(tmp_path / "narrow.onnx")
    images = type(trained.measured.images)(np.zeros((2, 3, 8, 8), np.float32), np.zeros(2, np.int64))

    model = onnx.load(path)
    for index, node in enumerate(model.graph.node):
        node.name = f"node{index}"
    onnx.save(model, path)
    with pytest.raises(MvpError, match="wide enough"):
        convert_int8(
            measure(path, images),
            tmp_path / "m.onnx",
            Limit(lambda model: 1.0, 2, 0.01),
            target="tensorrt",
            method="entropy",
        )


def test_one_image_decides_only_where_none_may_be_lost() -> None:
    assert allowed_drop(0.01, 20) == pytest.approx(0.05)
    assert allowed_drop(0.01, 1000) == pytest.approx(0.01)
    assert allowed_drop(0.0, 20) < 1 / 20
    assert allowed_drop(0.01, 1000) >= 0.98 - 0.97
