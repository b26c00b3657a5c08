"""OpenClipEncoder against OpenCLIP called plainly, in float32 and bfloat16, and what its URIs are refused for."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmsearch.encoders import load_encoder
from mmsearch.encoders.models import list_models
from mmsearch.encoders.open_clip import OpenClipEncoder
from mmsearch.encoders.open_clip_source import load_model, split_template
from mmsearch.encoders.preprocess import Preprocess
from mmsearch.errors import EncoderError, UnknownEncoder, WeightsUnavailable
from mmsearch.images import to_rgb
from tests.support import picture
from tests.tiny_models import CLIP, FAMILIES, LONGEST, MOBILE, SIGLIP, cosines, make_model

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


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open_clip")
    for family in FAMILIES:
        make_model(family, folder / family)
    return folder


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
    shutil.copytree(models / "vit", tmp_path / "other")
    path = tmp_path / "other" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"][part][option] = value
    path.write_text(json.dumps(config))
    one, other = (load_encoder(f"open_clip:local-dir:{f}", device="cpu") for f in (models / "vit", tmp_path / "other"))
    assert one.spec.fingerprint != other.spec.fingerprint
    config["model_cfg"][part][option] = 2 if option == "heads" else 64  # of OpenCLIP's defaults, said or not
    config["model_cfg"]["vision_cfg"]["patch_dropout"] = 0.5  # for training
    path.write_text(json.dumps(config))
    assert load_encoder(f"open_clip:local-dir:{tmp_path / 'other'}", device="cpu").spec.fingerprint == (
        one.spec.fingerprint
    )


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
    shutil.copytree(models / "vit", tmp_path / "quick")
    path = tmp_path / "quick" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["quick_gelu"] = True
    path.write_text(json.dumps(config))
    one, other = (load_encoder(f"open_clip:local-dir:{f}", device="cpu") for f in (models / "vit", tmp_path / "quick"))
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


def test_several_devices_share_a_batch(models: Path) -> None:
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


# --- what is refused ------------------------------------------------------------------------------------------------


def test_preprocessing_is_never_guessed(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "vit", tmp_path / "bare")
    path = tmp_path / "bare" / "open_clip_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({"model_cfg": config["model_cfg"]}))
    with pytest.raises(EncoderError, match="would have to be guessed: it does not tell mean, std"):
        load_encoder(f"open_clip:local-dir:{tmp_path / 'bare'}", device="cpu")
    alone = tmp_path / "alone.safetensors"
    shutil.copy(models / "vit" / "model.safetensors", alone)
    with pytest.raises(EncoderError, match=r"guessed: put the model's open_clip_config.json beside it"):
        load_encoder(f"open_clip:ViT-B-32/{alone}", device="cpu")


def test_weights_beside_a_config_of_another_architecture_are_refused(models: Path) -> None:
    with pytest.raises(EncoderError, match=r"another architecture than ViT-B-32 \(embed_dim"):
        load_encoder(f"open_clip:ViT-B-32/{models / 'vit' / 'model.safetensors'}", device="cpu")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("ViT-B-31/openai", "did you mean"),
        ("ViT-B-32", "no weights named: choose open_clip:ViT-B-32/openai"),
        ("ViT-B-32/nonsense", "no weights 'nonsense'"),
        ("", "'mmsearch models' lists them"),
    ],
)
def test_unknown_names_are_refused(rest: str, message: str) -> None:
    with pytest.raises(UnknownEncoder, match=message):
        load_encoder(f"open_clip:{rest}", device="cpu")


def test_quickgelu_of_the_tag_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    from mmsearch.encoders import open_clip_source

    monkeypatch.setattr(open_clip, "download_pretrained", lambda *_, **__: "")
    source = open_clip_source._find(open_clip, "ViT-B-32/openai")
    assert source.force_quick_gelu, "OpenAI's weights were trained with it, whatever the plain name's config says"
    assert not open_clip_source._find(open_clip, "ViT-B-32/laion2b_s34b_b79k").force_quick_gelu
    assert not open_clip_source._find(open_clip, "ViT-B-32-quickgelu/openai").force_quick_gelu


def test_damaged_and_foreign_weights_are_named(models: Path, tmp_path: Path) -> None:
    for name, data in (("noise", b"\x08\0\0\0\0\0\0\0nonsense"), ("empty", b"")):
        shutil.copytree(models / "vit", tmp_path / name)
        (tmp_path / name / "model.safetensors").write_bytes(data)
        with pytest.raises(WeightsUnavailable, match="damaged or of another model"):
            load_encoder(f"open_clip:local-dir:{tmp_path / name}", device="cpu")
    shutil.copytree(models / "vit", tmp_path / "foreign")
    shutil.copy(models / "convnext" / "model.safetensors", tmp_path / "foreign")
    with pytest.raises(WeightsUnavailable, match="damaged or of another model"):
        load_encoder(f"open_clip:local-dir:{tmp_path / 'foreign'}", device="cpu")


def test_a_pickle_that_runs_code_is_not_run(models: Path, tmp_path: Path) -> None:
    import torch

    folder = tmp_path / "evil"
    shutil.copytree(models / "vit", folder)
    (folder / "model.safetensors").unlink()
    trace = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (trace,)  # type: ignore[return-value]

    torch.save({"state_dict": Evil()}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(WeightsUnavailable):
        load_encoder(f"open_clip:local-dir:{folder}", device="cpu")
    assert not trace.exists()


def test_missing_folders_files_and_configs_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"no open_clip_config\.json in"):
        load_encoder(f"open_clip:local-dir:{tmp_path}", device="cpu")
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(WeightsUnavailable, match="cannot be read"):
        load_encoder(f"open_clip:local-dir:{tmp_path}", device="cpu")
    config, preprocess = FAMILIES["vit"]
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    with pytest.raises(WeightsUnavailable, match="no weights"):
        load_encoder(f"open_clip:local-dir:{tmp_path}", device="cpu")
    with pytest.raises(WeightsUnavailable, match="check the path"):
        load_encoder(f"open_clip:ViT-B-32/{tmp_path}/x.safetensors", device="cpu")


@pytest.mark.parametrize(
    "rest",
    ["ViT-B-32/laion2b_s34b_b79k", "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "ViT-B-16-SigLIP2/webli"],
)
def test_a_hub_out_of_reach_names_the_way_out(
    rest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("mmsearch.encoders.open_clip_hub._may_answer", lambda _: False)
    with pytest.raises(WeightsUnavailable, match=r"hf download \S+/\S+ --local-dir DIR.*open_clip:local-dir:DIR"):
        load_encoder(f"open_clip:{rest}", device="cpu")
    assert not caplog.records
    assert not constants.HF_HUB_OFFLINE, "the setting is put back"


def test_every_tag_of_the_table_has_a_way_out() -> None:
    import open_clip

    from mmsearch.encoders.open_clip_hub import OutOfReach, out_of_reach

    tags = open_clip.list_pretrained()
    assert len(tags) > 100
    for name, tag in tags:
        hub = str(open_clip.get_pretrained_cfg(name, tag).get("hf_hub", ""))
        with pytest.raises(OutOfReach) as failed, out_of_reach(f"{name}/{tag}", hub):
            raise OSError("no network")
        words = str(failed.value).split("'")
        assert len(words) == 1 or re.fullmatch(r"hf download [^/\s]+/[^/\s]+( \S+| --local-dir DIR)", words[1]), words


@pytest.mark.parametrize(
    ("error", "words"),
    [("GatedRepoError", "hf auth login"), ("RepositoryNotFoundError", "check the spelling"), ("ENOSPC", "no room")],
)
def test_other_troubles_of_a_hub_have_sentences_of_their_own(error: str, words: str) -> None:
    from mmsearch.encoders.open_clip_hub import out_of_reach

    raised = OSError(28, "No space left on device") if error == "ENOSPC" else type(error, (Exception,), {})()
    with pytest.raises(WeightsUnavailable, match=words), out_of_reach("hf-hub:a/b", "a/b"):
        raise raised


def test_what_is_on_this_disk_asks_no_network(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **_: asked.append(a) or [])
    monkeypatch.setattr(socket, "create_connection", lambda *a, **_: asked.append(a))
    for family in ("vit", "siglip", "xlm-roberta"):
        load_encoder(f"open_clip:local-dir:{models / family}", device="cpu")
    assert asked == []


def test_a_missing_tokenizer_is_not_called_damaged_weights(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "siglip", tmp_path / "siglip")
    for path in (tmp_path / "siglip").glob("*token*"):
        path.unlink()
    with pytest.raises(WeightsUnavailable, match=r"The tokenizer of .*tokenizer\.json"):
        load_encoder(f"open_clip:local-dir:{tmp_path / 'siglip'}", device="cpu")


def test_too_little_memory_is_not_called_damaged_weights(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    def choke(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(open_clip, "create_model", choke)
    with pytest.raises(WeightsUnavailable, match="not enough memory"):
        load_encoder(f"open_clip:local-dir:{models / 'vit'}", device="cpu")


def test_open_clip_leaves_the_root_logger_alone(models: Path) -> None:
    before = list(logging.getLogger().handlers), list(logging.getLogger().filters)
    load_encoder(f"open_clip:local-dir:{models / 'vit'}", device="cpu")
    assert (list(logging.getLogger().handlers), list(logging.getLogger().filters)) == before


# --- the list -------------------------------------------------------------------------------------------------------


def test_models_are_listed_with_what_is_on_this_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "open_clip_model.safetensors").write_bytes(b"x")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = {model.uri: model for model in list_models()}
    assert found["compact:v1"].on_disk
    base = found["open_clip:ViT-B-32/laion2b_s34b_b79k"]
    assert (base.dim, base.image_size, base.languages, base.on_disk) == (512, 224, "English", True)
    assert base.megabytes == pytest.approx(605, abs=2)
    assert not found["open_clip:ViT-B-32/openai"].on_disk
    assert found["open_clip:xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k"].languages == "many"
    assert found["open_clip:ViT-B-16-SigLIP2/webli"].languages == "many"
    assert len(found) > 100
    assert all(model.dim > 0 and model.image_size > 0 for model in found.values())
