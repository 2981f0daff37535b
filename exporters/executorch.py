"""ExecuTorch's program (.pte) for CPUs through XNNPACK, from the PyTorch model."""

from __future__ import annotations

from pathlib import Path

from mvp_deploy.exporters.errors import first_line
from mvp_deploy.exporters.files import write_bytes
from mvp_deploy.exporters.protocol import OwnExporter, Source, converting
from mvp_deploy.exporters.silence import quiet


class ExecuTorchExporter(OwnExporter):
    """fp32, one image at a time: phones do no more, and programs for any batch size run slower."""

    name = "executorch"
    suffix = ".pte"
    needs = "pip install 'mvp-deploy[executorch]'"
    modules = ("executorch",)
    notes = ("takes one image at a time",)

    def write(self, source: Source, path: Path) -> None:
        import torch

        with quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            with converting("ExecuTorch", lambda error: first_line(error.__cause__ or error)):
                program = torch.export.export(source.model.eval(), (torch.zeros(1, *source.image_shape),))
                lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
                buffer = lowered.to_executorch().buffer
        write_bytes(path, buffer)
