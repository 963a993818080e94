"""The libraries meet in tensors, arrays and files: what one makes, the next takes as it is."""

import shutil

import numpy as np
import pytest
import torch

import convlstm
import ffmpeg_gpu_build
import nanite_cull
import resnet_zoo
import spconv_lite
import tp_parallel

WIDTH, HEIGHT, FRAMES = 96, 64, 6
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg on PATH")


@pytest.fixture(scope="module")
def asset():
    return nanite_cull.build(*nanite_cull.meshes.planet(4))


@pytest.fixture(scope="module")
def orbit(asset):
    """Frames of a camera that goes around a small planet."""
    scene, renderer = nanite_cull.Scene(asset), nanite_cull.Renderer(WIDTH, HEIGHT)
    cameras = [nanite_cull.Camera.around(asset, azimuth=15 * i) for i in range(FRAMES)]
    return [renderer.render(scene, camera) for camera in cameras]


def test_a_rendered_depth_becomes_a_sparse_tensor(asset, orbit):
    """Points seen from all sides are voxelised and convolved; they lie on the mesh."""
    points = np.concatenate([frame.position[frame.coverage] for frame in orbit])
    low, high = asset.box
    size = float((high - low).max()) / 32
    assert (points >= low - size).all()
    assert (points <= high + size).all()
    corner = low - size
    grid = [*corner, *(corner + 36 * size)]
    voxels, indices, number = spconv_lite.PointToVoxel([size] * 3, grid, 3, 50_000, 8)(
        torch.from_numpy(points)
    )
    mean = voxels.sum(1) / number[:, None]
    sites = torch.nn.functional.pad(indices, (1, 0))
    x = spconv_lite.SparseConvTensor(mean, sites, [36] * 3, 1)
    net = spconv_lite.SparseSequential(
        spconv_lite.SubMConv3d(3, 8, 3), spconv_lite.SparseConv3d(8, 8, 3, stride=2, padding=1)
    )
    y = net(x)
    assert y.spatial_shape == [18] * 3
    assert y.features.shape[0] > 100
    y.features.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


@needs_ffmpeg
def test_rendered_frames_become_a_clip_and_a_forecast(orbit, tmp_path):
    """Pictures go through a video file into a ConvLSTM, and its frames into a video again."""
    clip, ahead = tmp_path / "orbit.mp4", tmp_path / "ahead.mp4"
    assert ffmpeg_gpu_build.write_frames(clip, (frame.picture() for frame in orbit)) == FRAMES
    read = list(ffmpeg_gpu_build.read_frames(clip, size=(24, 16), pixels="gray", torch=True))
    frames = torch.stack(read)[None, ..., None] / 255
    assert frames.shape == (1, FRAMES, 16, 24, 1)
    assert frames.std() > 0.05  # a planet on a background, not a flat picture
    model = convlstm.next_frame("small", size=(16, 24), filters=4)
    forecast = convlstm.forecast(model, frames, steps=3)
    pictures = (forecast[0, ..., 0].clamp(0, 1) * 255).byte()
    assert ffmpeg_gpu_build.write_frames(ahead, pictures) == 3
    assert ffmpeg_gpu_build.probe(ahead).video.size == (24, 16)


def test_rendered_frames_are_classified_by_replicas_of_a_resnet(orbit):
    """Pictures are prepared as for ImageNet; data parallel replicas give what one model gives."""
    weights = resnet_zoo.ResNet18_Weights.DEFAULT
    prepare = weights.transforms()
    batch = torch.stack(
        [prepare(torch.from_numpy(frame.picture()).permute(2, 0, 1)) for frame in orbit]
    )
    assert batch.shape == (FRAMES, 3, 224, 224)
    model = resnet_zoo.resnet18(num_classes=10).eval()
    replicas = tp_parallel.DataParallel(model, device_ids=["cpu", "cpu"])
    with torch.no_grad():
        torch.testing.assert_close(replicas(batch), model(batch))
