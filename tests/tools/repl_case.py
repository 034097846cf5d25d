# SPDX-License-Identifier: MIT
"""What tests of the chat have in common."""

import tempfile
from pathlib import Path

from cli import BINARY, SCRATCH, TINY, CliTest, environment
from pty_chat import PtyChat

EDITS_LINES = b"el_wgets" in Path(BINARY).read_bytes()


class ReplCase(CliTest):
    def setUp(self):
        self.state = Path(tempfile.mkdtemp(dir=SCRATCH, prefix=""))

    def chat(self, *args: str, model: Path = TINY, rows: int = 24, columns: int = 80,
             **env: str) -> PtyChat:
        changed = environment(**{"TERM": "xterm", "XDG_STATE_HOME": str(self.state), **env})
        for name in ["VISUAL", "EDITOR", "NO_COLOR"]:
            if name not in env:
                changed.pop(name, None)
        return PtyChat([BINARY, "-m", str(model), "-q", "--temp", "0", *args], changed, rows, columns)

    def history(self) -> str:
        return (self.state / "deepseek-run" / "history").read_text()

    def written(self, name: str, text: str) -> Path:
        path = self.state / name
        path.write_text(text)
        return path
