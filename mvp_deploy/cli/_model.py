"""The options of commands that run one model of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from mvp_deploy.base.bounds import THREADS
from mvp_deploy.base.errors import InputError
from mvp_deploy.cli._on import given
from mvp_deploy.cli._types import PRECISIONS, Device, Number

if TYPE_CHECKING:
    from mvp_deploy.bundle import Bundle, ModelFile
    from mvp_deploy.inference.model import Which


@dataclass(frozen=True)
class Asked:
    """Which model of a bundle, and where it runs."""

    which: Which
    threads: int | None
    device: str

    def opened(self, bundle: Bundle) -> tuple[ModelFile, str]:
        """The file, and the device it runs on: engines need a GPU, and take the first if none is named.

        Raises:
            MvpError: the bundle has no such file, or an engine is asked for on other machines.
        """
        from mvp_deploy.export.engines import ENGINE, model_of

        engine = self.which.target == ENGINE
        if engine and given("on"):
            raise InputError("An engine runs on the machine that built it: run this command there, without --on.")
        where = "auto" if engine and given("device") is None else self.device
        return model_of(bundle, self.which, where), where


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--unpruned, --target, --precision, --threads and --device; the command receives ``asked: Asked``."""

    @wraps(function)
    def call(
        unpruned: bool, target: str | None, precision: str | None, threads: int | None, device: str, **rest: Any
    ) -> Any:
        from mvp_deploy.inference.model import Which

        return function(asked=Asked(Which(unpruned, target, precision), threads, device), **rest)

    for option in (
        click.option("--device", default="cpu", show_default=True, type=Device(), help="cpu, cuda or cuda:N."),
        click.option("--threads", type=Number(THREADS), help="CPU threads.  [default: one per core]"),
        click.option(
            "--precision", type=click.Choice(PRECISIONS), help="fp32, fp16 or int8.  [default: the bundle's first]"
        ),
        click.option("--target", help="onnx, openvino, …; engine: what `build` made.  [default: the bundle's first]"),
        click.option("--unpruned", is_flag=True, help="The unpruned model instead of the pruned one."),
    ):
        call = option(call)
    return call
