"""The command `mmsearch`: errors as one line and an exit status. What it imports late may be interrupted, too."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

from mmsearch.cli import exits

_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class _CtrlC:
    """Raises Interrupted, and remembers: C code that it hits, as an import may be, makes another error of it."""

    def __init__(self) -> None:
        self.pressed = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self.pressed = True
        raise exits.Interrupted


def main() -> None:
    """Run the command line and exit."""
    ctrl_c = _CtrlC()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started us has it ignored
        signal.signal(signal.SIGINT, ctrl_c)
    # Importing makes many objects and no garbage: without the collector a cold query is about 5 % faster. A query is
    # over before it could be missed, `index` switches it on again.
    gc.disable()
    if not sys.warnoptions:  # of Pillow about damaged files, say: what is wrong with a picture is said in a sentence
        warnings.simplefilter("ignore")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - it lives as long as the process
    try:
        status = _run()
    except (Exception, exits.Interrupted) as error:
        if isinstance(error, exits.Interrupted) or ctrl_c.pressed:
            _complain("interrupted: what was committed is kept, run the same command again to go on.")
            raise SystemExit(exits.INTERRUPTED) from None
        _tell(error)
        raise
    raise SystemExit(status)


def _run() -> int:
    """Run the command and return its exit status."""
    from mmsearch.cli.app import app

    try:
        return int(app(prog_name="mmsearch", standalone_mode=False) or 0)
    finally:
        sys.stdout.flush()


def _tell(error: Exception) -> None:
    """Write the sentence of an error that may happen and exit with its status; return for one that may not."""
    from mmsearch.cli.app import USAGE_ERROR
    from mmsearch.cli.output import leave_closed_pipe
    from mmsearch.errors import MmsearchError

    if isinstance(error, BrokenPipeError):
        leave_closed_pipe()
    if isinstance(error, USAGE_ERROR):
        _complain_of_usage(error)
        raise SystemExit(exits.USAGE) from None
    if isinstance(error, MmsearchError | OSError) and not _debugging():
        _complain(" ".join(str(error).split()) if isinstance(error, MmsearchError) else _of_the_system(error))
        raise SystemExit(exits.status_of(error)) from None


def _complain(sentence: str) -> None:
    from mmsearch.cli.output import note

    note(f"mmsearch: {sentence}")


def _complain_of_usage(error: Any) -> None:
    """Write what is wrong with the arguments; `mmsearch` alone shows its help, which is such an error too."""
    message = error.format_message()
    if "\n" in message:
        error.show()
        return
    command = error.ctx.command_path if error.ctx else "mmsearch"
    _complain(f"{message.rstrip('.')} (see '{command} --help').")


def _of_the_system(error: OSError) -> str:
    place = f" ({error.filename})" if error.filename else ""
    advice = "look at its disk"
    if exits.is_disk_full(error):
        advice = "free some space on its disk, then run the same command again"
    elif error.errno in _NOT_ALLOWED:
        advice = "look at its permissions, or name another place"
    return f"{error.strerror or error}{place}: {advice}; what was committed before is safe."


def _debugging() -> bool:
    from mmsearch.config import Settings
    from mmsearch.errors import MmsearchError

    try:
        return Settings.from_environment().debug
    except MmsearchError:
        return False


if __name__ == "__main__":
    main()
