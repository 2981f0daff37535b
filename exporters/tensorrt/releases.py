"""What is known of each TensorRT release: the one table of versions, for probe and check.

Sources: onnx-tensorrt's docs/operators.md for 8.5, 9.2 and 10.15 and its changelog, for 8.5 and 8.6 also the
names in the parser libraries themselves; NVIDIA's support matrix and its guide from 10 to 11.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mvp_deploy.exporters.errors import InputError


@dataclass(frozen=True)
class Release:
    """The oldest version of a line that behaves the same."""

    name: str  # «8.6»
    devices: str  # where it is met
    max_opset: int  # newest ONNX opset its parser reads; newer ones are misread in silence before 9
    typed: bool  # precision comes from the graph's own types, and flags are gone or advised against
    operators: frozenset[str]  # ONNX operators its parser is documented to read


_OPERATORS_8_5 = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu
Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div
Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm
GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GRU HardSwish HardSigmoid
Identity If InstanceNormalization IsNaN LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN LSTM
LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg
NonMaxSuppression NonZero Not OneHot Or Pad Pow PRelu QuantizeLinear RandomNormal RandomNormalLike
RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RNN
RoiAlign Round Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice
Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK
Transpose Trilu Unsqueeze Upsample Where Xor
"""
_8_5 = frozenset(_OPERATORS_8_5.split())
_8_6 = _8_5 | {"GroupNormalization", "IsInf", "LayerNormalization"}
_10_3 = _8_6 | {"CastLike", "DeformConv", "Hardmax"}
_10_16 = _10_3 | {
    "Attention", "BlackmanWindow", "Gelu", "HammingWindow", "HannWindow", "Mish", "RMSNormalization",
    "RotaryEmbedding", "STFT", "TensorScatter",
}  # fmt: skip

RELEASES = {
    release.name: release
    for release in (
        Release("8.5", "JetPack 5", 17, False, _8_5),
        Release("8.6", "CUDA 11 and 12, to Hopper", 17, False, _8_6),
        Release("10.3", "JetPack 6", 20, False, _10_3),
        Release("10.12", "CUDA 12 and 13", 20, True, _10_3),
        Release("10.16", "JetPack 7.2", 24, True, _10_16),
        Release("11.4", "CUDA 13; JetPack 7.2.2", 24, True, _10_16),
    )
}


def release_of(version: str) -> Release:
    """The newest known release that is not newer than an installed version such as «10.16.1.11».

    Raises:
        MvpError: the version is older than 8.5.
    """
    asked = version_number(version)
    older = [release for name, release in RELEASES.items() if version_number(name) <= asked]
    if not older:
        raise InputError(f"TensorRT {version} is older than 8.5, the oldest supported: install a newer one.")
    return older[-1]


def version_number(version: str) -> tuple[int, int]:
    """Major and minor number, to compare."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        raise InputError(f"{version!r} is not a TensorRT version: write it as 10.3.")
    return int(match[1]), int(match[2])
