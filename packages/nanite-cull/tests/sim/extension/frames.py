"""Renderer(device="cuda") in the simulator beside device="cpu": every output, by Python's calls.

python frames.py FOLDER: of build.py. Ends with "all equal", or with an AssertionError.
"""

import ctypes
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = sys.argv[1]
# an editable installation finds its own package before any path
sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]
sys.path.insert(0, FOLDER)

import numpy as np  # noqa: E402
import pytest  # noqa: E402

import nanite_cull as nc  # noqa: E402
from nanite_cull import _C, meshes  # noqa: E402
from nanite_cull.frame import DEVICE_PICTURES, DEVICE_PLANES  # noqa: E402

SIZE = (40, 24)


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


def read(array: Any) -> np.ndarray:
    """A copy of what an object of the DLPack protocol shares, in the simulator's memory."""
    assert array.__dlpack_device__()[0] == 2  # CUDA
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    capsule = array.__dlpack__()
    tensor = DLTensor.from_address(pointer(capsule, b"dltensor"))
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    kind = {0: "i", 1: "u", 2: "f", 6: "b"}[tensor.code]
    dtype = np.dtype(bool) if kind == "b" else np.dtype(f"{kind}{tensor.bits // 8}")
    count = int(np.prod(shape))
    if count == 0:
        return np.empty(shape, dtype)
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(tensor.data)
    return np.frombuffer(memory, dtype).reshape(shape).copy()


def same(got: np.ndarray, want: np.ndarray, what: str) -> None:
    assert got.dtype == want.dtype, (what, got.dtype, want.dtype)
    assert got.shape == want.shape, (what, got.shape, want.shape)
    assert np.array_equal(got, want, equal_nan=got.dtype.kind == "f"), what


def leaves() -> nc.Scene:
    """A few rings of holes and colours, and a wall."""
    random, scene = np.random.default_rng(6), nc.Scene()
    picture = random.integers(0, 256, (32, 16, 4), np.uint8)
    vertices, faces, normals, uvs = meshes.torus(24, 12)
    table = [nc.Material(), nc.Material(albedo=picture, alpha_mode="mask", alpha_cutoff=0.4)]
    ring = nc.build(vertices, faces, normals=normals, uvs=uvs * 5, progress=False,
                    material_ids=np.arange(len(faces)) % 2, materials=table)  # fmt: skip
    places = np.tile(np.eye(4), (4, 1, 1))
    places[:, :3, :3], _ = np.linalg.qr(random.normal(size=(4, 3, 3)))
    places[:, :3, 3] = random.normal(size=(4, 3))
    scene.add(ring, places)
    return scene


def cameras(count: int) -> list[nc.Camera]:
    return [nc.Camera.look_at((0.7 * i, 6, 1), (0, 0, 0), near=0.1) for i in range(count)]


def check_frames(occlusion: bool) -> None:
    scene = leaves()
    options = {"lights": [nc.Sun((1, 1, 0.4), cascades=2), nc.Lamp((0, 4, 1))], "shadow_size": 24,
               "velocity": True, "overdraw": True, "occlusion": occlusion}  # fmt: skip
    cpu, cuda = (nc.Renderer(*SIZE, device=d, **options) for d in ("cpu", "cuda"))
    away = nc.Camera.look_at((0, 6, 1), (0, 99, 0))
    for camera in (*cameras(2), away):
        moved = np.tile(np.eye(4), (1, 1, 1))
        moved[0, 0, 3] = camera.eye[0]
        scene.update(0, moved)
        want, frame = cpu.render(scene, camera), cuda.render(scene, camera)
        for name in DEVICE_PLANES:
            same(read(frame.device_array(name)), getattr(want, name), name)
        for kind in DEVICE_PICTURES:
            same(read(frame.device_picture(kind)), want.picture(kind), kind)
        lamp = read(frame.device_picture(light=(1, 2, 3)))
        same(lamp, want.picture(light=(1, 2, 3)), "a lamp's picture")
        for kind in ("shaded", "normal", "depth", "overdraw"):
            same(frame.picture(kind), want.picture(kind), kind)
        for name in ("lit", "position", "velocity", "albedo", "overdraw", "visible_clusters"):
            same(getattr(frame, name), getattr(want, name), name)
        cuts = zip(frame.cut_mesh(), want.cut_mesh(), strict=True)
        assert all(np.array_equal(a, b) for a, b in cuts)
        kept = frame.device_array("normal")
    cuda.render(scene, cameras(1)[0])
    same(read(kept), want.normal, "a plane of an older frame")
    for call in (lambda: frame.device_array("lit"), frame.device_picture):
        with pytest.raises(RuntimeError, match="a later frame"):
            call()


def check_older_frames() -> None:
    """Planes and light of a frame after which another was drawn come from the CPU, by maps that
    are read back."""
    scene, camera = leaves(), cameras(1)[0]
    options = {"lights": [nc.Sun(cascades=2)], "shadow_size": 24}
    cpu, cuda = (nc.Renderer(*SIZE, device=d, **options) for d in ("cpu", "cuda"))
    frame, want = cuda.render(scene, camera), cpu.render(scene, camera)
    cuda.render(scene, nc.Camera.look_at((5, 5, 2), (0, 0, 0)))
    same(frame.lit, want.lit, "lit")
    same(frame.picture(), want.picture(), "picture")
    samples = [nc.Renderer(*SIZE, device=d, samples=2, **options) for d in ("cpu", "cuda")]
    pictures = [r.render(scene, camera, cull_camera=camera).picture() for r in samples]
    same(pictures[1], pictures[0], "picture of two samples")


def check_views() -> None:
    scene = leaves()
    for occlusion in (False, True):
        cpu, cuda = (nc.Renderer(*SIZE, device=d, occlusion=occlusion) for d in ("cpu", "cuda"))
        for count in (2, 3):
            want = cpu.render_depths(scene, cameras(count))
            same(cuda.render_depths(scene, cameras(count)), want, "render_depths")
            same(read(cuda.device_depths(scene, cameras(count))), want, "device_depths")
            cpu.render_depths(scene, cameras(count))
            stats = [{k: v for k, v in r.stats.items() if k != "ms"} for r in (cpu, cuda)]
            assert stats[0] == stats[1], stats


def check_streaming() -> None:
    asset = nc.build(*meshes.planet(3), progress=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.ncl"
        path.write_bytes(_C.encode_ncl(asset._core, 0, 4096))
        scenes = [nc.Scene(nc.open(path)) for _ in range(2)]
        renderers = [nc.Renderer(*SIZE, device=d, wait_resident=True) for d in ("cpu", "cuda")]
        for distance in (4.0, 1.3, 2.0):
            camera = nc.Camera.look_at((0.1, 0.2, distance), (0, 0, 0), near=0.01)
            want, frame = (r.render(s, camera) for r, s in zip(renderers, scenes, strict=True))
            for name in ("depth", "cluster", "triangle", "normal"):
                same(getattr(frame, name), getattr(want, name), name)
            same(read(frame.device_array("normal")), want.normal, "normal")


assert _C.cuda_architectures == "simulated"
check_frames(occlusion=False)
check_frames(occlusion=True)
check_older_frames()
check_views()
check_streaming()
print("all equal")
