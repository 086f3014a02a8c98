"""Text for whoever is looking: nobody need be, and a job goes on all the same."""

import contextlib
import io
import os
import sys
from typing import Any

__all__ = ["keep_streams"]


class _Unheard(io.TextIOBase):
    """A text stream whose failures are nobody's business.

    The reader of a pipe may be gone, the disk under a log be full, a terminal unable to show a
    path's letters. What is printed is not the job, and its record lies elsewhere.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._number = stream.fileno()
        self._pending = ""

    def write(self, text: str) -> int:
        self._pending += text
        if "\n" in text or "\r" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        encoding = self._stream.encoding or "utf-8"
        # Through no buffer, which would keep what could not be written.
        data, self._pending = self._pending.encode(encoding, "backslashreplace"), ""
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._number, data) :]

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding or "utf-8"

    @property
    def buffer(self) -> Any:
        return self._stream.buffer


def keep_streams() -> None:
    """Let stdout and stderr fail without a word, and closed ones be nothing.

    A descriptor that was closed would be given to the next file that is opened, a checkpoint for
    example, into which others then print.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        setattr(sys, name, _Unheard(stream))
