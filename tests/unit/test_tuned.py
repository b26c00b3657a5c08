"""TunedEncoder and its folder: what it hands through, what it refuses."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmsearch
from mmsearch.encoders import DEFAULT_ENCODER, load_encoder
from mmsearch.encoders.tuned import TunedEncoder
from mmsearch.encoders.tuned_head import TowerMap, TunedHead
from mmsearch.errors import DeviceError, EncoderError, QueryError, UnknownEncoder, WeightsUnavailable
from mmsearch.training.store import check_free, write_encoder
from mmsearch.types import PortableEncoder, TokenEncoder
from tests.support import PHOTOS, ToyEncoder, picture, random_head, random_units, tuned_encoder


def change(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_bytes())
    how(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(home: Path) -> Path:
    """Return the folder of the encoder tuned:mine."""
    tuned_encoder("mine")
    return home / "encoders" / "mine"


def test_a_head_that_is_the_identity_changes_nothing() -> None:
    zeros = np.zeros
    one = TowerMap(np.eye(6, dtype=np.float32), *(zeros(shape, np.float32) for shape in ((6, 3), (3,), (3, 6), (6,))))
    rows = random_units(10, 6)
    np.testing.assert_allclose(TunedHead(one, one).image.apply(rows), rows, atol=1e-6)


def test_a_head_is_what_it_was_written_as() -> None:
    head = random_head(6)
    again = TunedHead.from_bytes(head.to_bytes())
    assert again.to_bytes() == head.to_bytes()
    rows = random_units(5, 6)
    np.testing.assert_array_equal(again.text.apply(rows), head.text.apply(rows))


def test_it_offers_what_its_base_offers() -> None:
    base = load_encoder("compact")
    encoder = tuned_encoder("mine")
    assert isinstance(encoder, TokenEncoder)
    assert isinstance(encoder, PortableEncoder)
    pixels = np.stack([encoder.prepare_image(picture(seed)) for seed in range(3)])
    np.testing.assert_array_equal(pixels[0], base.prepare_image(picture(0)))
    np.testing.assert_array_equal(pixels[0], encoder.preparation(picture(0)))
    head = random_head(base.spec.dim)
    np.testing.assert_allclose(encoder.encode_images(pixels), head.image.apply(base.encode_images(pixels)), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(["a"]), head.text.apply(base.encode_texts(["a"])), atol=1e-5)
    assert encoder.text_notes("日本の猫") == base.text_notes("日本の猫") != ()
    plain = TunedEncoder(ToyEncoder(), random_head(192), uri="tuned:toy", head_sha256="0")
    assert not isinstance(plain, TokenEncoder)
    assert not isinstance(plain, PortableEncoder)


def test_the_fingerprint_is_of_base_and_head(home: Path) -> None:
    one = tuned_encoder("mine").spec
    assert one.uri == "tuned:mine"
    assert one.fingerprint != load_encoder("compact").spec.fingerprint
    base = load_encoder("compact").spec
    write_encoder("mine", random_head(base.dim, seed=1), base, card="", told={}, force=True)
    assert load_encoder("tuned:mine").spec.fingerprint != one.fingerprint
    assert [path.name for path in (home / "encoders").iterdir()] == ["mine"], "nothing is left of the one before"


def test_it_indexes_and_finds(folder: Path, tmp_path: Path) -> None:
    mmsearch.index([PHOTOS / "red-car.jpg", PHOTOS / "tabby-cat.jpg"], collection=tmp_path / "c", encoder="tuned:mine")
    with mmsearch.open(tmp_path / "c") as photos:
        assert photos.search("a red car", k=1)[0].item.uri.endswith("red-car.jpg")
        assert photos.collection.spec.uri == "tuned:mine"


def test_it_is_listed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tuned_encoder("other")
    change(folder.with_name("other") / "manifest.json", lambda content: content.pop("base"))
    (folder.with_name(".half-written.tmp")).mkdir()
    listed = {model.uri: model for model in mmsearch.list_models()}
    (mine,) = [uri for uri in listed if uri.startswith("tuned:")]
    assert listed[mine].dim == 384
    assert listed[mine].languages == "English"
    assert listed[mine].on_disk
    assert (listed[mine].megabytes or 0) > (listed[DEFAULT_ENCODER].megabytes or 0)
    assert "other" in caplog.text


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda folder: flip(folder / "head.npz"), "SHA-256"),
        (lambda folder: (folder / "head.npz").unlink(), "cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
        (lambda folder: change(folder / "manifest.json", lambda c: c.update(format=2)), "update it"),
        (lambda folder: change(folder / "manifest.json", lambda c: c.update(dim=8)), "384 wide and not 8"),
        (lambda folder: change(folder / "manifest.json", lambda c: c["base"].update(fingerprint="0")), "others than"),
        (lambda folder: change(folder / "manifest.json", lambda c: c["base"].update(uri="tuned:mine")), "tuned itself"),
    ],
)
def test_what_is_damaged_is_refused(folder: Path, how: Callable[[Path], object], words: str) -> None:
    how(folder)
    with pytest.raises(WeightsUnavailable, match=words):
        load_encoder("tuned:mine")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no .npz|No data left"),
        (b"no archive", "pickle"),
        (b"PK\x03\x04 and then nothing", "no .npz"),
        (npz(a=np.zeros(1)), "lacks image.linear"),
        (npz(a=np.array([{}], dtype=object)), "allow_pickle=False"),
    ],
)
def test_what_is_no_head_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TunedHead.from_bytes(data)


def test_a_head_with_odd_numbers_is_refused() -> None:
    maps = random_head(4).image
    for wrong in (np.full(4, np.nan, np.float32), np.zeros(5, np.float32), np.zeros(4, np.float64)):
        with pytest.raises(ValueError, match="outer_bias is not float32"):
            TowerMap(maps.linear, maps.inner, maps.inner_bias, maps.outer, wrong)


def test_names_and_devices_are_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in ("../x", "", "a b", ".x"):
        with pytest.raises(UnknownEncoder, match="cannot name an encoder"):
            load_encoder(f"tuned:{bad}")
        with pytest.raises(QueryError, match="cannot name an encoder"):
            check_free(bad, force=True)
    with pytest.raises(UnknownEncoder, match="there are tuned:mine"):
        load_encoder("tuned:yours")
    with pytest.raises(EncoderError, match=r"tuned:mine is there already .* --force"):
        check_free("mine", force=False)
    with pytest.raises(DeviceError, match="CPU only"):
        load_encoder("tuned:mine", device="cuda")
    monkeypatch.setenv("MMSEARCH_DEVICE", "cuda")
    assert load_encoder("tuned:mine").spec.uri == "tuned:mine", "the settings are passed over, as for compact itself"
