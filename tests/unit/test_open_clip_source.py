"""Where OpenCLIP models come from: what their URIs are refused for, hubs out of reach, the list of models."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmsearch.encoders import DEFAULT_ENCODER, load_encoder
from mmsearch.encoders.models import list_models
from mmsearch.errors import EncoderError, UnknownEncoder, WeightsUnavailable
from tests.tiny_models import FAMILIES

pytestmark = pytest.mark.needs_clip


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
    assert found[DEFAULT_ENCODER].on_disk
    base = found["open_clip:ViT-B-32/laion2b_s34b_b79k"]
    assert (base.dim, base.image_size, base.languages, base.on_disk) == (512, 224, "English", True)
    assert base.megabytes == pytest.approx(605, abs=2)
    assert not found["open_clip:ViT-B-32/openai"].on_disk
    assert found["open_clip:xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k"].languages == "many"
    assert found["open_clip:ViT-B-16-SigLIP2/webli"].languages == "many"
    assert len(found) > 100
    assert all(model.dim > 0 and model.image_size > 0 for model in found.values())
