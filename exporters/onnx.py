"""A PyTorch image classifier as one ONNX file."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvp_deploy.exporters.errors import InputError, MvpError, ParityError, first_line
from mvp_deploy.exporters.files import atomic_write

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 18
INPUT, OUTPUT = "input", "logits"
PROTOBUF_LIMIT = 2**31 - 2**20  # bytes a single ONNX file can hold, less room for the graph itself


def export_onnx(
    model: torch.nn.Module, example: torch.Tensor, path: str | os.PathLike[str], metadata: Mapping[str, Any]
) -> Path:
    """Write ``model`` (as in evaluation) to one file for any batch size; equal inputs give equal bytes.

    Args:
        model: logits [b, classes] from float32 images [b, 3, H, W]; it is copied to the CPU, not changed.
        example: such an image batch; only its [3, H, W] matters.
        metadata: stored as the file's metadata, each value as JSON (class names, preprocessing, ...).

    Raises:
        MvpError: the model cannot be exported, is over 2 GB, or the result fails onnx.checker.
    """
    import onnx

    model = copy.deepcopy(model).cpu().eval()
    _refuse_over_limit(model)
    proto = _translate(model, example)
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=json.dumps(value, sort_keys=True))
    try:
        with atomic_write(path) as unchecked:
            unchecked.write_bytes(proto.SerializeToString(deterministic=True))
            onnx.checker.check_model(str(unchecked), full_check=True)
    except onnx.checker.ValidationError as error:
        raise ParityError(f"the exported ONNX file is not valid: {error}") from error
    return Path(path)


def _translate(model: torch.nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    """The ONNX model, with nothing in it that differs between equal models."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from mvp_deploy.exporters.translations import TRANSLATIONS

    # torch.export forgets half way which kernel attention had, and a view that fitted its strides then fits no more
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")  # deprecations inside torch: nothing a user can mend
        try:
            program = torch.onnx.export(
                model,
                (torch.zeros(2, *example.shape[1:]),),  # a batch of one would be taken for a constant
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
                custom_translation_table=TRANSLATIONS,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = first_line(error.__cause__ or error)
            raise InputError(
                f"{type(model).__name__} cannot be exported to ONNX: {reason} (--debug shows where)."
            ) from error
    if program is None:
        raise MvpError("torch.onnx.export gave no program.")
    proto = program.model_proto
    _drop_traces(proto)
    return proto


def _refuse_over_limit(model: torch.nn.Module) -> None:
    size = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    if size > PROTOBUF_LIMIT:
        raise InputError(f"the weights take {size / 2**30:.1f} GiB and one ONNX file holds 2: use a smaller backbone.")


def _drop_traces(proto: Any) -> None:
    """Remove stack traces: they name paths of this machine, and make equal models differ in their bytes.

    onnx-ir's ClearMetadataAndDocStringPass leaves those of values.
    """
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        del value.metadata_props[:]
        value.doc_string = ""
