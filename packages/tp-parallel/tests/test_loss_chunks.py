"""How many rows the losses take at a time: by the cache of a CPU, by the memory of a device."""

import types

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from tp_parallel import ParallelContext, vocab_parallel_linear_cross_entropy
from tp_parallel.layers.precision import computed_dtype
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


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_multiplied_in_float32_only_on_a_processor_that_has_no_products_of_it(
    monkeypatch, fast
):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: fast)
    x = torch.zeros(2, dtype=torch.bfloat16)
    assert computed_dtype(torch.bfloat16, x) == (torch.bfloat16 if fast else torch.float32)
    for other in (torch.float32, torch.float64):
        assert computed_dtype(other, x) == other
    assert computed_dtype(torch.bfloat16, x.to("meta")) == torch.bfloat16
    with FakeTensorMode():  # a plan must not depend on the processor on which it is made
        assert computed_dtype(torch.bfloat16, torch.zeros(2)) == torch.bfloat16


@pytest.mark.parametrize("fast", [True, False])
def test_a_bfloat16_loss_is_right_whatever_the_processor_multiplies_in(monkeypatch, fast):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: fast)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(70, 16, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(50, 16, generator=generator).bfloat16().requires_grad_()
    target = torch.randint(50, (70,), generator=generator)
    loss = vocab_parallel_linear_cross_entropy(
        hidden, weight, target, context=ParallelContext(device="cpu"), vocab_size=50, chunk_rows=32
    )
    found = loss, *torch.autograd.grad(loss, (hidden, weight))
    x, w = (each.detach().float().requires_grad_() for each in (hidden, weight))
    right = F.cross_entropy(F.linear(x, w), target)
    wanted = right, *torch.autograd.grad(right, (x, w))
    assert [each.dtype for each in found] == [torch.float32, torch.bfloat16, torch.bfloat16]
    for ours, theirs in zip(found, wanted, strict=True):
        bound = 0.02 if fast else 0.004  # of the logits in bfloat16, or of the result alone
        assert (ours.float() - theirs).abs().max() <= bound * theirs.abs().max()
