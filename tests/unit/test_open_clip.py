"""OpenClipEncoder against OpenCLIP called plainly, in float32 and bfloat16; fingerprints, templates, devices."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmsearch.encoders import load_encoder
from mmsearch.encoders.open_clip import OpenClipEncoder
from mmsearch.encoders.open_clip_source import load_model, split_template
from mmsearch.encoders.preprocess import Preprocess
from mmsearch.errors import UnknownEncoder
from mmsearch.images import to_rgb
from tests.support import picture
from tests.tiny_models import CLIP, FAMILIES, LONGEST, MOBILE, SIGLIP, cosines

pytestmark = pytest.mark.needs_clip

SHAPES = [(1, 1), (7, 200), (320, 240), (260, 260), (500, 375), (300, 30), (33, 1000), (1203, 901)]
MODES = ["L", "P", "CMYK", "1", "YCbCr", "I;16"]
TEXTS = ["a dog", "", "a small red car on a street in the evening", "日本 a", "word " * 300, "x " * 74 + "y", "x " * 75]


def pictures() -> list[Image.Image]:
    """Return RGB pictures of odd shapes, and of odd modes brought to RGB."""
    made = [picture(seed, shape) for seed, shape in enumerate(SHAPES)]
    made += [to_rgb(picture(20 + n, (90, 60)).convert("I" if mode == "I;16" else mode)) for n, mode in enumerate(MODES)]
    transparent = picture(40, (70, 90)).convert("RGBA")
    transparent.putalpha(120)
    return [*made, to_rgb(transparent)]


def with_config(model: Path, copy: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """Return the URI of a copy of a model whose open_clip_config.json was changed."""
    shutil.copytree(model, copy, dirs_exist_ok=True)
    path = copy / "open_clip_config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    return f"open_clip:local-dir:{copy}"


def plain(folder: Path) -> tuple[Any, Any, Any]:
    """Return (model, transform, tokenizer) as OpenCLIP's own README has them made, but for .eval()."""
    import open_clip

    text = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    options = {}
    if "hf_model_name" in text:  # OpenCLIP itself looks on the hub for it
        local = str(folder / text["hf_model_name"])
        options = {"text_cfg": {**text, "hf_model_name": local, "hf_model_pretrained": False}}
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}", **options)
    return model.eval(), transform, open_clip.get_tokenizer(f"local-dir:{folder}")


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_open_clip(models: Path, family: str) -> None:
    import torch

    model, transform, tokenizer = plain(models / family)
    made = [image for image in pictures() if FAMILIES[family][1] is not LONGEST or min(image.size) > 20]
    inputs = torch.stack([transform(image) for image in made])
    with torch.no_grad():
        images, texts = model.encode_image(inputs).numpy(), model.encode_text(tokenizer(TEXTS)).numpy()
    loaded = load_model(f"local-dir:{models / family}")
    for dtype, least in ((torch.float32, 0.9999), (torch.bfloat16, 0.999)):
        encoder = OpenClipEncoder(loaded, ["cpu"], dtype=dtype)
        pixels = np.stack([encoder.prepare_image(image) for image in made])
        assert cosines(encoder.encode_images(pixels), images).min() >= least
        assert cosines(encoder.encode_texts(TEXTS), texts).min() >= 0.9999
    mean, std = (np.array(FAMILIES[family][1][name]).reshape(3, 1, 1) for name in ("mean", "std"))
    levels = (inputs.numpy() * std + mean) * 255
    assert np.abs(levels - pixels).max() <= 1.0
    assert cosines(images[:1], images[2:3])[0] < 0.9999, "the model must tell pictures apart for this to mean something"
    assert cosines(texts[:1], texts[2:3])[0] < 0.999


