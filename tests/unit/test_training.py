"""`tune`: it learns what captions say, says so when it does not, and can be interrupted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import mmsearch
from mmsearch.encoders import load_encoder
from mmsearch.encoders.tuned import TunedEncoder, read_manifest
from mmsearch.errors import EncoderError, MissingExtra, QueryError, SourceError, TrainingError, UnknownEncoder
from mmsearch.evaluation import embed
from mmsearch.evaluation.dataset import EvalSet
from mmsearch.evaluation.embed import EmbeddedSet
from mmsearch.runtime.devices import require_torch
from mmsearch.training import Recipe, TuneReport, tune
from mmsearch.training.corpus import part
from mmsearch.training.fit import _Tower, fit
from mmsearch.training.judge import gain_by_picture
from mmsearch.training.negatives import Draw
from mmsearch.training.tuning import _score
from mmsearch.types import EncoderSpec, Float32, Modality, TokenEncoder, UInt8
from tests.shapes import draw_corpus
from tests.support import ToyEncoder, make_folder, picture, random_head, random_units, unit

pytest.importorskip("torch", reason="needs the extra [train]")

QUICK = Recipe(epochs=40, batch=64, hidden=16, rate=1e-2, average=0.9)


class Foreign(ToyEncoder):
    """Both towers see the same, but the texts speak another language: "picture N" is that picture, turned."""

    def __init__(self, *, stop_at: int | None = None) -> None:
        super().__init__("toy:foreign")
        rng = np.random.default_rng(3)
        self._seen = rng.normal(0, 1, (192, 16))
        self._turn = np.linalg.qr(rng.normal(0, 1, (16, 16)))[0]
        self._stop_at = stop_at

    @property
    def spec(self) -> EncoderSpec:
        spec = super().spec
        return EncoderSpec(spec.uri, 16, spec.image_size, spec.fingerprint)

    @property
    def image_batch(self) -> int:
        return 8

    def encode_images(self, pixels: UInt8) -> Float32:
        if self._stop_at is not None and self.images + len(pixels) > self._stop_at:
            raise KeyboardInterrupt
        return unit(super().encode_images(pixels) @ self._seen)

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        self.texts += len(texts)
        shown = np.stack([self.prepare_image(picture(int(text.split()[-1]))) for text in texts])
        rows = unit(shown.reshape(len(texts), 192) - 127.5) @ self._seen
        return unit(unit(rows) @ self._turn)


def write_corpus(folder: Path, count: int, captions: Sequence[str] | None = None, *, name: str = "c.jsonl") -> Path:
    """Write a corpus of pictures that `Foreign` knows; `captions` in place of the right ones."""
    make_folder(folder, count)
    said = captions or [f"picture {n}" for n in range(count)]
    lines = [json.dumps({"image": f"p{n:04d}.png", "captions": [said[n]]}) for n in range(count)]
    (folder / name).write_text("\n".join(lines))
    return folder / name


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Return a corpus of 240 pictures."""
    return write_corpus(tmp_path / "corpus", 240)


def recalls(report: TuneReport, when: str) -> list[float]:
    return [one["R@1"] for one in getattr(report.verdict, when)]


# --- what is learned ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shapes_and_colours_are_learned_and_nonsense_is_not(tmp_path: Path, home: Path) -> None:
    """The miniature: 500 drawn pictures, the compact encoder, less than two minutes."""
    corpus = draw_corpus(tmp_path / "shapes", 500)
    report = tune(corpus, "shapes")
    assert report.counts.held_out_pictures == 50
    assert max(recalls(report, "before")) < 0.2
    assert min(recalls(report, "after")) > 0.6, "chance is 0.02"
    assert report.helped
    assert report.summary.startswith("It helped: on 50 held-out pictures recall@5 went from ")
    dev = draw_corpus(tmp_path / "dev", 100, seed=1)
    found = [mmsearch.evaluate(dev, encoder=uri).report()["text→image"]["R@5"] for uri in ("compact", "tuned:shapes")]
    assert found[1] > found[0] + 0.3
    card = (home / "encoders" / "shapes" / "MODEL_CARD.md").read_text()
    assert str(corpus) in card
    assert "| text→image | R@1 | " in card

    lines = [json.loads(line) for line in corpus.read_text().splitlines()]
    shuffled = np.random.default_rng(0).permutation(len(lines))
    for line, other in zip([dict(line) for line in lines], shuffled, strict=True):
        lines[other]["captions"] = line["captions"]
    nonsense = corpus.with_name("nonsense.jsonl")
    nonsense.write_text("\n".join(map(json.dumps, lines)))
    report = tune(nonsense, "nonsense")
    assert not report.helped
    assert report.folder is None
    assert report.summary.startswith("It did not help: ")
    with pytest.raises(UnknownEncoder):
        load_encoder("tuned:nonsense")


