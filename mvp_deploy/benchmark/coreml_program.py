"""A Core ML program's operators computed by PyTorch, to check a file where Core ML does not run; never timed.

It reads the written file back, so that it sees what Core ML will see: operators, their arguments, weights. What it
cannot show is how Apple's own kernels round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mvp_deploy.base.errors import InputError, first_line
from mvp_deploy.exporters.silence import quiet

PROGRAM, WEIGHTS = Path("Data/com.apple.CoreML/model.mlmodel"), Path("Data/com.apple.CoreML/weights")


class ProgramRunner:
    """A package for one image; a batch is run image by image."""

    def __init__(self, path: Path) -> None:
        self._block, self._constants = _load(path)
        (given,) = self._block.inputs.values()
        _, channels, height, width = map(int, given.shape)
        self.image_shape: tuple[int, int, int] = (channels, height, width)
        self._images: list[Tensor] = []
        self._logits: list[np.ndarray] = []
        self.name = "coreml by PyTorch"
        self.details: Mapping[str, str] = {"runtime": f"PyTorch {torch.__version__}, not Core ML", "device": "CPU"}

    def prepare(self, batch: np.ndarray) -> None:
        self._images = list(torch.from_numpy(np.ascontiguousarray(batch)).split(1))

    @torch.inference_mode()
    def run(self) -> None:
        self._logits = [self._computed(image).float().numpy() for image in self._images]

    def output(self) -> np.ndarray:
        return np.concatenate(self._logits)

    def close(self) -> None:
        self._images = []

    def _computed(self, image: Tensor) -> Tensor:
        values = {**self._constants, next(iter(self._block.inputs)): image}

        def value(var: Any) -> Any:
            return [value(each) for each in var] if isinstance(var, (list, tuple)) else values[var.name]

        for op in self._block.operations:
            if op.op_type != "const":
                found = OPERATORS[op.op_type](
                    **{name: value(var) for name, var in op.inputs.items() if var is not None}
                )
                results = [found] if isinstance(found, Tensor) else found
                values |= {var.name: result for var, result in zip(op.outputs, results, strict=True)}
        logits: Tensor = values[self._block.outputs[0].name]
        return logits


def open_runner(path: Path, *, threads: int | None, device: str) -> ProgramRunner:
    return ProgramRunner(path)


def _load(path: Path) -> tuple[Any, dict[str, Any]]:
    """The package's only function, as coremltools reads it back, and its constants by name."""
    with quiet():
        from coremltools.converters.mil.frontend.milproto.load import load
        from coremltools.proto.Model_pb2 import Model

        try:
            spec = Model.FromString((path / PROGRAM).read_bytes())  # MLModel would write Manifest.json again
            block = load(spec, spec.specificationVersion, str(path / WEIGHTS)).functions["main"]
        except Exception as error:  # whatever is wrong with the folder
            raise InputError(f"Core ML cannot load {path.name}: {first_line(error)}") from error
    if missing := sorted({op.op_type for op in block.operations} - OPERATORS.keys() - {"const"}):
        raise InputError(
            f"{path.name} cannot be checked where Core ML does not run, for its {', '.join(missing[:3])}: export it on "
            "macOS, or leave coreml out."
        )
    constants = [op.outputs[0] for op in block.operations if op.op_type == "const"]
    return block, {var.name: _constant(var.val) for var in constants}


def _constant(value: Any) -> Any:
    """Floats and quantised weights as tensors, anything else as Python's own."""
    if isinstance(value, (np.ndarray, np.generic)):
        return torch.tensor(value) if value.dtype.kind == "f" or value.dtype == np.int8 else value.tolist()
    return value


def _dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    """Weights in int8, with a scale for each channel of ``axis``."""
    shape = [-1 if each == axis else 1 for each in range(quantized_data.ndim)]
    return (quantized_data.to(scale.dtype) - zero_point.reshape(shape)) * scale.reshape(shape)


def _conv(
    x: Tensor,
    weight: Tensor,
    strides: list[int],
    pad_type: str,
    pad: list[int],
    dilations: list[int],
    groups: int,
    bias: Tensor | None = None,
) -> Tensor:
    return F.conv2d(_padded(x, pad_type, pad), weight, bias, strides, 0, dilations, groups)


def _max_pool(
    x: Tensor, kernel_sizes: list[int], strides: list[int], pad_type: str, pad: list[int], ceil_mode: bool
) -> Tensor:
    return F.max_pool2d(_padded(x, pad_type, pad, -torch.inf), kernel_sizes, strides, ceil_mode=ceil_mode)


def _avg_pool(
    x: Tensor,
    kernel_sizes: list[int],
    strides: list[int],
    pad_type: str,
    pad: list[int],
    ceil_mode: bool,
    exclude_padding_from_average: bool,
) -> Tensor:
    edges = pad if pad_type == "custom" else [_none(pad_type)] * 4
    if edges[::2] != edges[1::2]:
        raise InputError("an average pool whose padding differs between sides cannot be checked here.")
    return F.avg_pool2d(x, kernel_sizes, strides, edges[::2], ceil_mode, not exclude_padding_from_average)


