"""mvp-deploy init: a commented deploy.yaml to start from."""

from __future__ import annotations

from pathlib import Path

import click

from mvp_deploy.base.errors import InputError
from mvp_deploy.cli._types import PATH


@click.command()
@click.argument("file", default="deploy.yaml", type=PATH)
def command(file: Path) -> None:
    """Write a commented FILE (deploy.yaml) with every key there is, for `mvp-deploy run`.

    \b
    Example:
      mvp-deploy init
    """
    from importlib import resources

    from mvp_deploy.base.files import write_text

    if file.exists():
        raise InputError(f"{file} exists: name another file, or remove it.")
    write_text(file, resources.files("mvp_deploy.pipeline").joinpath("deploy.yaml").read_text(encoding="utf-8"))
    click.echo(f"{file} written. Next: edit it, then mvp-deploy run {file} --dry-run")
