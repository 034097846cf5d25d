# SPDX-License-Identifier: MIT
"""Drives a chat through a pseudo-terminal, as a person would. Python's standard library only."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

from cli import SANITIZED

PATIENCE = 60 if SANITIZED else 20  # seconds: a long prompt takes 12 of a core under sanitizers
PROMPT = r"(?:^|\n)> $"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()=>][A-Z0-9]?|[\x00\x07]")
PASTE = "\x1b[200~{}\x1b[201~"


def plain(text: str) -> str:
    """What a person sees, nearly: without the sequences that move the cursor or set colours."""
    text = CONTROL.sub("", text).replace(" \b", "")  # how libedit goes on in the next row
    return re.sub(r"[^\n]*\r+(?=[^\n\r])", "", text.replace("\r\r\n", "\n").replace("\r\n", "\n"))


class PtyChat:
    def __init__(self, line: list[str], env: dict[str, str], rows: int = 24, columns: int = 80):
        self.raw = ""  # all that the program wrote
        self.seen = 0  # how much of it was looked at
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            for number in [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]:
                signal.signal(number, signal.SIG_DFL)
            os.execve(line[0], line, env)
        self.resize(rows, columns)

    def __enter__(self) -> "PtyChat":
        return self

    def __exit__(self, *_) -> None:
        self.close()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, timeout: float) -> bool:
        """Reads what there is; whether there was something."""
        if not select.select([self.fd], [], [], timeout)[0]:
            return False
        try:
            part = os.read(self.fd, 65536)
        except OSError:  # how Linux says that the other end is closed
            part = b""
        self.raw += part.decode(errors="replace")
        return bool(part)

    def expect(self, pattern: str, timeout: float = PATIENCE) -> str:
        """Waits until what came since the last call matches; gives what was seen up to its end."""
        end = time.monotonic() + timeout
        while True:
            text = plain(self.raw[self.seen:])
            if re.search(pattern, text):
                self.seen = len(self.raw)
                return text
            left = end - time.monotonic()
            if left <= 0 or (not self.read(left) and left > 0.01 and self.ended()):
                raise AssertionError(f"no {pattern!r} in {text!r}")

    def prompt(self) -> str:
        """Waits for the prompt; what was seen before it."""
        return re.sub("> $", "", self.expect(PROMPT))

    def send(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(self.fd, data[:512]):]
            self.read(0)

    def ask(self, text: str) -> str:
        """Sends a line; what the program says until the next prompt, without the line itself."""
        self.send(text + "\r")
        return self.prompt().split("\n", 1)[1].strip("\n")

    def interrupt(self) -> None:
        self.send("\x03")

    def ended(self) -> bool:
        if self.pid:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid, self.status = 0, status
        return self.pid == 0

    def wait(self, timeout: float = 10) -> int:
        """The exit code, or minus the signal."""
        end = time.monotonic() + timeout
        while not self.ended():
            if time.monotonic() > end:
                raise AssertionError(f"still running; the end of what it wrote: {self.raw[-500:]!r}")
            if self.fd >= 0:
                self.read(0.05)
            else:
                time.sleep(0.02)
        while self.fd >= 0 and self.read(0):
            pass
        return os.waitstatus_to_exitcode(self.status)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