@pytest.mark.parametrize("config", [CLIP, SIGLIP, MOBILE, LONGEST], ids=["clip", "siglip", "mobileclip", "longest"])
def test_prepared_pixels_are_those_of_the_models_own_transform(config: dict[str, Any]) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    preprocess = Preprocess.from_config({**config, "size": 224})
    transform = image_transform_v2(PreprocessCfg(**{**config, "size": 224}), is_train=False)
    mean, std = (np.array(config[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    for image in pictures():
        if config is LONGEST and max(image.size) > 200 * min(image.size):
            continue  # OpenCLIP itself cannot resize to less than a pixel
        levels = (transform(image).numpy() * std + mean) * 255
        assert np.abs(levels - preprocess.apply(image)).max() <= 1.0


def test_a_line_of_pixels_takes_no_gigabytes() -> None:
    preprocess = Preprocess.from_config({**CLIP, "size": 224})
    whole = np.asarray(picture(1, (20_000, 2)).crop((9990, 0, 10_010, 2)))
    found = preprocess.apply(picture(1, (20_000, 2)))
    assert found.shape == (3, 224, 224)
    assert np.abs(found.mean(axis=(1, 2)) - whole.mean(axis=(0, 1))).max() < 40


def test_short_texts_are_given_short_rows(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(f"open_clip:local-dir:{models / 'vit'}", device="cpu")
    assert isinstance(encoder, OpenClipEncoder)
    widths = [batch.ids.shape[1] for batch in encoder._text_input.batches(["a dog", "x " * 60], 1)]
    assert widths == [8, 64]
    bidirectional = load_encoder(f"open_clip:local-dir:{models / 'mobileclip'}", device="cpu")
    assert isinstance(bidirectional, OpenClipEncoder)
    assert [batch.ids.shape[1] for batch in bidirectional._text_input.batches(["a dog"], 1)] == [77]


@pytest.mark.parametrize("family", ["vit", "siglip", "metaclip2"])
def test_a_cut_text_is_told_once(models: Path, family: str, caplog: pytest.LogCaptureFixture) -> None:
    encoder = load_encoder(f"open_clip:local-dir:{models / family}", device="cpu")
    with caplog.at_level(logging.WARNING):
        encoder.encode_texts(["a dog", "two people"])
        assert not caplog.records
        encoder.encode_texts(["word " * 200])
        encoder.encode_texts(["other " * 200])
    assert [record.message for record in caplog.records if "left out" in record.message] == [caplog.messages[0]]
    assert "77" in caplog.messages[0] or "64" in caplog.messages[0]


def test_a_text_that_just_fits_is_not_said_to_be_cut(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = load_encoder(f"open_clip:local-dir:{models / 'vit'}", device="cpu")
    encoder.encode_texts(["x " * 75])
    assert not caplog.records
    encoder.encode_texts(["x " * 76])
    assert len(caplog.records) == 1


def test_fingerprint_is_of_weights_and_preprocessing(models: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from torch import save

    uri = f"open_clip:local-dir:{models / 'vit'}"
    same = load_encoder(uri, device="cpu").spec.fingerprint
    moved = tmp_path / "moved"
    shutil.copytree(models / "vit", moved)
    assert load_encoder(f"open_clip:local-dir:{moved}", device="cpu").spec.fingerprint == same
    weights = load_file(moved / "model.safetensors")
    (moved / "model.safetensors").unlink()
    save(weights, moved / "open_clip_pytorch_model.bin")
    assert load_encoder(f"open_clip:local-dir:{moved}", device="cpu").spec.fingerprint == same, "whatever the container"
    assert load_encoder(f"{uri}#a photo of {{}}", device="cpu").spec.fingerprint != same
    config = json.loads((moved / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["interpolation"] = "bilinear"
    (moved / "open_clip_config.json").write_text(json.dumps(config))
    assert load_encoder(f"open_clip:local-dir:{moved}", device="cpu").spec.fingerprint != same
    shutil.copytree(models / "vit", tmp_path / "other")
    name = "visual.proj"
    weights[name] = weights[name] + 1e-3
    save_file(weights, tmp_path / "other" / "model.safetensors")
    assert load_encoder(f"open_clip:local-dir:{tmp_path / 'other'}", device="cpu").spec.fingerprint != same


@pytest.mark.parametrize(("part", "option", "value"), [("text_cfg", "heads", 4), ("vision_cfg", "head_width", 32)])
def test_fingerprint_is_of_what_the_weights_do_not_tell(
    models: Path, tmp_path: Path, part: str, option: str, value: int
) -> None:
    def changed(config: dict[str, Any]) -> None:
        config["model_cfg"][part][option] = value

    def default_said(config: dict[str, Any]) -> None:  # of OpenCLIP's defaults, said or not
        config["model_cfg"][part][option] = 2 if option == "heads" else 64
        config["model_cfg"]["vision_cfg"]["patch_dropout"] = 0.5  # for training

    one = load_encoder(f"open_clip:local-dir:{models / 'vit'}", device="cpu").spec.fingerprint
    other = load_encoder(with_config(models / "vit", tmp_path / "a", changed), device="cpu").spec.fingerprint
    same = load_encoder(with_config(models / "vit", tmp_path / "b", default_said), device="cpu").spec.fingerprint
    assert one != other
    assert one == same


def test_fingerprint_is_of_the_tokenizer(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "siglip", tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["d"], vocabulary["o"] = vocabulary["o"], vocabulary["d"]
    path.write_text(json.dumps(content))
    one, other = (
        load_encoder(f"open_clip:local-dir:{f}", device="cpu") for f in (models / "siglip", tmp_path / "other")
    )
    assert one.spec.fingerprint != other.spec.fingerprint


def test_quickgelu_changes_vectors_and_fingerprint(models: Path, tmp_path: Path) -> None:
    uri = with_config(models / "vit", tmp_path / "quick", lambda config: config["model_cfg"].update(quick_gelu=True))
    one, other = (load_encoder(u, device="cpu") for u in (f"open_clip:local-dir:{models / 'vit'}", uri))
    assert one.spec.fingerprint != other.spec.fingerprint
    assert cosines(one.encode_texts(["a dog"]), other.encode_texts(["a dog"]))[0] < 0.99999


def test_a_prompt_template_is_put_around_every_text(models: Path) -> None:
    uri = f"open_clip:local-dir:{models / 'vit'}"
    with_template = load_encoder(f"{uri}#a photo of {{}}.", device="cpu")
    assert with_template.spec.uri.endswith("#a photo of {}.")
    expected = load_encoder(uri, device="cpu").encode_texts(["a photo of a dog."])
    np.testing.assert_allclose(with_template.encode_texts(["a dog"]), expected, atol=1e-6)
    assert split_template("local-dir:/a#b/c") == ("local-dir:/a#b/c", None)
    with pytest.raises(UnknownEncoder, match="once"):
        split_template("ViT-B-32/openai#{} of {}")


def test_several_devices_share_a_batch(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmsearch.encoders.open_clip.may_have_fast_bfloat16", lambda: False)  # else a trial decides
    loaded = load_model(f"local-dir:{models / 'vit'}")
    one, two = OpenClipEncoder(loaded, ["cpu"]), OpenClipEncoder(loaded, ["cpu", "cpu"])
    pixels = np.stack([one.prepare_image(picture(seed)) for seed in range(9)])
    np.testing.assert_allclose(two.encode_images(pixels), one.encode_images(pixels), atol=1e-5)
    texts = [f"{n} dogs" for n in range(130)]
    np.testing.assert_allclose(two.encode_texts(texts), one.encode_texts(texts), atol=1e-5)


@pytest.mark.parametrize("faster", [True, False])
def test_bfloat16_is_taken_when_a_trial_shows_that_it_is_faster(
    models: Path, monkeypatch: pytest.MonkeyPatch, faster: bool
) -> None:
    import torch

    monkeypatch.setattr("mmsearch.encoders.open_clip.may_have_fast_bfloat16", lambda: True)
    encoder = OpenClipEncoder(load_model(f"local-dir:{models / 'vit'}"), ["cpu"])
    timed = encoder._timed
    monkeypatch.setattr(
        encoder,
        "_timed",
        lambda replica, x: (timed(replica, x)[0], 1.0 if (replica.worker.dtype == torch.bfloat16) == faster else 2.0),
    )
    pixels = np.stack([encoder.prepare_image(picture(seed)) for seed in range(8)])
    before = encoder.encode_images(pixels[:1])
    assert encoder.dtype == "float32", "one picture is not worth a trial"
    after = encoder.encode_images(pixels)
    assert encoder.dtype == ("bfloat16" if faster else "float32")
    assert cosines(before, after[:1])[0] > 0.999


@pytest.mark.parametrize("bad", ["inaccurate", "no kernel"])
def test_bfloat16_that_is_inaccurate_or_cannot_be_had_is_left(
    models: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    import torch

    monkeypatch.setattr("mmsearch.encoders.open_clip.may_have_fast_bfloat16", lambda: True)
    encoder = OpenClipEncoder(load_model(f"local-dir:{models / 'vit'}"), ["cpu"])
    timed = encoder._timed

    def spoilt(replica: Any, pixels: Any) -> Any:
        rows, _ = timed(replica, pixels)
        if replica.worker.dtype == torch.float32:
            return rows, 2.0
        if bad == "no kernel":
            raise RuntimeError('"im2col" not implemented for BFloat16')
        return np.roll(rows, 1, axis=1), 1.0

    monkeypatch.setattr(encoder, "_timed", spoilt)
    pixels = np.stack([encoder.prepare_image(picture(seed)) for seed in range(8)])
    assert encoder.encode_images(pixels).shape == (8, encoder.spec.dim)
    assert encoder.dtype == "float32"


def test_a_foreign_script_is_told_for_english_models_alone(models: Path) -> None:
    english = load_encoder(f"open_clip:local-dir:{models / 'vit'}", device="cpu")
    assert "trained on English" in english.text_notes("красная машина")[0]
    assert english.text_notes("a red car 赤") == ()
    multilingual = load_encoder(f"open_clip:local-dir:{models / 'xlm-roberta'}", device="cpu")
    assert multilingual.text_notes("красная машина") == ()
