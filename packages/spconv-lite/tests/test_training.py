"""What surrounds layers in training: DistributedDataParallel, mixed precision, checkpoints."""

import io
import os

import pytest
import torch
import torch.distributed as dist
from torch import nn

import spconv_lite as sp

SHAPE = [9, 20, 22]


def block(make, c_in, c_out, kernel=3, **settings):
    """As OpenPCDet and SECOND write it: post_act_block."""
    return sp.SparseSequential(
        make(c_in, c_out, kernel, bias=False, **settings),
        nn.BatchNorm1d(c_out, eps=1e-3, momentum=0.01),
        nn.ReLU(),
    )


class Backbone(nn.Module):
    """The names of OpenPCDet's VoxelBackBone8x, with fewer channels."""

    def __init__(self):
        super().__init__()
        self.conv_input = block(sp.SubMConv3d, 4, 8, padding=1, indice_key="subm1")
        self.conv1 = sp.SparseSequential(block(sp.SubMConv3d, 8, 8, padding=1, indice_key="subm1"))
        self.conv2 = sp.SparseSequential(
            block(sp.SparseConv3d, 8, 16, stride=2, padding=1, indice_key="spconv2"),
            block(sp.SubMConv3d, 16, 16, padding=1, indice_key="subm2"),
        )
        self.conv_out = block(
            sp.SparseConv3d, 16, 24, (3, 1, 1), stride=(2, 1, 1), indice_key="spconv_down2"
        )

    def forward(self, x):
        for layer in (self.conv_input, self.conv1, self.conv2, self.conv_out):
            x = layer(x)
        return x


@pytest.fixture
def batch(sparse):
    torch.manual_seed(0)
    indices = sparse.random_sites(400, 2, SHAPE, 1)
    return sp.SparseConvTensor(torch.randn(400, 4), indices, SHAPE, 2)


def test_a_state_dict_with_openpcdet_names_loads_into_a_detector_by_name(batch):
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone_3d = Backbone()

    torch.manual_seed(1)
    trained, model = Detector().eval(), Detector().eval()
    saved = trained.state_dict()
    assert {
        "backbone_3d.conv_input.0.weight",
        "backbone_3d.conv1.0.0.weight",
        "backbone_3d.conv2.0.1.running_mean",
        "backbone_3d.conv_out.1.bias",
    } <= saved.keys()
    # as spconv 2.x saves it: (out, z, y, x, in)
    assert saved["backbone_3d.conv_out.0.weight"].shape == (24, 3, 1, 1, 16)
    stream = io.BytesIO()
    torch.save({"model_state": saved, "epoch": 80}, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=True)["model_state"]
    assert str(model.load_state_dict(loaded)) == "<All keys matched successfully>"
    with torch.no_grad():
        got, expected = model.backbone_3d(batch), trained.backbone_3d(batch)
    assert torch.equal(got.features, expected.features)


def test_the_layers_of_a_peer_of_the_same_names_give_the_same_numbers(batch, monkeypatch):
    peer = pytest.importorskip("spconv.pytorch")
    theirs_in = peer.SparseConvTensor(batch.features, batch.indices, SHAPE, 2)
    ours = Backbone().eval()
    with monkeypatch.context() as swapped:
        for name in ("SubMConv3d", "SparseConv3d", "SparseSequential"):
            swapped.setattr(sp, name, getattr(peer, name))
        theirs = Backbone().eval()
    ours.load_state_dict(theirs.state_dict())
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # with two its results are sometimes wrong
    try:
        with torch.no_grad():
            expected = theirs(theirs_in).dense()
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(ours(batch).dense(), expected, atol=1e-5)


def test_distributed_data_parallel_averages_gradients_and_trains(batch, tmp_path):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = Backbone()
        single = Backbone()
        single.load_state_dict(net.state_dict())
        wrapped = nn.parallel.DistributedDataParallel(net)
        for model in (wrapped, single):
            model(batch).features.square().mean().backward()
        for a, b in zip(net.parameters(), single.parameters(), strict=True):
            assert torch.allclose(a.grad, b.grad, atol=1e-7)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_mixed_precision_step_with_scaled_loss_stays_close_to_float32(batch, dtype):
    net, exact = Backbone(), Backbone()
    exact.load_state_dict(net.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with torch.autocast("cpu", dtype):
        loss = net(batch).features.float().square().mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    exact(batch).features.square().mean().backward()
    for (name, a), b in zip(net.named_parameters(), exact.parameters(), strict=True):
        assert a.grad.dtype == torch.float32, name
        assert (a.grad - b.grad).norm() <= 0.25 * b.grad.norm() + 1e-3, name
    before = net.conv_input[0].weight.detach().clone()
    scaler.step(optimizer)
    assert not torch.equal(before, net.conv_input[0].weight)
