"""Packing one model of a bundle for Triton or DeepStream, or all of it for Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mvp_deploy.base.errors import InputError
from mvp_deploy.base.files import writing_errors
from mvp_deploy.base.folders import atomic_folder
from mvp_deploy.base.formats import read_json
from mvp_deploy.bundle import Bundle, ModelFile
from mvp_deploy.bundle.format import CURE
from mvp_deploy.packs import deepstream, huggingface, triton
from mvp_deploy.packs.subject import Subject
from mvp_deploy.tasks import Preprocessing

KINDS: dict[str, Callable[[Subject, Path], list[str]]] = {
    "triton": triton.fill,
    "deepstream": deepstream.fill,
    "hf": huggingface.fill,
}
FLOATS = (("onnx", "fp32"), ("onnx", "fp16"))  # of ONNX Runtime's files, what TensorRT takes too
SUFFIXES = {"triton": (".onnx", ".xml"), "deepstream": (".onnx",), "hf": ("",)}


def pack(bundle: Bundle, kind: str, out: Path, *, file: str | None = None, name: str | None = None) -> list[str]:
    """Write the folder ``out`` and give sentences on what its user must know.

    Args:
        kind: triton, deepstream or hf.
        file: which of the bundle's models, as bundle.json names it; None takes the first that fits, pruned first.
        name: the model's name there; None takes the task's.

    Raises:
        MvpError: (INPUT) ``out`` is in the way, or the bundle has no such model or none of a fitting kind.
    """
    chosen = _chosen(bundle, kind, file)
    how = read_json(bundle.path / "preprocessing.json", Preprocessing, cure=CURE)
    subject = Subject(bundle, chosen, how, _plain(name or _title(bundle)), out)
    with atomic_folder(out, partial(_refuse_content, out), Path.rmdir) as folder, writing_errors(out):
        return KINDS[kind](subject, folder)


def _chosen(bundle: Bundle, kind: str, file: str | None) -> ModelFile:
    fitting = [each for each in bundle.models if each.file.endswith(SUFFIXES[kind])]
    if kind == "deepstream":  # TensorRT's own form first: its int8 is refused in the other
        fitting = [each for each in fitting if each.target == "tensorrt" or (each.target, each.precision) in FLOATS]
        fitting.sort(key=lambda each: each.target != "tensorrt")
    fitting.sort(key=lambda each: each.model != "pruned")
    named = [each for each in fitting if file in (None, each.file)]
    if not named:
        there = ", ".join(each.file for each in fitting) or "none"
        target = "tensorrt" if kind == "deepstream" else "onnx"
        wanted = f"no model {file} that {kind} takes" if file else f"no model that {kind} takes"
        raise InputError(f"{bundle.path} has {wanted}; it has of those: {there}. Export with --target {target}, too.")
    return named[0]


def _title(bundle: Bundle) -> str:
    source, _, classes = str(bundle.info.get("task", {}).get("name") or bundle.path.name).partition("#")
    return Path(source).stem or classes


def _plain(name: str) -> str:
    """A name that folders, Triton and Hugging Face take."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "model"


def _refuse_content(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} exists: choose another --out, or move it away.")
