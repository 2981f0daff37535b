"""mvp-deploy verify: is a bundle as it was written?"""

from __future__ import annotations

from pathlib import Path

import click

from mvp_deploy.base.errors import InputError
from mvp_deploy.cli._common import Console, output_options
from mvp_deploy.cli._types import PATH


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--public-key", type=PATH, help="Ask for a signature by this key's owner, too.")
@output_options
def command(bundle: Path, public_key: Path | None, console: Console) -> None:
    """Check every file of BUNDLE against its manifest, and what the bundle says of its models.

    Needs only numpy and click, except for signatures.

    Your own files in extra/ may change, except those that `export --extra` put there.

    Changed, missing and added files are listed, and the exit code is then 2, as for a model outside the bundle, a
    tolerance that no model needs, and a signature that is missing or wrong.

    \b
    Examples:
      mvp-deploy verify bundles/dogs
      mvp-deploy verify bundles/dogs --public-key team.pub
    """
    from mvp_deploy.bundle import read, uncovered, untried, verify

    problems = verify(bundle)
    # a rewritten manifest hides what bundle.json says
    remarks = [] if problems else untried(read(bundle).models)
    added = uncovered(bundle)
    found = {"whole": not problems, "problems": problems, "uncovered": added, "untried": remarks}
    console.result({"bundle": str(bundle), **found})
    for problem in problems:
        console.show(problem)
    if added:
        console.show(f"Neither manifest nor signature covers {len(added)} of the files in extra/, such as {added[0]}.")
    if problems:
        raise InputError(f"{bundle} is not as it was written: copy it again, or export it again.")
    for remark in remarks:
        console.show(remark)
    if public_key is not None:
        from mvp_deploy.bundle import signing

        signing.verify(bundle, public_key)
    console.show(f"{bundle} is whole" + ("." if public_key is None else f", and signed by the owner of {public_key}."))
    console.next(f"bench {bundle}")
