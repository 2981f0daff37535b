"""mvp-deploy devices: the machines that --on reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mvp_deploy.base.bounds import PORT, THREADS
from mvp_deploy.cli._common import Console, output_options
from mvp_deploy.cli._on import inventory_option
from mvp_deploy.cli._types import Number


@click.group()
def command() -> None:
    """Devices that are reached by ssh, for --on: which there are, and what they lack.

    \b
    Examples:
      mvp-deploy devices add pi5 pi@pi5.local --tag arm
      mvp-deploy devices doctor pi5
      mvp-deploy bench bundles/dogs --on pi5
    """


@command.command()
@click.argument("name")
@click.argument("address")
@click.option("--port", type=Number(PORT), help="ssh's.  [default: ssh's own]")
@click.option("--python", help="The Python there that has the runtime, as ~/venv/bin/python.  [default: python3]")
@click.option("--workdir", help="Where files are kept there.  [default: ~/.cache/mvp-deploy-device]")
@click.option("--threads", type=Number(THREADS), help="CPU threads of each runtime there.  [default: one per core]")
@click.option("--tag", "tags", multiple=True, help="A name for several devices (may be given again).")
@inventory_option
def add(name: str, address: str, inventory: Path, tags: tuple[str, ...], **given: Any) -> None:
    """Write the device NAME, reached as ADDRESS (user@host, or a Host of ~/.ssh/config), into devices.yaml.

    Nothing is asked of it yet: `mvp-deploy devices doctor NAME` does that.

    \b
    Example:
      mvp-deploy devices add pi5 pi@pi5.local --python '~/venv/bin/python' --tag arm
    """
    from mvp_deploy.remote.inventory import add

    told = {key: value for key, value in given.items() if value is not None}
    add(inventory, name, {"address": address, **told, **({"tags": list(tags)} if tags else {})})
    click.echo(f"{name} is in {inventory}. Next: mvp-deploy devices doctor {name}")


@command.command("list")
@inventory_option
@output_options
def list_(inventory: Path, console: Console) -> None:
    """The devices of devices.yaml; none of them is reached for it.

    \b
    Example:
      mvp-deploy devices list
    """
    from mvp_deploy.remote.inventory import load

    found = load(inventory)
    rows = [
        (name, each.address + (f":{each.port}" if each.port else ""), each.python, ", ".join(each.tags))
        for name, each in found.items()
    ]
    console.table(("device", "address", "python", "tags"), rows)
    console.result({name: each.model_dump(mode="json") for name, each in found.items()})
    console.next(f"devices doctor {' '.join(found)}" if found else "devices add NAME USER@HOST")


@command.command()
@click.argument("names", nargs=-1, required=True)
@inventory_option
@output_options
def doctor(names: tuple[str, ...], inventory: Path, console: Console) -> None:
    """Say what the devices NAMES (or tags) are, and the line to run there for what they lack. Installs nothing.

    The exit code is 6 where a device lacks what every command needs, and 7 where one is away.

    \b
    Example:
      mvp-deploy devices doctor pi5
    """
    from dataclasses import asdict

    from mvp_deploy.base.errors import MvpError, error_of, worst
    from mvp_deploy.base.findings import lines
    from mvp_deploy.remote.doctor import examine
    from mvp_deploy.remote.inventory import chosen, load
    from mvp_deploy.remote.session import on_each

    found = on_each(chosen(load(inventory), names), lambda name, device: examine(name, device, console))
    wrong: list[MvpError] = []
    for name, findings in found.items():
        if isinstance(findings, MvpError):
            wrong.append(findings)
            continue
        console.show(name)
        for line in lines(findings):
            console.show(f"  {line}")
        wrong += [error for finding in findings if (error := finding.error(name))]
    console.result(
        {
            name: {"error": str(each)} if isinstance(each, MvpError) else {"findings": [asdict(one) for one in each]}
            for name, each in found.items()
        }
    )
    if wrong:
        raise error_of("\n".join(map(str, wrong)), worst(error.code for error in wrong))
    console.next(f"bench BUNDLE --on {','.join(names)}")
