"""ExecuTorch's program (.pte) for CPUs through XNNPACK, from the PyTorch model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mvp_deploy.exporters.errors import InputError, first_line
from mvp_deploy.exporters.files import write_bytes
from mvp_deploy.exporters.protocol import Artifact, Int8Form, Source, check_precision, require


class ExecuTorchExporter:
    """fp32, one image at a time: phones do no more, and programs for any batch size run slower."""

    name = "executorch"
    suffix = ".pte"
    needs = "pip install executorch"
    precisions: tuple[str, ...] = ("fp32",)
    int8_form: Int8Form = "cpu"

    def check(self) -> None:
        require("executorch", self)

    def export(self, source: Source, path: Path) -> Artifact:
        self.check()
        check_precision(self, source.precision)
        import torch

        with quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            try:
                program = torch.export.export(source.model.eval(), (torch.zeros(1, *source.image_shape),))
                lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
                buffer = lowered.to_executorch().buffer
            except Exception as error:  # each of its passes raises what it likes
                cause = error.__cause__ or error
                reason = first_line(cause)
                raise InputError(f"ExecuTorch cannot take this model: {reason}") from error
        write_bytes(path, buffer)
        return Artifact(path, self.name, source.precision, len(buffer), ("takes one image at a time",))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's remarks about itself: nothing a user can mend."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