def test_another_language_is_learned(corpus: Path, home: Path) -> None:
    base = Foreign()
    report = tune(corpus, "mine", encoder=base, recipe=QUICK)
    assert (report.uri, report.base, report.unread) == ("tuned:mine", "toy:foreign", ())
    counts = report.counts
    assert (counts.pictures, counts.validation_pictures, counts.held_out_pictures) == (171, 19, 50)
    assert max(recalls(report, "before")) < 0.2
    assert min(recalls(report, "after")) > 0.5
    assert report.helped
    assert report.epoch <= report.epochs <= 40
    manifest = read_manifest("mine")
    assert str(manifest.folder) == report.folder
    assert (manifest.base, manifest.dim) == ("toy:foreign", 16)
    encoder = TunedEncoder(base, manifest.head(), uri=report.uri, head_sha256=manifest.sha256)
    after = mmsearch.evaluate(corpus, encoder=encoder).report()
    assert after["text→image"]["R@1"] > 0.5
    assert {path.name for path in manifest.folder.iterdir()} == {"manifest.json", "head.npz", "MODEL_CARD.md"}


@pytest.mark.parametrize("seed", range(4))
def test_nonsense_is_told_and_not_written(tmp_path: Path, home: Path, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(240)
    corpus = write_corpus(tmp_path / "corpus", 240, [f"picture {n}" for n in order])
    recipe = Recipe(epochs=12, batch=64, hidden=16, rate=1e-2, average=0.9, seed=seed)
    report = tune(corpus, "mine", encoder=Foreign(), recipe=recipe)
    assert not report.helped
    assert report.summary.startswith("It did not help: on 50 held-out pictures recall@5 went from ")
    assert report.summary.endswith("; the encoder is left as it was.")
    assert not (home / "encoders").exists()
    kept = tune(corpus, "mine", encoder=Foreign(), recipe=recipe, keep=True)
    assert not kept.helped
    assert kept.summary.endswith("it was kept all the same.")
    assert read_manifest("mine").head().dim == 16


@pytest.mark.needs_clip
def test_an_openclip_model_is_tuned(models: Path, tmp_path: Path) -> None:
    corpus = draw_corpus(tmp_path / "shapes", 120)
    base = f"open_clip:local-dir:{models / 'vit'}"
    report = tune(corpus, "clip", encoder=base, device="cpu", recipe=Recipe(epochs=3), keep=True)
    assert (report.base, report.epochs) == (base, 3)
    encoder = load_encoder("tuned:clip", device="cpu")
    assert isinstance(encoder, TunedEncoder)
    assert isinstance(encoder, TokenEncoder)
    assert encoder.spec.dim == encoder.base.spec.dim == 32
    after = mmsearch.evaluate(corpus, encoder=encoder).report()
    assert after.system == "tuned:clip"
    assert 0 < after["text→image"]["R@10"] < 1


def test_a_seed_gives_the_same_head(corpus: Path) -> None:
    recipe = Recipe(epochs=3, batch=64, hidden=16)
    made = [("a", 0), ("b", 0), ("c", 1)]
    for name, seed in made:
        tune(corpus, name, encoder=Foreign(), recipe=Recipe(epochs=3, batch=64, hidden=16, seed=seed), keep=True)
    digests = [read_manifest(name).sha256 for name, _ in made]
    assert digests[0] == digests[1] != digests[2]
    assert recipe.length(171) == 3


def test_what_is_exported_is_what_was_learned() -> None:
    torch = require_torch()
    rows = random_units(40, 12)
    recipe = Recipe(hidden=7, jitter=0.0, noise=0.0, dropout=0.0)
    tower = _Tower(torch, torch.from_numpy(rows), recipe, torch.Generator().manual_seed(1))
    start = tower.exported(tower.parameters)
    np.testing.assert_allclose(start.apply(rows), rows, atol=1e-6, err_msg="it starts at the identity")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in tower.parameters:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    learned = tower.map(torch.from_numpy(rows)).detach().numpy()
    np.testing.assert_allclose(tower.exported(tower.parameters).apply(rows), learned, atol=1e-5)


def test_it_stops_when_nothing_gets_better() -> None:
    data = EvalSet("x", tuple("abcdef"), tuple("ghijkl"), np.arange(6), (None,) * 6, (None,) * 6)
    some = EmbeddedSet(data, random_units(6, 8), random_units(6, 8, seed=1))
    scores = iter([0.5, 0.4, 0.7, *[0.6] * 100])
    fitted = fit(require_torch(), some, lambda head: next(scores), Recipe(epochs=40, hidden=4), threads=1)
    assert (fitted.epoch, fitted.epochs, fitted.start, fitted.best, fitted.share) == (2, 12, 0.5, 0.7, 1.0)


def test_of_the_way_from_the_identity_only_what_is_needed_is_gone() -> None:
    data = EvalSet("x", tuple("abcdef"), tuple("ghijkl"), np.arange(6), (None,) * 6, (None,) * 6)
    some = EmbeddedSet(data, random_units(6, 8), random_units(6, 8, seed=1))
    scores = iter([0.5, *[0.7] * 6, 0.6, 0.68, 0.692])  # the identity, six epochs, shares of 0.1, 0.2, 0.3
    fitted = fit(require_torch(), some, lambda head: next(scores), Recipe(epochs=10, hidden=4), threads=1)
    assert (fitted.epoch, fitted.share, fitted.best) == (1, 0.3, 0.692)


def test_a_head_can_be_made_weaker() -> None:
    head, rows = random_head(12), random_units(30, 12)
    whole = head.text.apply(rows)
    near, nearer = ((head.weaker(share).text.apply(rows) * rows).sum(axis=1).mean() for share in (0.9, 0.2))
    assert (whole * rows).sum(axis=1).mean() < near < nearer < 1.0
    np.testing.assert_allclose(head.weaker(0.0).text.apply(rows), rows, atol=1e-6)
    np.testing.assert_allclose(head.weaker(1.0).text.apply(rows), whole, atol=1e-6)


def test_what_it_was_not_tuned_on_stays_where_it_is() -> None:
    """Little is forgotten: vectors in other directions hardly move, and far more without that part of the loss."""
    rng = np.random.default_rng(0)
    meant = rng.normal(0, 1, (300, 6))
    sides = [rng.normal(0, 0.3, 64) + 0.5 * meant @ rng.normal(0, 0.2, (6, 64)) for _ in range(2)]
    owners = np.arange(300)
    data = EvalSet("x", tuple(map(str, owners)), tuple(map(str, owners)), owners, (None,) * 300, (None,) * 300)
    some = EmbeddedSet(data, *map(unit, sides))
    rows = random_units(300, 64, seed=9)
    moved = []
    for faith in (5.0, 0.0):
        recipe = Recipe(epochs=60, batch=100, hidden=32, faith=faith, gain=1.0)
        fitted = fit(require_torch(), some, lambda head: _score(some, head), recipe, threads=1)
        assert fitted.best > fitted.start + 0.2
        maps = (fitted.head.image, fitted.head.text)
        moved.append(float(np.mean([1.0 - (one.apply(rows) * rows).sum(axis=1) for one in maps])))
    assert moved[0] < 0.3 * moved[1]


# --- what it is learned from ----------------------------------------------------------------------------------------


def test_equal_captions_and_a_pictures_own_are_no_negatives() -> None:
    captions = ["A dog.", "a cat", "a cat", "a bird", "a  dog", "a fish"]
    owners = [0, 0, 1, 2, 3, 3]
    draw = Draw(captions, np.array(owners), 4, seed=0)
    for _ in range(20):
        (batch,) = draw.epoch(1)
        assert sorted(batch.pictures) == [0, 1, 2, 3]
        said = {
            n: {c.lower().strip(" .").replace("  ", " ") for c, o in zip(captions, owners, strict=True) if o == n}
            for n in range(4)
        }
        for row, mine in enumerate(batch.pictures):
            for column, caption in enumerate(batch.captions):
                fits = captions[caption].lower().strip(" .").replace("  ", " ") in said[mine]
                assert batch.no_negatives[row, column] == (fits and row != column)


def test_no_picture_is_in_two_parts() -> None:
    rows = random_units(200, 16)
    rows[100:110] = rows[:10]  # copies under other names
    owners = np.repeat(np.arange(200), 2)
    data = EvalSet("x", tuple(map(str, range(200))), tuple(map(str, range(400))), owners, (None,) * 200, (None,) * 400)
    whole = EmbeddedSet(data, rows, random_units(400, 16, seed=1))
    parts = part(whole, None, seed=0)
    sets = [parts.training, parts.validation, parts.held_out]
    assert sum(len(some.images) for some in sets) == 200
    names = [set(some.data.pictures) for some in sets]
    for number in range(10):
        assert sum({str(number), str(100 + number)} <= some for some in names) == 1
    for some in sets:
        for place, picture_name in enumerate(some.data.pictures):
            np.testing.assert_array_equal(some.images[place], rows[int(picture_name)])
        assert [int(caption) // 2 for caption in some.data.captions] == [
            int(some.data.pictures[owner]) for owner in some.data.owners
        ]
    held = part(whole, parts.held_out, seed=0)
    assert len(held.held_out.images) == len(parts.held_out.images)
    assert not set(held.training.data.pictures) & set(parts.held_out.data.pictures)
    assert sum(len(some.images) for some in (held.training, held.validation)) == 200 - len(parts.held_out.images)


def test_the_gain_falls_with_every_rank() -> None:
    eye = np.eye(4, dtype=np.float32)
    assert gain_by_picture(eye, eye, np.arange(4)).tolist() == [1.0] * 4
    worse = eye.copy()
    worse[0] = eye[1]
    assert gain_by_picture(eye, worse, np.arange(4)).mean() < 1.0


def test_several_corpora_are_one_and_bad_pictures_are_named(tmp_path: Path) -> None:
    first, second = write_corpus(tmp_path / "a", 120), write_corpus(tmp_path / "b", 40)
    (tmp_path / "a" / "p0007.png").write_text("no picture")
    (tmp_path / "b" / "extra.jsonl").write_text('{"image": "p0000.png", "captions": ["picture 0", "picture 1"]}\n{')
    report = tune([first, second, tmp_path / "b" / "extra.jsonl"], "x", encoder=Foreign(), recipe=QUICK, keep=True)
    counts = report.counts
    assert counts.pictures + counts.validation_pictures + counts.held_out_pictures == 159
    assert counts.captions + counts.validation_captions + counts.held_out_captions == 160
    assert [name.rpartition("/")[2][:11] for name in report.unread] == ["extra.jsonl", "p0007.png"]


def test_another_corpus_may_judge(corpus: Path, tmp_path: Path) -> None:
    dev = write_corpus(tmp_path / "dev", 60)  # the same pictures as the first of the corpus
    report = tune(corpus, "x", encoder=Foreign(), dev=dev, recipe=QUICK)
    assert report.counts.held_out_pictures == 60
    assert report.counts.pictures + report.counts.validation_pictures == 180
    with pytest.raises(TrainingError, match="20 captioned pictures, and 50 at least"):
        tune(corpus, "y", encoder=Foreign(), dev=write_corpus(tmp_path / "few", 20))


def test_of_karpathys_files_the_training_part_is_taken(tmp_path: Path) -> None:
    make_folder(tmp_path, 260)
    images = [
        {"filename": f"p{n:04d}.png", "split": "test" if n < 60 else "train", "sentences": [{"raw": f"picture {n}"}]}
        for n in range(260)
    ]
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"images": images}))
    report = tune(path, "x", encoder=Foreign(), dev=path, recipe=QUICK)
    counts = report.counts
    assert (counts.pictures + counts.validation_pictures, counts.held_out_pictures) == (200, 60)


