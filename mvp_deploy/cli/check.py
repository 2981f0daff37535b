"""mvp-deploy check: what a runtime will refuse, misread or run slowly in an ONNX file, without its GPU."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mvp_deploy.base.errors import InputError
from mvp_deploy.cli._common import Console, output_options
from mvp_deploy.cli._types import PATH

if TYPE_CHECKING:
    from mvp_deploy.exporters.tensorrt.check import Finding


@click.command()
@click.argument("model", type=PATH)
@click.option(
    "--for",
    "runtime",
    default="tensorrt",
    show_default=True,
    help="tensorrt (every release known here) or one of them, as tensorrt-8.6.",
)
@output_options
def command(model: Path, runtime: str, console: Console) -> None:
    """Check the ONNX file MODEL against what TensorRT releases read, and run fast. Needs no GPU.

    Each finding has its nodes, the reason and the cure. The exit code is 2 when no release asked for reads the
    file.

    \b
    Examples:
      mvp-deploy check bundles/dogs/models/pruned.int8.onnx --for tensorrt
      mvp-deploy check model.onnx --for tensorrt-8.6 --json
    """
    from mvp_deploy.exporters.tensorrt.check import ERROR, check
    from mvp_deploy.exporters.tensorrt.releases import RELEASES, release_of

    name, _, version = runtime.partition("-")
    if name != "tensorrt":
        raise InputError(f"{runtime} is not a runtime that can be checked for: write tensorrt, or tensorrt-8.6.")
    releases = [release_of(version)] if version else list(RELEASES.values())
    findings = check(model, releases)
    refused = {release for finding in findings if finding.severity == ERROR for release in finding.releases}
    read = [release.name for release in releases if release.name not in refused]
    for finding in findings:
        console.show(_text(finding, all_of=len(releases)))
    console.result({"model": str(model), "read_by": read, "findings": [asdict(finding) for finding in findings]})
    if not read:
        raise InputError(f"{model.name} is not for TensorRT {', '.join(release.name for release in releases)}.")
    console.show(f"{model.name} is read by TensorRT {', '.join(read)}.")
    in_bundle = (model.parent.parent / "bundle.json").is_file()
    if in_bundle:
        console.next(f"build {model.parent.parent}, on the machine with the GPU")
    else:
        console.next(f"--onnx={model}", program="trtexec")


def _text(finding: Finding, all_of: int) -> str:
    nodes = finding.nodes[0] if finding.nodes else "the file"
    more = f" and {len(finding.nodes) - 1} more" if len(finding.nodes) > 1 else ""
    where = f" (TensorRT {', '.join(finding.releases)})" if len(finding.releases) < all_of else ""
    return f"{finding.severity}: {nodes}{more}: {finding.reason}{where}\n  cure: {finding.cure}"
