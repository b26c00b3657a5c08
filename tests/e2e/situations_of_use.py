"""Situations that come of what is asked: arguments, queries, sources."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

from tests.e2e.situations import COMMAND, NO_PRIVILEGES, Case, Done, situation
from tests.support import ROOT, make_folder

# --- arguments ------------------------------------------------------------------------------------------------------


@situation
def wrong_option(case: Case) -> Done:
    return case.run("query", "x", "--frobnicate")


@situation
def wrong_command(case: Case) -> Done:
    return case.run("find", "x")


@situation
def missing_argument(case: Case) -> Done:
    return case.run("relocate", "/old")


@situation
def k_below_1(case: Case) -> Done:
    return case.run("query", "x", "-k", "0")


@situation
def wrong_setting(case: Case) -> Done:
    return case.run("info", first="import os; os.environ['MMSEARCH_THREADS'] = 'many'")


@situation
def no_collection(case: Case) -> Done:
    return case.run("query", "x", "--collection", "other")


@situation
def collection_name(case: Case) -> Done:
    return case.run("info", "--collection", "a b")


@situation
def unknown_encoder(case: Case) -> Done:
    return case.run("index", case.pictures, "--collection", "new", "--encoder", "klip")


@situation
def no_reranker(case: Case) -> Done:
    nowhere = (
        "import mmsearch.rerank.cross_attention as module; from pathlib import Path; module.WEIGHTS = Path('/nowhere')"
    )
    return case.run("query", "x", "--rerank", patch=nowhere)


@situation
def reranker_unknown(case: Case) -> Done:
    return case.run("query", "x", "--reranker", "cross_attention:mine")


@situation
def blip_nowhere(case: Case) -> Done:
    return case.run("query", "x", "--reranker", f"blip:{case.tmp / 'nowhere'}")


@situation
def rerank_gone(case: Case) -> Done:
    next(case.own_pictures().iterdir()).unlink()
    return case.run("query", "x", "--rerank")


@situation
def rerank_captions(case: Case) -> Done:
    return case.run("query", "x", "--rerank", "--target", "text")


@situation
def explain_out(case: Case) -> Done:
    return case.run("explain", "x", next(case.pictures.iterdir()), "--out", case.tmp / "map.txt")


@situation
def unknown_device(case: Case) -> Done:
    return case.run("query", "x", "--device", "quantum")


# --- queries --------------------------------------------------------------------------------------------------------


@situation
def query_empty(case: Case) -> Done:
    return case.run("query", " ")


@situation
def query_not_there(case: Case) -> Done:
    return case.run("query", "--image", case.tmp / "nowhere.jpg")


@situation
def query_text_file(case: Case) -> Done:
    return case.run("query", case.file("text.jpg"))


@situation
def query_truncated(case: Case) -> Done:
    return case.run("query", case.truncated())


@situation
def query_too_large(case: Case) -> Done:
    return case.run("query", case.pictures / "p0000.png", "--max-pixels", "100")


@situation
def nothing_found(case: Case) -> Done:
    return case.run("query", "a red car", "--min-similarity", "0.999")


@situation
def no_captions(case: Case) -> Done:
    return case.run("query", "a red car", "--target", "text")


@situation
def closed_pipe(case: Case) -> Done:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        done = subprocess.run(
            [COMMAND, "list", "--jsonl"], env=case.env(), stdout=output, stderr=subprocess.PIPE, text=True, check=False
        )
    return Done(done.args, done.returncode, "", done.stderr)


# --- sources --------------------------------------------------------------------------------------------------------


@situation
def empty_folder(case: Case) -> Done:
    (case.tmp / "empty").mkdir()
    return case.run("index", case.tmp / "empty")


@situation
def path_not_there(case: Case) -> Done:
    return case.run("index", case.tmp / "nowhere")


@situation
def not_a_source(case: Case) -> Done:
    return case.run("index", case.file("letter.docx"))


@situation
def source_away(case: Case) -> Done:
    folder = case.own_pictures()
    folder.rename(case.tmp / "elsewhere")
    return case.run("index")


@situation
def text_file(case: Case) -> Done:
    return case.run("index", case.file("text.jpg"))


@situation
def truncated(case: Case) -> Done:
    return case.run("index", case.truncated())


@situation
def too_large(case: Case) -> Done:
    return case.run("index", make_folder(case.tmp / "large", 1, first=900)[0], "--max-pixels", "100")


@situation
def some_unreadable(case: Case) -> Done:
    folder = case.own_pictures()
    (folder / "bad.jpg").write_text("x")
    done = case.run("index")
    assert "bad.jpg: cannot be read as a picture" in done.stderr
    return done


@situation
def folder_unreadable(case: Case) -> Done:
    case.forbid(case.own_pictures(), 0o000)
    return case.run("index", first=NO_PRIVILEGES)


@situation
def subfolder_unreadable(case: Case) -> Done:
    folder = case.own_pictures()
    make_folder(folder / "below", 1, first=100)
    case.run("index")
    case.items += 1
    case.forbid(folder / "below", 0o000)
    return case.run("index", first=NO_PRIVILEGES)


@situation
def mass_deletion(case: Case) -> Done:
    folder = case.own_pictures()
    for number in range(22):
        (folder / f"p{number:04d}.png").unlink()
    return case.run("index")


@situation
def mass_removal(case: Case) -> Done:
    return case.run("remove", case.pictures)


@situation
def remove_unknown(case: Case) -> Done:
    return case.run("remove", case.tmp / "nowhere")


@situation
def interrupted_index(case: Case) -> Done:
    folder = case.tmp / "more"
    make_folder(folder, 60, first=1000)
    child = subprocess.Popen(
        [COMMAND, "index", str(folder)], env=case.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (case.collection / "catalog.sqlite3-wal").exists():
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    kept = json.loads(case.run("info", "--json").stdout)["modalities"]["image"]["items"]
    assert case.items <= kept < case.items + 60
    case.items = kept
    return Done(child.args, child.returncode, out, err)


@situation
def interrupted(case: Case) -> Done:
    child = subprocess.Popen(
        [COMMAND, "eval", str(ROOT / "data" / "photos" / "captions.jsonl")],
        env=case.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(1.0)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    return Done(child.args, child.returncode, out, err)