# --- what can go wrong ----------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(embed._PART, Modality.IMAGE, 32)
    with pytest.raises(KeyboardInterrupt):
        tune(corpus, "x", encoder=Foreign(stop_at=100), recipe=QUICK)
    again = Foreign()
    assert tune(corpus, "x", encoder=again, recipe=QUICK).helped
    assert again.images == 240 - 96
    third = Foreign()
    tune(corpus, "y", encoder=third, recipe=QUICK)
    assert (third.images, third.texts) == (0, 0)


def test_too_little_is_told_before_anything_is_embedded(tmp_path: Path) -> None:
    encoder = Foreign()
    with pytest.raises(TrainingError, match=r"c\.jsonl has 99 different captioned pictures .* 100 at least are needed"):
        tune(write_corpus(tmp_path / "few", 99), "x", encoder=encoder)
    assert encoder.images == 0
    same = write_corpus(tmp_path / "same", 120)
    for path in (tmp_path / "same").glob("*.png"):
        path.write_bytes((tmp_path / "same" / "p0000.png").read_bytes())
    with pytest.raises(TrainingError, match="has 1 different"):
        tune(same, "x", encoder=encoder)


def test_names_and_bases_are_checked_first(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune(corpus, "x", encoder=Foreign(), recipe=QUICK)
    before = read_manifest("x").sha256
    with pytest.raises(EncoderError, match="tuned:x is there already"):
        tune(corpus, "x", encoder=Foreign())
    with pytest.raises(QueryError, match="cannot name an encoder"):
        tune(corpus, "a/b", encoder=Foreign())
    with pytest.raises(QueryError, match="Say what to learn from"):
        tune([], "y")
    with pytest.raises(SourceError, match="no corpus of captions"):
        tune(tmp_path, "y")
    tune(corpus, "x", encoder=Foreign(), recipe=Recipe(epochs=2, hidden=16, seed=5), force=True, keep=True)
    assert read_manifest("x").sha256 != before
    tuned = TunedEncoder(Foreign(), read_manifest("x").head(), uri="tuned:x", head_sha256="0")
    with pytest.raises(EncoderError, match="tuned itself"):
        tune(corpus, "y", encoder=tuned)

    def missing() -> None:
        raise MissingExtra("no torch")

    monkeypatch.setattr("mmsearch.training.gather.require_torch", missing)
    with pytest.raises(MissingExtra, match=r'pip install "mmsearch\[cpu,train\]"'):
        tune(corpus, "y", encoder=Foreign())
