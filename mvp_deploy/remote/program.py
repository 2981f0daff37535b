"""The program as it is sent to devices: this package's own files in one zip whose bytes depend on them alone.

All of it, for which part a command needs is for Python to find: 0.7 MB, sent once for each version. Nothing of others
goes with it: a package that is right for this Python may not be for the device's.
"""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

import mvp_deploy
from mvp_deploy import __version__

SUFFIXES = (".py", ".json", ".npz")
# Python finds the version by this, before that of an mvp-deploy that the device may have installed.
METADATA = f"Metadata-Version: 2.1\nName: mvp-deploy\nVersion: {__version__}\n"


@cache
def program() -> bytes:
    """The zip."""
    house = Path(mvp_deploy.__file__).parent
    files = {
        f"mvp_deploy/{file.relative_to(house).as_posix()}": file.read_bytes()
        for folder in (house, *(house / name for name in ("exporters", "calibration")))  # links, in a source tree
        for file in folder.rglob("*")
        if file.suffix in SUFFIXES and file.is_file()
    }
    files[f"mvp_deploy-{__version__}.dist-info/METADATA"] = METADATA.encode()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED)
    return content.getvalue()
