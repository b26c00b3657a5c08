"""Situations of `mmsearch train`, and of the encoders that it makes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from unittest import mock

from tests.e2e.situations import Case, Done, situation
from tests.support import make_folder, tuned_encoder


def corpus(case: Case, count: int) -> Path:
    """Return a corpus of pictures whose captions say nothing of them."""
    make_folder(case.tmp / "captioned", count, first=2000)
    rng = random.Random(0)
    words = ["red", "old", "dog", "house", "small", "tree", "sea", "car", "sunny", "road"]
    lines = [{"image": f"p{2000 + n:04d}.png", "captions": [" ".join(rng.sample(words, 4))]} for n in range(count)]
    return case.file("captioned/captions.jsonl", "\n".join(map(json.dumps, lines)))


def tuned(case: Case) -> Path:
    """Put an encoder tuned:mine into the home folder of the case, and return its folder."""
    with mock.patch.dict(os.environ, MMSEARCH_HOME=str(case.home)):
        tuned_encoder("mine")
    return case.home / "encoders" / "mine"


@situation
def train_few(case: Case) -> Done:
    return case.run("train", corpus(case, 20), "--name", "mine")


@situation
def train_no_help(case: Case) -> Done:
    done = case.run("train", corpus(case, 100), "--name", "mine", "--epochs", "2")
    assert "text→image" in done.stdout
    assert not (case.home / "encoders").exists()
    return done


@situation
def train_exists(case: Case) -> Done:
    before = (tuned(case) / "head.npz").read_bytes()
    done = case.run("train", corpus(case, 20), "--name", "mine")
    assert (tuned(case) / "head.npz").read_bytes() == before
    return done


@situation
def train_reranker_exists(case: Case) -> Done:
    folder = case.home / "rerankers" / "mine"
    folder.mkdir(parents=True)
    return case.run("train", corpus(case, 20), "--name", "mine", "--reranker")


@situation
def train_reranker_no_help(case: Case) -> Done:
    done = case.run("train", corpus(case, 100), "--name", "mine", "--reranker", "--epochs", "1", "--batch", "32")
    assert "text→image" in done.stdout
    assert not (case.home / "rerankers").exists()
    return done


@situation
def train_name(case: Case) -> Done:
    return case.run("train", corpus(case, 20), "--name", "../mine")


@situation
def train_folder(case: Case) -> Done:
    return case.run("train", case.pictures, "--name", "mine")


@situation
def train_interrupted(case: Case) -> Done:
    child = subprocess.Popen(
        case.command("train", corpus(case, 400), "--name", "mine"),
        env=case.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(2.0)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert not (case.home / "encoders").exists()
    return Done(child.args, child.returncode, out, err)


@situation
def train_extra(case: Case) -> Done:
    without = "import sys; sys.modules['torch'] = None"
    return case.run("train", corpus(case, 100), "--name", "mine", patch=without)


@situation
def tuned_gone(case: Case) -> Done:
    return case.run("index", case.pictures, "--collection", "new", "--encoder", "tuned:mine")


@situation
def tuned_damaged(case: Case) -> Done:
    head = tuned(case) / "head.npz"
    head.write_bytes(head.read_bytes()[:-1])
    return case.run("index", case.pictures, "--collection", "new", "--encoder", "tuned:mine")


@situation
def tuned_other_base(case: Case) -> Done:
    return index_with_base(case, fingerprint="0" * 64)


@situation
def tuned_older_base(case: Case) -> Done:
    return index_with_base(case, uri="compact:v2")


def index_with_base(case: Case, **changes: str) -> Done:
    manifest = tuned(case) / "manifest.json"
    content = json.loads(manifest.read_bytes())
    content["base"].update(changes)
    manifest.write_text(json.dumps(content))
    return case.run("index", case.pictures, "--collection", "new", "--encoder", "tuned:mine")
