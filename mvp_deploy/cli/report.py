"""mvp-deploy report: measurements from anywhere in one table, a column for each machine."""

from __future__ import annotations

from pathlib import Path

import click

from mvp_deploy.cli._common import Console, output_options
from mvp_deploy.cli._types import PATH, Output


@click.command()
@click.argument("results", nargs=-1, required=True, type=PATH)
@click.option("--out", type=Output(".html", ".htm"), help="Write the table as a page (.html) as well.")
@output_options
def command(results: tuple[Path, ...], out: Path | None, console: Console) -> None:
    """Show RESULTS side by side: bundles with what was measured on devices, and files that `bench --out` wrote.

    A device that was away is a column without numbers. Measurements of different bundles are said to be that.

    \b
    Examples:
      mvp-deploy report bundles/dogs
      mvp-deploy report here.json board.json --out devices.html
    """
    from mvp_deploy.base.files import write_text
    from mvp_deploy.report.merge import merge
    from mvp_deploy.report.page import Section, Table, page

    found = merge(results)
    header, rows = found.table()
    console.table(header, rows)
    console.show("")
    for line in found.remarks():
        console.show(line)
    console.result({"columns": header, "rows": rows, "remarks": found.remarks()})
    if out is not None:
        text = " ".join(f"{line}." for line in found.remarks())
        write_text(
            out, page("Measurements", ", ".join(map(str, results)), [Section("By machine", text, Table(header, rows))])
        )
    else:
        console.next(f"report {' '.join(map(str, results))} --out DEVICES.html")
