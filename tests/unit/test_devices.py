"""Devices, batch sizes and the worker of one device. Marked `gpu`: runs on CUDA where there is one, else on the CPU."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmsearch.encoders import DEFAULT_ENCODER, load_encoder
from mmsearch.errors import DeviceError
from mmsearch.runtime import devices
from mmsearch.runtime.devices import BatchSize, TorchWorker, check_device, find_devices

clip = pytest.mark.needs_clip


@pytest.mark.parametrize("name", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:0,cuda:1"])
def test_devices_are_written_so(name: str) -> None:
    assert check_device(name) == name


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:0,cpu", "cuda:x", "CPU", "cuda:0,", "cpu,cpu", "cuda:01"])
def test_other_words_are_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="choose auto, cpu, cuda"):
        check_device(name)


def test_compact_runs_on_the_cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="CPU only"):
        load_encoder("compact", device="cuda")
    monkeypatch.setenv("MMSEARCH_DEVICE", "cuda")  # meant for the encoders that can choose
    assert load_encoder("compact").spec.uri == DEFAULT_ENCODER
    monkeypatch.setenv("MMSEARCH_DEVICE", "toaster")
    with pytest.raises(DeviceError, match="toaster"):
        load_encoder("compact")


def fake_torch(gpus: int, *, mps: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: gpus > 0, device_count=lambda: gpus),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
        version=SimpleNamespace(cuda="12.8" if gpus else None, hip=None),
    )


@pytest.mark.parametrize(
    ("wanted", "gpus", "mps", "found"),
    [
        ("auto", 0, False, ("cpu",)),
        ("auto", 0, True, ("mps",)),
        ("auto", 2, False, ("cuda:0",)),
        ("cpu", 2, False, ("cpu",)),
        ("cuda", 2, False, ("cuda:0",)),
        ("cuda:1", 2, False, ("cuda:1",)),
        ("cuda:0,cuda:1", 2, False, ("cuda:0", "cuda:1")),
        ("cuda:1,cuda:1", 2, False, ("cuda:1",)),
    ],
)
def test_devices_are_found(
    wanted: str, gpus: int, mps: bool, found: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "require_torch", lambda: fake_torch(gpus, mps=mps))
    assert find_devices(wanted) == found


@pytest.mark.parametrize(("wanted", "gpus"), [("cuda", 0), ("cuda:2", 2), ("cuda:0,cuda:5", 2), ("mps", 0)])
def test_a_device_that_is_not_there_is_named(wanted: str, gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "require_torch", lambda: fake_torch(gpus))
    with pytest.raises(DeviceError, match=r"There is no .*[Cc]hoose"):
        find_devices(wanted)


def test_batches_grow_while_that_is_faster() -> None:
    speeds = {4: 100.0, 8: 180.0, 16: 300.0, 32: 310.0, 64: 900.0}
    batch = BatchSize(4, 64)
    for _ in range(20):
        size = batch.size
        batch.ran(size, size / speeds[size])
    assert (batch.size, batch.settled) == (16, True), "32 gains too little, 64 is not tried any more"
    batch.ran(16, 1e9)
    assert batch.size == 16


def test_the_first_run_of_a_size_and_short_runs_say_nothing() -> None:
    batch = BatchSize(4, 64)
    batch.ran(4, 1.0)
    batch.ran(3, 1.0)
    assert batch.size == 4
    batch.ran(4, 1.0)
    assert batch.size == 8


def test_batches_shrink_for_good_when_memory_runs_out() -> None:
    batch = BatchSize(64, 2048)
    batch.out_of_memory(64)
    assert batch.size == 32
    for _ in range(8):
        batch.ran(batch.size, 1.0)
    assert batch.size == 32
    with pytest.raises(MemoryError):
        batch.out_of_memory(1)


def test_a_size_that_was_best_and_does_not_fit_any_more_is_not_gone_back_to() -> None:
    batch = BatchSize(64, 2048)
    for seconds in (1.0, 1.0, 1.0, 1.0):  # 64 twice, 128 twice: 128 is best
        batch.ran(batch.size, seconds)
    assert batch.size == 256
    batch.out_of_memory(256)
    batch.out_of_memory(128)
    for _ in range(10):
        batch.ran(batch.size, 1.0)
    assert batch.size == 64


def test_a_fixed_batch_is_settled() -> None:
    batch = BatchSize(8, 8)
    for _ in range(5):
        batch.ran(8, 1.0)
    assert batch.size == 8
    assert batch.settled


@pytest.fixture(scope="module")
def device() -> str:
    torch = pytest.importorskip("torch", reason="needs the extra [clip]")
    return "cuda:0" if torch.cuda.is_available() else "cpu"


@clip
@pytest.mark.gpu
def test_rows_come_back_in_order_as_float32(device: str) -> None:
    worker = TorchWorker(device)
    rows = np.arange(900, dtype=np.uint8).reshape(300, 3)
    for _ in range(3):
        done = worker.run(lambda x: x.float() * 2, rows, batch=worker.image_batch)
        np.testing.assert_allclose(done, rows.astype(np.float32) * 2)
        assert done.dtype == np.float32


@clip
@pytest.mark.gpu
def test_mixed_precision_keeps_close_to_float32(device: str) -> None:
    import torch

    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    rows = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    worker = TorchWorker(device, dtype=torch.bfloat16)
    on_device = weight.to(worker.device)
    done = worker.run(lambda x: x @ on_device, rows, batch=worker.image_batch)
    exact = rows @ weight.numpy()
    assert done.dtype == np.float32
    assert 0 < np.abs(done - exact).max() < 0.5, "bfloat16 has eight bits"


@clip
@pytest.mark.gpu
def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(device: str) -> None:
    import torch

    worker = TorchWorker(device)
    sizes: list[int] = []

    def choke(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.float()

    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    np.testing.assert_array_equal(worker.run(choke, rows, batch=worker.image_batch), rows)
    assert max(sizes) > 3
    assert worker.image_batch.size <= 3
    worker.run(choke, rows, batch=worker.image_batch)
    assert max(sizes[-6:]) <= 3, "the smaller size is remembered"


@clip
@pytest.mark.gpu
def test_results_that_wait_on_the_device_are_fetched_before_the_batch_is_called_too_large(device: str) -> None:
    import torch

    worker = TorchWorker(device)
    batch = BatchSize(8, 8)
    alive: list[weakref.ref[torch.Tensor]] = []

    def large(x: torch.Tensor) -> torch.Tensor:
        if sum(ref() is not None for ref in alive) > 0:  # room for the results of one batch
            raise RuntimeError("MPS backend out of memory")
        result = x.float() * 2
        alive.append(weakref.ref(result))
        return result

    rows = np.arange(100, dtype=np.float32).reshape(50, 2)
    np.testing.assert_array_equal(worker.run(large, rows, batch=batch), rows * 2)
    assert batch.size == 8


@clip
@pytest.mark.gpu
@pytest.mark.parametrize("message", ["CUDA out of memory", "[enforce fail] DefaultCPUAllocator: can't allocate memory"])
def test_a_single_row_that_does_not_fit_is_a_memory_error(device: str, message: str) -> None:
    import torch

    worker = TorchWorker(device)
    kind: Any = torch.OutOfMemoryError if "CUDA" in message else RuntimeError

    def choke(_: torch.Tensor) -> torch.Tensor:
        raise kind(message)

    with pytest.raises(MemoryError):
        worker.run(choke, np.zeros((2, 2), np.float32), batch=worker.image_batch)


@clip
@pytest.mark.gpu
def test_other_errors_pass(device: str) -> None:
    import torch

    worker = TorchWorker(device)

    def fail(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        worker.run(fail, np.zeros((2, 2), np.float32), batch=worker.image_batch)


@clip
@pytest.mark.gpu
def test_a_model_gives_the_same_vectors_on_every_device(device: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.support import picture
    from tests.tiny_models import cosines, make_model

    uri = f"open_clip:local-dir:{make_model('vit', tmp_path_factory.mktemp('model') / 'vit')}"
    here, there = load_encoder(uri, device="cpu"), load_encoder(uri, device=device)
    assert here.spec == there.spec
    pixels = np.stack([here.prepare_image(picture(seed)) for seed in range(200)])
    assert cosines(here.encode_images(pixels), there.encode_images(pixels)).min() > 0.999
    texts = [f"{n} red cars" for n in range(100)]
    assert cosines(here.encode_texts(texts), there.encode_texts(texts)).min() > 0.999
