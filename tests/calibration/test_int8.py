from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, numpy_helper

from mvp_deploy.calibration.int8 import calibrate, quantize
from mvp_deploy.calibration.layers import Target, int8_layers
from mvp_deploy.calibration.thresholds import METHODS
from mvp_deploy.exporters.parity import compare
from mvp_deploy.exporters.session import open_session
from mvp_deploy.exporters.tensorrt.check import check
from mvp_deploy.exporters.tensorrt.releases import RELEASES
from tests.onnxfiles import read_metadata

if TYPE_CHECKING:
    from conftest import Trained


def int8(trained: Trained, target: Target, method: str = "minmax") -> ModelProto:
    model, images = trained.measured.model, trained.measured.images.images
    layers = int8_layers(model, target)
    return quantize(model, calibrate(model, trained.measured.ranges, layers, images, method), layers, target)


def logits(model: ModelProto, images: np.ndarray) -> np.ndarray:
    session = open_session(model.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: images})[0]


class Graph:
    def __init__(self, model: ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

    def of(self, kind: str) -> list[NodeProto]:
        return [node for node in self.nodes if node.op_type == kind]

    def quantized(self, name: str) -> bool:
        return name in self.maker and self.maker[name].op_type == "DequantizeLinear"


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("method", METHODS)
def test_it_decides_as_the_float32_model_does(trained: Trained, target: Target, method: str) -> None:
    parity = compare(
        logits(trained.measured.model, trained.images), logits(int8(trained, target, method), trained.images)
    )
    assert parity.relative < 0.15
    assert parity.agreement > 0.97


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_names_metadata_inputs_and_outputs_stay(trained: Trained, target: Target, tmp_path: Path) -> None:
    before, after = trained.measured.model, int8(trained, target)
    assert [list(before.graph.input), list(before.graph.output)] == [list(after.graph.input), list(after.graph.output)]
    onnx.save(after, tmp_path / "m.onnx")
    assert read_metadata(tmp_path / "m.onnx") == read_metadata(trained.path)
    weighted = {node.name for node in before.graph.node if node.op_type in ("Conv", "Gemm")}
    assert weighted <= {node.name for node in after.graph.node}


def test_for_the_cpu_every_layer_runs_in_an_int8_kernel_and_weights_take_a_quarter(
    trained: Trained, tmp_path: Path
) -> None:
    import onnxruntime

    model = int8(trained, "cpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["QLinearConv"] == 7
    assert kinds["QGemm"] == 1
    assert not kinds["Conv"] + kinds["FusedConv"] + kinds["Gemm"]
    weights = sum(numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)
    assert weights < 0.3 * sum(numpy_helper.to_array(t).nbytes for t in trained.measured.model.graph.initializer)


@pytest.fixture(scope="module")
def graph(trained: Trained) -> Graph:
    return Graph(int8(trained, "tensorrt"))


class TestForTensorRT:
    def test_all_is_symmetric_int8_with_float_biases(self, graph: Graph) -> None:
        for node in [*graph.of("QuantizeLinear"), *graph.of("DequantizeLinear")]:
            zero = graph.constants[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
        assert all(graph.constants[node.input[2]].dtype == np.float32 for node in graph.of("Conv"))

    def test_weights_have_a_pair_of_their_own_with_a_scale_per_channel(self, graph: Graph) -> None:
        inside = [node for node in graph.of("Conv") if graph.quantized(node.input[1])]
        for node in inside:
            assert graph.quantized(node.input[0])
            dequantize = graph.maker[node.input[1]]
            weight = graph.constants[graph.maker[dequantize.input[0]].input[0]]
            assert graph.constants[dequantize.input[1]].shape == (len(weight),)
        assert len(inside) == 4

    def test_stem_depthwise_squeeze_and_classifier_are_left_alone(self, graph: Graph) -> None:
        alone = [n for n in [*graph.of("Conv"), *graph.of("Gemm")] if not graph.quantized(n.input[1])]
        shapes = {graph.constants[node.input[1]].shape for node in alone}
        assert shapes == {(32, 3, 3, 3), (48, 1, 3, 3), (48, 48, 1, 1), (10, 48)}

    def test_residual_additions_take_the_convolution_as_it_is_and_the_skip_quantised(self, graph: Graph) -> None:
        additions = graph.of("Add")
        for node in additions:
            (plain,) = [name for name in node.input if not graph.quantized(name)]
            assert graph.maker[plain].op_type == "Conv"
        assert len(additions) == 2

    def test_the_output_is_not_quantised(self, graph: Graph) -> None:
        assert graph.maker["logits"].op_type == "Gemm"

    def test_the_check_for_tensorrt_has_nothing_to_say_of_quantisation(self, trained: Trained, tmp_path: Path) -> None:
        onnx.save(int8(trained, "tensorrt"), tmp_path / "m.onnx")
        findings = check(tmp_path / "m.onnx", list(RELEASES.values()))
        assert not [f for f in findings if "--precision int8" in f.cure or "in floating point" in f.cure]
