"""PyTorch's programs (.pt2, torch.export) on the CPU. They may hold pickles and compiled code; such are refused."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from mvp_deploy.base.errors import InputError, first_line
from mvp_deploy.benchmark.runner import require_cpu

HARMLESS = re.compile(  # the members that torch reads without unpickling and without loading libraries
    r"[^/]+/(models/model\.json|data/(weights/weight_\d+|constants/tensor_\d+|(weights|constants)/model_\w+_config\.json"
    r"|sample_inputs/model\.pt)|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id))"
)
MAX_JSON = 64 << 20


class ProgramRunner:
    """A program for any batch size, float32."""

    def __init__(self, path: Path, threads: int | None) -> None:
        refuse_code(path)
        try:
            program = torch.export.load(path)
            self._module = program.module()
            (name,) = program.graph_signature.user_inputs
            (node,) = [node for node in program.graph.nodes if node.name == name]
            channels, height, width = map(int, node.meta["val"].shape[1:])
        except Exception as error:  # it raises types of its own
            raise InputError(f"torch.export cannot load {path.name}: {first_line(error)}") from error
        self.image_shape = channels, height, width
        self._threads = threads or torch.get_num_threads()
        self._batch = self._logits = torch.empty(0)
        self.name = "torch.export CPU"
        self.details: Mapping[str, str] = {
            "runtime": f"torch {torch.__version__}",
            "device": "CPU",
            "threads": str(self._threads),
        }

    def prepare(self, batch: np.ndarray) -> None:
        self._batch = torch.from_numpy(batch)

    @torch.inference_mode()
    def run(self) -> None:
        if torch.get_num_threads() != self._threads:  # one setting for the whole process, and others may time too
            torch.set_num_threads(self._threads)
        self._logits = self._module(self._batch)

    def output(self) -> np.ndarray:
        logits: np.ndarray = self._logits.numpy()
        return logits

    def close(self) -> None:
        del self._module


def open_runner(path: Path, *, threads: int | None, device: str) -> ProgramRunner:
    require_cpu(device, ".pt2 files run")
    return ProgramRunner(path, threads)


def refuse_code(path: Path) -> None:
    """Refuse a program in which torch would unpickle something or load a library.

    Raises:
        MvpError: (INPUT) it has such members, or is not a program.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len({each.filename for each in members}) < len(members):
                raise ValueError("a member is in it twice")
            strange = [each.filename for each in members if not HARMLESS.fullmatch(each.filename)]
            strange += [each.filename for each in members if each.filename.endswith(".pt") and each.file_size]
            for each in members:
                if each.filename.endswith("_config.json"):
                    if each.file_size > MAX_JSON:
                        raise ValueError(f"{each.filename} has {each.file_size} bytes")
                    entries = json.loads(archive.read(each))["config"].values()
                    strange += [each.filename for entry in entries if entry["use_pickle"]]
    except Exception as error:  # zipfile and zlib raise whatever a broken file drives them to
        raise InputError(f"{path.name} is not a program of torch.export ({error}): export it again.") from error
    if strange:
        raise InputError(
            f"{path.name} holds what torch would run or unpickle ({strange[0]}): export it with mvp-deploy."
        )
