"""Compositions: each example runs, small, and leaves the pictures and the card that it says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nanite_cull as nc
import spconv_lite as sp

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


def run(*command: str | Path) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(part) for part in command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", ["flight", "similar", "streets"])
def test_an_example_runs_and_its_card_shows_what_it_made(name, tmp_path):
    run(sys.executable, EXAMPLES / f"{name}.py", "--out", tmp_path, "--small")
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["pictures"]
    for picture in card["pictures"]:
        path = tmp_path / picture["file"]
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert np.asarray(image).std() > 5  # not one flat colour
        else:
            assert path.stat().st_size > 1000
    assert all(figure["value"] for figure in card["figures"])


def losses(printed: str) -> dict[int, str]:
    """Step -> its loss as printed; a step that ran twice as it was printed last."""
    return {int(step): loss for step, loss in re.findall(r"step (\d+), loss ([\d.]+)", printed)}


def test_a_run_that_lost_a_process_ends_as_one_that_was_left_alone(tmp_path):
    torchrun = Path(sys.executable).parent / "torchrun"
    command = [torchrun, "--nproc-per-node", "2", "--max-restarts", "1", EXAMPLES / "replicas.py"]
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    first = run(*command, "--out", killed, "--steps", "8", "--kill-at", "6")
    second = run(*command, "--out", alone, "--steps", "8")
    assert losses(first) == losses(second)
    assert len(losses(first)) == 8
    assert "Signal 9" in first or "SIGKILL" in first or "-9" in first  # it was killed
    ends = [state(folder / "step_00000008") for folder in (killed, alone)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def state(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, by torch's own reader."""
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys

    loaded = _load_state_dict_from_keys(storage_reader=FileSystemReader(folder))
    flat: dict[str, torch.Tensor] = {}

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}", inner)
        elif isinstance(value, torch.Tensor):
            flat[prefix] = value

    walk("", loaded)
    return flat


def test_no_byte_is_copied_from_a_picture_to_a_sparse_tensor():
    """A plane of a frame is torch's memory, and features are what a sparse tensor was given."""
    asset = nc.build(*nc.meshes.planet(3), progress=False)
    frame = nc.Renderer(64, 48).render(nc.Scene(asset), nc.Camera.around(asset))
    plane = frame.position
    tensor = torch.from_dlpack(plane)
    assert tensor.data_ptr() == plane.ctypes.data
    rows = tensor.reshape(-1, 3)
    sites = torch.cartesian_prod(*(torch.arange(n) for n in (1, 1, 48, 64)))
    x = sp.SparseConvTensor(rows, sites.int(), [1, 48, 64], 1)
    assert x.features.data_ptr() == plane.ctypes.data
    picture = frame.picture()
    assert torch.from_numpy(picture).permute(2, 0, 1).data_ptr() == picture.ctypes.data
