"""`mvp.Bundle`: a bundle on disk, to use where it lies. Needs numpy, Pillow and the models' runtime alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from mvp_deploy import bundle as format
from mvp_deploy.api.arguments import check
from mvp_deploy.api.data import as_task
from mvp_deploy.api.progress import reporter as told
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.bundle import ModelFile
from mvp_deploy.export.engines import model_of
from mvp_deploy.inference.evaluate import Evaluation, evaluate, evaluate_prepared, part_of
from mvp_deploy.inference.model import Model, Prediction, Which, open_model

if TYPE_CHECKING:
    import torch

Image = str | os.PathLike[str] | np.ndarray


class Bundle:
    """A bundle: models with labels, preprocessing, held-out samples, and a checksum of every file.

    Args:
        folder: as `mvp_deploy.export` or ``mvp-deploy export`` wrote it. Every file is compared with its checksum.

    Raises:
        MvpError: there is none, or it is not as it was written.

    Examples:
        >>> import mvp_deploy as mvp
        >>> bundle = mvp.Bundle(bundle_folder)
        >>> bundle.classes
        ('0', '1', '2')
        >>> [file.file for file in bundle.models]
        ['models/unpruned.fp32.onnx', 'models/pruned.fp32.onnx']
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._read = format.read(folder)

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}: {', '.join(file.file for file in self.models)})"

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._read.path

    @property
    def classes(self) -> tuple[str, ...]:
        """What the models' outputs mean, in order."""
        return self._read.classes

    @property
    def models(self) -> tuple[ModelFile, ...]:
        """Each model file: target, precision, accuracy on the held-out images, parity, parameters, MACs."""
        return self._read.models

    @property
    def info(self) -> dict[str, Any]:
        """bundle.json: where the models come from."""
        return dict(self._read.info)

    @contextmanager
    def session(
        self,
        *,
        unpruned: bool = False,
        target: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
        device: torch.device | str = "cpu",
    ) -> Iterator[Model]:
        """One of the models, loaded once for many images.

        Args:
            unpruned: the model that the bundle's own is compared with.
            target: ``onnx``, ``openvino``, …, or ``engine`` with device="cuda"; the bundle's first by default.
            precision: ``fp32``, ``fp16`` or ``int8``; the bundle's first by default.
            threads: of the runtime on the CPU; one a core by default.
            device: 'cpu', 'cuda', 'cuda:N' or a torch.device.

        Raises:
            MvpError: the bundle has no such model, or its runtime or device is missing.

        Examples:
            >>> import mvp_deploy as mvp, numpy
            >>> images = [numpy.zeros((40, 30, 3), numpy.uint8)] * 2
            >>> with mvp.Bundle(bundle_folder).session(precision="fp32") as model:
            ...     model.logits(images).shape, len(model.predict(images))
            ((2, 3), 2)
        """
        check(threads=threads)
        where = str(device)
        file = model_of(self._read, Which(unpruned, target, precision), where)
        with open_model(self._read, file, threads=threads, device=where) as model:
            yield model

    @overload
    def predict(self, images: Image, **session: Any) -> Prediction: ...
    @overload
    def predict(self, images: Sequence[Image], **session: Any) -> list[Prediction]: ...
    def predict(self, images: Image | Sequence[Image], **session: Any) -> Prediction | list[Prediction]:
        """What an image shows, or each of several.

        Args:
            images: image files; uint8 RGB arrays [height, width, 3] of any size, prepared as the bundle says; or arrays
                of floats [channels, height, width] that are the model's input already. One, or a sequence.
            session: which model, as `session` takes it.

        Returns:
            For each image ``label``, ``probability``, ``best(count)``, and ``probabilities`` float32 [classes].

        Raises:
            MvpError: an image cannot be read (it is named), or as `session`.

        Examples:
            >>> import mvp_deploy as mvp, numpy
            >>> found = mvp.Bundle(bundle_folder).predict(numpy.zeros((40, 30, 3), numpy.uint8))
            >>> found.label in ("0", "1", "2"), found.probabilities.shape
            (True, (3,))
        """
        one = isinstance(images, (str, os.PathLike, np.ndarray))
        many: Sequence[Any] = [images] if one else images  # type: ignore[assignment, list-item]
        with self.session(**session) as model:
            found = model.predict([x if isinstance(x, np.ndarray) else Path(x) for x in many])
        return found[0] if one else found

    def evaluate(
        self,
        data: Any,
        *,
        part: Literal["held-out", "test", "train", "all"] = "held-out",
        reporter: Reporter | None = None,
        **session: Any,
    ) -> Evaluation:
        """How accurate a model is on labelled images, on this machine.

        Args:
            data: a folder, an .npz, a task's name or a Task, whose classes are matched by name; or batches
                ``(images, labels)`` of the model's input, such as a DataLoader gives, with labels in the order of
                ``classes``.
            part: which images of a task: ``held-out``, ``test`` (of train/, val/ and test/), ``train`` or ``all``.
            reporter: receives messages and progress; by default the one that `mvp_deploy.progress` set.
            session: which model, as `session` takes it.

        Returns:
            ``accuracy`` with its 95 % interval, ``confusion`` int64 [classes, classes], ``per_class()``.

        Raises:
            MvpError: the data have a class that the model does not know, an image cannot be read, or as `session`.

        Examples:
            >>> import mvp_deploy as mvp
            >>> found = mvp.Bundle(bundle_folder).evaluate("digits#0,1,2")
            >>> 0.0 <= found.accuracy.low <= found.accuracy.value <= found.accuracy.high <= 1.0
            True
        """
        task = as_task(data)
        with self.session(**session) as model, (reporter or told()).progress("evaluating") as step:
            if task is None:
                return evaluate_prepared(model, data)
            return evaluate(model, *part_of(task, part), step)