def _padded(x: Tensor, pad_type: str, pad: list[int], value: float = 0.0) -> Tensor:
    """Put ``pad`` [top, bottom, left, right] around x [batch, channels, height, width]."""
    return F.pad(x, [*pad[2:], *pad[:2]], value=value) if pad_type == "custom" else x[_none(pad_type) :]


def _none(pad_type: str) -> int:
    if pad_type != "valid":
        raise InputError(f"the padding {pad_type!r} cannot be checked where Core ML does not run.")
    return 0


def _pad(x: Tensor, pad: list[int], mode: str = "constant", constant_val: Tensor | None = None) -> Tensor:
    """MIL pads the last axes, named from the first of them to the last; PyTorch names the last first."""
    pairs = [pad[at : at + 2] for at in range(0, len(pad), 2)]
    edges = [edge for pair in reversed(pairs) for edge in pair]
    how = {"value": float(constant_val or 0)} if mode == "constant" else {}
    return F.pad(x, edges, {"reflect": "reflect", "replicate": "replicate"}.get(mode, "constant"), **how)


def _layer_norm(x: Tensor, axes: list[int], epsilon: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    mean, variance = x.mean(axes, keepdim=True), x.var(axes, keepdim=True, correction=0)
    return (x - mean) / (variance + epsilon).sqrt() * gamma + beta


def _batch_norm(x: Tensor, mean: Tensor, variance: Tensor, epsilon: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, eps=float(epsilon))


def _matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def _gelu(x: Tensor, mode: str) -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


def _split(x: Tensor, axis: int, split_sizes: list[int] | None = None, num_splits: int = 1) -> tuple[Tensor, ...]:
    return x.split(split_sizes, axis) if split_sizes is not None else x.chunk(num_splits, axis)


def _expand(x: Tensor, axes: list[int]) -> Tensor:
    """Put axes of length 1 at the places ``axes`` of the result."""
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _concat(values: list[Tensor], axis: int, interleave: bool = False) -> Tensor:
    return torch.stack(values, axis + 1).flatten(axis, axis + 1) if interleave else torch.cat(values, axis)


def _slice(
    x: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Tensor:
    """As NumPy's slices; a mask's True stands for an end left open, or for an axis that goes."""
    places: list[int | slice] = []
    for axis, (start, stop) in enumerate(zip(begin, end, strict=True)):
        if squeeze_mask and squeeze_mask[axis]:
            places.append(start)
            continue
        low = None if begin_mask and begin_mask[axis] else start
        high = None if end_mask and end_mask[axis] else stop
        places.append(slice(low, high, stride[axis] if stride else 1))
    return x[tuple(places)]


DTYPES = {"fp16": torch.float16, "fp32": torch.float32, "int32": torch.int32, "bool": torch.bool}
OPERATORS: dict[str, Callable[..., Any]] = {  # MIL's name: what it computes, its arguments called as MIL calls them
    "abs": lambda x: x.abs(),
    "add": lambda x, y: x + y,
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "cast": lambda x, dtype: x.to(DTYPES[dtype]),
    "clip": lambda x, alpha, beta: x.clip(float(alpha), float(beta)),
    "concat": _concat,
    "constexpr_affine_dequantize": _dequantize,
    "conv": _conv,
    "exp": lambda x: x.exp(),
    "expand_dims": _expand,
    "gelu": _gelu,
    "identity": lambda x: x,
    "layer_norm": _layer_norm,
    "leaky_relu": lambda x, alpha: F.leaky_relu(x, float(alpha)),
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "matmul": _matmul,
    "max_pool": _max_pool,
    "maximum": lambda x, y: torch.maximum(x, torch.as_tensor(y)),
    "minimum": lambda x, y: torch.minimum(x, torch.as_tensor(y)),
    "mul": lambda x, y: x * y,
    "pad": _pad,
    "pow": lambda x, y: x**y,
    "real_div": lambda x, y: x / y,
    "reduce_max": lambda x, axes, keep_dims: x.amax(axes, keep_dims),
    "reduce_mean": lambda x, axes, keep_dims: x.mean(axes, keep_dims),
    "reduce_sum": lambda x, axes, keep_dims: x.sum(axes, keep_dims),
    "relu": lambda x: x.relu(),
    "relu6": lambda x: F.relu6(x),
    "reshape": lambda x, shape: x.reshape(shape),
    "rsqrt": lambda x, epsilon: (x + epsilon).rsqrt(),
    "sigmoid": lambda x: x.sigmoid(),
    "sigmoid_hard": lambda x, alpha, beta: (x * alpha + beta).clip(0, 1),
    "silu": lambda x: F.silu(x),
    "slice_by_index": _slice,
    "softmax": lambda x, axis: x.softmax(axis),
    "softplus": lambda x: F.softplus(x),
    "split": _split,
    "sqrt": lambda x: x.sqrt(),
    "squeeze": lambda x, axes: x.squeeze(axes),
    "stack": lambda values, axis: torch.stack(values, axis),
    "sub": lambda x, y: x - y,
    "tanh": lambda x: x.tanh(),
    "thresholded_relu": lambda x, alpha: torch.where(x >= alpha, x, 0),
    "transpose": lambda x, perm: x.permute(perm),
}
