"""The device's end of a session: one process that holds the device, keeps files by content, and runs one command.

Its modules are sent through ssh and run by ``python -c``, with the standard library alone and Python 3.6 or newer, so
that a device whose Python is too old for the rest can still say so. Nothing of it outlives the connection: when the
line ends, or is silent for too long, the command and all its processes are killed, and the lock falls with the process.

Both ends send frames: a JSON object on one line, then as many bytes as its ``bytes`` says. Every request has one
answer, with ``error`` in it where it failed. While the device works it says ``alive`` every few seconds.

    WORKDIR/blobs/SHA256         content that was sent or made here; SHA256.part while it arrives
    WORKDIR/runtime/SHA256/      the program, unpacked
    WORKDIR/work/TOKEN/          one session's files; removed at its end, or by the next session after a kill
"""

from __future__ import annotations

from pathlib import Path

MODULES = ("line", "store", "job", "serve")  # in the order in which they import each other
START = """
import sys, types
if sys.version_info < (3, 6):
    sys.stderr.write("it is Python %d.%d, and 3.10 is the oldest that works" % sys.version_info[:2])
    sys.exit(126)
for name, text in {modules!r}:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
module.serve({token!r})
"""


def program(token: str) -> bytes:
    """All of it as one program, which begins to speak with the token."""
    folder = Path(__file__).parent
    texts = [(f"{__name__}.{name}", (folder / f"{name}.py").read_text(encoding="utf-8")) for name in MODULES]
    return START.format(modules=texts, token=token).encode()
