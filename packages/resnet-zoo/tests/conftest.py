"""Oracles: torchvision and timm beside a CPU build of torch.

Their wheels are installed without dependencies. The torchvision wheel's extension belongs to a CUDA
build, so the two operators that its import asks for are declared first; models, transforms and
weight metadata then work.
"""

import sys

import pytest
import torch

collect_ignore_glob = []


@pytest.fixture(scope="session")
def torchvision():
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    sys.modules.setdefault("_resnet_zoo_test_oracle_library", library)  # keep it alive
    module = pytest.importorskip("torchvision", reason="the torchvision oracle is not installed")
    assert hasattr(module.models, "resnet50")
    return module


@pytest.fixture(scope="session")
def timm(torchvision):
    return pytest.importorskip("timm", reason="the timm oracle is not installed")


@pytest.fixture(autouse=True)
def _two_threads_and_a_private_cache(tmp_path_factory, monkeypatch):
    """No test touches the user's cache or the network outside loopback."""
    torch.set_num_threads(2)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch_home")))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("RESNET_ZOO_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("RESNET_ZOO_OFFLINE", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)


def _calibrate(model, size=40):
    """Give the norms realistic statistics, so that logits stay of order one."""
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 3, size, size))
    return model.eval()


@pytest.fixture(scope="session")
def calibrate():
    return _calibrate
