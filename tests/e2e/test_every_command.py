"""Wrong arguments, numbers that are none and Ctrl-C, in every command."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import get_args, get_type_hints

import pytest

from mmsearch.cli.app import app
from mmsearch.cli.main import main
from mmsearch.config import Settings
from mmsearch.encoders import models
from tests.e2e.situations import Done

ARGUMENTS = {
    "index": ["/x"],
    "query": ["x"],
    "explain": ["x", "/x.jpg"],
    "train": ["/x", "--name", "x"],
    "merge": ["a", "b"],
    "remove": ["/x"],
    "relocate": ["/x", "/y"],
    "export": ["/x"],
    "import": ["/x"],
}
"""What each command needs at least."""

COMMANDS = {command.name: command.callback for command in app.registered_commands}


def numbers() -> list[tuple[str, str]]:
    """Return every command with each of its options that takes a number."""
    found = []
    for name, callback in COMMANDS.items():
        for hint in get_type_hints(callback, include_extras=True).values():
            kind, *told = get_args(hint) or (hint,)
            if told and {int, float} & {kind, *get_args(kind)}:
                words = [word for word in (told[0].default, *(told[0].param_decls or ())) if isinstance(word, str)]
                found.append((name, words[0]))
    return found


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Done]]:
    """Return the command, run in this process: there are many commands, and each start takes a while."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["mmsearch", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return Done(arguments, int(caught.value.code or 0), out, err)

    before = signal.getsignal(signal.SIGINT)
    yield run
    signal.signal(signal.SIGINT, before)
    gc.enable()


def is_one_sentence(text: str) -> bool:
    return re.fullmatch(r"mmsearch: [^\n]+\n", text) is not None


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_arguments_of_every_command(name: str, run_here: Callable[..., Done]) -> None:
    assert run_here(name, "--help").returncode == 0
    attempts = [["--frobnicate"], ["--collection"] if name not in ("merge", "models") else ["--json=maybe"]]
    attempts += [ARGUMENTS[name][:-1]] if name in ARGUMENTS and name != "index" else []  # which needs none again
    for arguments in attempts:
        done = run_here(name, *arguments)
        assert (done.returncode, done.stdout) == (2, ""), (arguments, done)
        assert is_one_sentence(done.stderr)
        assert re.search(rf"\(see 'mmsearch( {name})? --help'\)\.$", done.stderr)


@pytest.mark.parametrize(("name", "option"), numbers())
def test_numbers_that_are_none(name: str, option: str, run_here: Callable[..., Done]) -> None:
    for wrong in ("many", "-1000000"):
        done = run_here(name, *ARGUMENTS.get(name, []), option, wrong)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert is_one_sentence(done.stderr)
        assert f"Invalid value for '{option}'" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_in_every_command(name: str, run_here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object, **__: object) -> None:
        for _ in range(2):  # `index` ends at the next batch when it is told once
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    monkeypatch.setattr(Settings, "from_environment", press)
    monkeypatch.setattr(models, "list_models", press)
    done = run_here(name, *ARGUMENTS.get(name, []))
    assert (done.returncode, done.stdout) == (130, "")
    said = [line for line in done.stderr.splitlines() if "stopping at the next batch" not in line]
    assert said == ["mmsearch: interrupted: what was committed is kept, run the same command again to go on."]
