"""mvp-deploy verify: is a bundle as it was written?"""

from __future__ import annotations

from pathlib import Path

import click

from mvp_deploy.cli._common import Console, output_options
from mvp_deploy.errors import DeployError


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@output_options
def command(bundle: Path, console: Console) -> None:
    """Check every file of BUNDLE against its manifest. Needs numpy and click alone.

    Changed, missing and added files are listed, and the exit code is then 2.

    \b
    Example:
      mvp-deploy verify bundles/dogs
    """
    from mvp_deploy.bundle import verify

    problems = verify(bundle)
    console.result({"bundle": str(bundle), "whole": not problems, "problems": problems})
    for problem in problems:
        console.show(problem)
    if problems:
        raise DeployError(f"{bundle} is not as it was written: copy it again, or export it again.")
    console.show(f"{bundle} is whole.")
