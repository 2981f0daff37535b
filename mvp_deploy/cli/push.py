"""mvp-deploy push: a packed folder to Hugging Face."""

from __future__ import annotations

from pathlib import Path

import click

from mvp_deploy.cli._common import Console, output_options
from mvp_deploy.cli._types import PATH


@click.command()
@click.argument("folder", type=PATH)
@click.argument("repository")
@click.option("--private", is_flag=True, help="Make the repository private, where it is new.")
@output_options
def command(folder: Path, repository: str, private: bool, console: Console) -> None:
    """Upload FOLDER, made by `pack --for hf`, to the Hugging Face REPOSITORY (USER/NAME), which is made if it is new.

    The token is huggingface_hub's: of `hf auth login`, or in $HF_TOKEN. The bundle's samples and calibration images are
    uploaded, too.

    \b
    Example:
      mvp-deploy push hub/dogs me/dogs-small --private
    """
    from mvp_deploy.packs.huggingface import push

    address = push(folder, repository, private=private)
    console.show(f"Uploaded: {address}")
    console.result({"repository": repository, "address": address})
    console.next(f"download {repository} --local-dir FOLDER && mvp-deploy predict FOLDER/bundle PHOTO", program="hf")
