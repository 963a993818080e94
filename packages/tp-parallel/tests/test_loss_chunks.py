"""How many rows the losses take at a time: by the cache of a CPU, by the memory of a device."""

import types

import pytest
import torch

from tp_parallel.loss import cross_entropy, linear_cross_entropy


@pytest.mark.parametrize(
    ("gib", "least"), [(139, 8192), (24, 1800)], ids=["H200: one chunk", "24 GiB: a few"]
)
def test_on_a_device_the_torch_operators_take_as_many_rows_as_its_memory_has_room_for(
    monkeypatch, gib, least
):
    properties = types.SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    logits = types.SimpleNamespace(device=torch.device("cuda"), shape=(8192, 50304))
    assert cross_entropy._chunk_rows(logits) >= least


def test_on_a_cpu_the_temporary_of_a_chunk_stays_in_the_cache():
    logits = torch.empty(8192, 50304, device="meta").new_empty(0, 50304, device="cpu")
    assert cross_entropy._chunk_rows(logits) * 50304 * 4 <= 4 << 20


@pytest.mark.parametrize(
    ("columns", "dtype", "rows"),
    [(50304, torch.float32, 128), (50304, torch.bfloat16, 512), (6288, torch.float32, 1280),
     (6288, torch.bfloat16, 2560), (262144, torch.bfloat16, 512)],
)  # fmt: skip
def test_the_chunked_loss_takes_its_rows_by_their_bytes(columns, dtype, rows):
    assert linear_cross_entropy.default_rows(columns, dtype) == rows
