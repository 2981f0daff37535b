"""mvp-deploy structure: what can be removed from a backbone, and what cannot and why."""

from __future__ import annotations

import time

import click

from mvp_deploy.base.bounds import IMAGE_SIZE
from mvp_deploy.cli._common import Console, output_options
from mvp_deploy.cli._types import Number


@click.command()
@click.argument("backbone")
@click.option(
    "--image-size", type=Number(IMAGE_SIZE), help="Height and width of the input.  [default: the backbone's own]"
)
@click.option("--allow-inexact", is_flag=True, help="Also units that an operator mixes with others (GRN, ECA, gates).")
@click.option("--frozen", "show_frozen", is_flag=True, help="List every dimension that must stay whole, and why.")
@output_options
def command(backbone: str, image_size: int | None, show_frozen: bool, allow_inexact: bool, console: Console) -> None:
    """Map the unit groups of timm's BACKBONE: what MVP can keep or remove in it.

    The backbone is built with random weights: its structure does not depend on them.

    \b
    Example:
      mvp-deploy structure resnet50
      mvp-deploy structure swin_tiny_patch4_window7_224 --frozen
    """
    from dataclasses import asdict

    import torch

    from mvp_deploy import backbones
    from mvp_deploy.structure import analyze

    recipe, state = backbones.create(backbone, image_size=image_size)
    model = backbones.build(recipe, state, num_classes=1000)
    start = time.perf_counter()
    structure = analyze(model, torch.zeros(1, *recipe.preprocessing.input_size), allow_inexact=allow_inexact)
    seconds = time.perf_counter() - start
    cost = structure.cost()
    console.result(
        {
            "backbone": backbone,
            "params": cost.params,
            "macs": cost.macs,
            "seconds": round(seconds, 3),
            "groups": [asdict(group) for group in structure.groups],
            "blocks": [block.name for block in structure.blocks],
            "frozen": [asdict(frozen) for frozen in structure.frozen],
            "inexact": list(structure.inexact),
            "unknown_operators": dict(structure.unknown),
        }
    )
    console.table(
        ["unit group", "kind", "units", "lies in"],
        [(g.name, g.kind, g.size, f"{len(g.members)} tensor dimensions") for g in structure.groups],
    )
    console.show(f"\n{cost.params:,} parameters, {cost.macs:,} multiply-accumulates, analysed in {seconds:.2f} s.")
    if structure.blocks:
        names = ", ".join(block.name for block in structure.blocks)
        console.show(f"Residual branches that can be removed whole: {names}.")
    if structure.inexact:
        console.show(f"Removed inexactly, for what mixes them: {', '.join(structure.inexact)}.")
    if structure.unknown:
        console.show(f"Operators without a rule (what they touch stays whole): {', '.join(structure.unknown)}.")
    if show_frozen:
        console.table(
            ["tensor", "dim", "size", "must stay whole because of"],
            [(f.member.tensor, f.member.dim, f.size, "; ".join(f.why)) for f in structure.frozen],
        )
    console.next(f"shrink DATA --model {backbone} --pretrained --macs 0.5 --out OUT")
