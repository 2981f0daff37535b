"""python sampled.py OUT.json ARGUMENTS...: `mvp-deploy ARGUMENTS`, and where its seconds went.

A thread looks at the main thread's stack fifty times a second and counts the seconds by the innermost function of this
package (`at`), by every function of it that was on the stack (`under`) and by the innermost function of all (`leaf`).
The file is written every five seconds, so that a command that is cut off has told where it was. Work that a GPU was
given is counted where its result is waited for.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType

PERIOD, KEPT_EVERY, TOLD = 0.02, 5.0, 30
PACKAGE = str(Path(__file__).parents[2] / "mvp_deploy")


class Samples:
    def __init__(self, out: Path) -> None:
        self.out, self.start = out, time.monotonic()
        self.counts: dict[str, dict[str, float]] = {kind: defaultdict(float) for kind in ("at", "under", "leaf")}

    def look(self, frame: FrameType | None, seconds: float) -> None:
        """Count ``seconds`` for what runs in ``frame``."""
        ours: list[str] = []
        if frame is not None:
            self.counts["leaf"][_name(frame)] += seconds
        while frame is not None:
            if frame.f_code.co_filename.startswith(PACKAGE):
                ours.append(_name(frame))
            frame = frame.f_back
        for name in ours[:1]:
            self.counts["at"][name] += seconds
        for name in set(ours):
            self.counts["under"][name] += seconds

    def write(self) -> None:
        found = {
            kind: {
                name: round(seconds, 2) for name, seconds in sorted(counts.items(), key=lambda each: -each[1])[:TOLD]
            }
            for kind, counts in self.counts.items()
        }
        self.out.write_text(json.dumps({"seconds": round(time.monotonic() - self.start, 1), **found}, indent=1))

    def forever(self, thread: int) -> None:
        before = kept = time.monotonic()
        while True:
            time.sleep(PERIOD)
            now = time.monotonic()
            self.look(sys._current_frames().get(thread), now - before)
            before = now
            if now - kept > KEPT_EVERY:
                self.write()
                kept = now


def _name(frame: FrameType) -> str:
    code = frame.f_code
    return f"{'/'.join(Path(code.co_filename).parts[-2:])}:{code.co_name}"


def main() -> None:
    out = Path(sys.argv.pop(1))
    samples = Samples(out)
    threading.Thread(target=samples.forever, args=(threading.get_ident(),), daemon=True).start()
    try:
        from mvp_deploy.cli import main as command

        command()
    finally:
        samples.write()


if __name__ == "__main__":
    main()
