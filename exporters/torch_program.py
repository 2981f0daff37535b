"""PyTorch's own program (.pt2): loads with torch alone; beside it the weights under the module's own names."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from mvp_deploy.exporters.files import write_bytes
from mvp_deploy.exporters.protocol import OwnExporter, Source, converting

TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn")  # they name paths and differ between runs


class TorchExporter(OwnExporter):
    """fp32, any batch size. ``torch.export.load(file).module()`` computes it; nothing in the file is pickled."""

    name = "torch"
    suffix = ".pt2"
    needs = "pip install 'mvp-deploy[train]'"
    modules = ("torch", "safetensors")

    def write(self, source: Source, path: Path) -> None:
        import torch
        from safetensors.torch import save

        example = torch.zeros(2, *source.image_shape)  # a batch of one would be taken for a constant
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torch
            with converting("torch.export"):
                program = torch.export.export(
                    source.model.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
                )
            program.example_inputs = None  # the one thing that torch would pickle
            for node in program.graph.nodes:
                for trace in TRACES:
                    node.meta.pop(trace, None)
            buffer = io.BytesIO()  # not a file, whose name would go into the archive
            torch.export.save(program, buffer)
            write_bytes(path, buffer.getvalue())
        weights = {name: tensor.detach().clone() for name, tensor in source.model.state_dict().items()}
        write_bytes(path.with_suffix(".safetensors"), save(weights))
