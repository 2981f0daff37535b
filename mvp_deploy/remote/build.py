"""A bundle's engines, built on the device that runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mvp_deploy import bundle as bundles
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.bundle.write import ENGINES
from mvp_deploy.remote.command import carry_out
from mvp_deploy.remote.inventory import Device
from mvp_deploy.remote.measured import defaults, files_of
from mvp_deploy.remote.session import session


def build(
    name: str, device: Device, bundle: Path, options: Sequence[str], reporter: Reporter
) -> tuple[list[str], MvpError | None]:
    """Build there with these options of `mvp-deploy build`, and fetch what is new into the bundle's ``built``.

    Gives the files, and what the command ended with where an engine failed.
    """
    arguments = ["build", "bundle", *defaults(device, options, "device"), *options, "--json"]
    with session(name, device, reporter) as there:
        done = carry_out(there, arguments, files_of(bundle))
        made = {file.removeprefix("bundle/"): found for file, found in done.made.items() if file.startswith("bundle/")}
        built = {file: found for file, found in made.items() if ENGINES.fullmatch(file) and not file.endswith("/.lock")}
        for file, (sha, size) in built.items():
            there.fetch(sha, size, bundles.inside(bundle, file, f"the answer of {name}"))
    return sorted(built), done.error
