"""What runs on a device for `devices doctor`: the board and its state, as a file in the current folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from mvp_deploy.base.board import board, state


def main() -> None:
    Path("look.json").write_text(json.dumps({"board": asdict(board()), "state": asdict(state())}), encoding="utf-8")
