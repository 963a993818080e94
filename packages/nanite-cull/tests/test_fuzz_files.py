"""Damaged meshes: each is read, or refused with a ValueError or an OSError that names the file.

    python tests/test_fuzz_files.py --seconds 600 --seed 1 --reader gltf

.ncl files are read past their hashes too, from Python; fuzz_ncl.cpp does so under the sanitizers.
"""

import argparse
import base64
import contextlib
import copy
import faulthandler
import io
import itertools
import json
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import _C, ncl
from nanite_cull._core import open_meshoptimizer
from nanite_cull._files import reading

pytestmark = pytest.mark.native
pytest.importorskip("trimesh")

MEMORY = 2 << 30  # bytes more than the process has when it begins
SECONDS = 10  # of the processor for one example; one that waits may do so 60 times as long
DATA = Path(__file__).parent / "data"
CORNERS = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], "<f4")
UVS = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], "<f4")
COLORS = np.array([[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255], [9, 9, 9, 9]], "u1")
FACES = np.array([[0, 1, 2], [0, 2, 3]], "<u2")
Files = dict[str, bytes]

NUMBERS = [0, 1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
WORDS = [
    b"", b"-1", b"0", b"1e9", b"1e308", b"nan", b"inf", b"3.5", b"4294967297", b"9" * 30,
    b"9" * 5000, b"\0", b"\xff\xfe", b"1/2/3", b"1//", b"usemtl x", b"list", b"double",
    b"../../x", b"/dev/zero", b"/proc/self/mem", b"\n", b"f 1 2 9", b"map_Kd m.obj",
]  # fmt: skip
VALUES: list[Any] = [None, True, -1, 0, 1, 3, 0.5, 2**31, 2**32, 2**63, 10**30, 1e308, -1e-308,
                     float("nan"), float("inf"), "", "\0", "\ud800", "x", "VEC4", "MASK", [], {},
                     [0], [[]], {"x": 1}, ["x"] * 3, [1e30] * 16]  # fmt: skip


def png() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.arange(8 * 8 * 4, dtype=np.uint8).reshape(8, 8, 4)).save(out, "PNG")
    return out.getvalue()


def header_and_buffer() -> tuple[dict[str, Any], bytes]:
    """A square with all that is read: sparse and normalised accessors, textures, lights, copies."""
    arrays = [
        (CORNERS, 5126, "VEC3"), (UVS, 5126, "VEC2"), (COLORS, 5121, "VEC4"), (FACES, 5123, ""),
        (CORNERS[:2], 5126, "VEC3"), (np.array([1], "<u2"), 5123, ""), (CORNERS[:1], 5126, "VEC3"),
    ]  # fmt: skip
    data, views, accessors = b"", [], []
    for array, code, kind in arrays:
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": array.nbytes})
        raw = array.tobytes()
        data += raw + b"\0" * (-len(raw) % 4)
        count = array.size if not kind else len(array)
        accessors.append({"bufferView": len(views) - 1, "componentType": code, "count": count,
                          "type": kind or "SCALAR"})  # fmt: skip
    accessors[2]["normalized"] = True
    sparse = {"count": 1, "indices": {"bufferView": 5, "componentType": 5123},
              "values": {"bufferView": 6}}  # fmt: skip
    accessors.append({"componentType": 5126, "count": 4, "type": "VEC3", "sparse": sparse})
    accessors.append({**accessors[0], "sparse": sparse})
    info = {"index": 0, "extensions": {"KHR_texture_transform": {"offset": [0.1, 0], "rotation": 1,
                                                                 "scale": [2, 2]}}}  # fmt: skip
    attributes = {"POSITION": 0, "TEXCOORD_0": 1, "COLOR_0": 2}
    header = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0, 2]}],
        "nodes": [
            {"mesh": 0, "children": [1], "translation": [1, 0, 0], "rotation": [0, 0, 0, 1]},
            {"mesh": 1, "matrix": np.eye(4).ravel().tolist(),
             "extensions": {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": 4}}}},
            {"extensions": {"KHR_lights_punctual": {"light": 0}}, "scale": [1, 2, 1]},
        ],
        "meshes": [
            {"primitives": [{"attributes": attributes, "indices": 3, "material": 0}]},
            {"name": "fan", "primitives": [{"attributes": {"POSITION": 8}, "mode": 6}]},
        ],
        "materials": [{"alphaMode": "MASK", "alphaCutoff": 0.5,
                       "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 1],
                                                "baseColorTexture": info}}],
        "textures": [{"source": 0, "sampler": 0}], "images": [{"uri": "m.png"}],
        "samplers": [{"magFilter": 9728, "minFilter": 9987, "wrapS": 33071}],
        "accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(data)}],
        "extensions": {"KHR_lights_punctual": {"lights": [{"type": "point", "range": 3}]}},
        "extensionsUsed": ["KHR_lights_punctual", "KHR_texture_transform"],
    }  # fmt: skip
    return header, data


def gltf(header: Any, data: bytes) -> Files:
    uri = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
    text = json.dumps(header).replace('"buffers": [{', f'"buffers": [{{"uri": "{uri}", ')
    return {"m.gltf": text.encode(), "m.png": png()}


def glb(header: Any, data: bytes) -> Files:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(data), b"BIN\0") + data
    return {"m.glb": struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks, "m.png": png()}


def obj() -> Files:
    lines = [f"v {x} {y} {z} 1 0 0" for x, y, z in CORNERS] + [f"vt {u} {v}" for u, v in UVS]
    faces = ["f " + " ".join(f"{i + 1}/{i + 1}" for i in face) for face in FACES.tolist()]
    text = "\n".join(["mtllib m.mtl", "o a", *lines, "vn 0 0 1", "usemtl m", *faces, ""])
    material = b"newmtl m\nKd 1 0.5 0\nNs 10\nmap_Kd m.png\n"
    return {"m.obj": text.encode(), "m.mtl": material, "m.png": png()}


def of_trimesh(ending: str, **options: Any) -> Files:
    import trimesh

    mesh = trimesh.Trimesh(CORNERS, FACES, vertex_colors=COLORS, process=False)
    data = mesh.export(file_type=ending.removesuffix("_ascii"), **options)
    return {f"m.{ending.split('_')[0]}": data if isinstance(data, bytes) else data.encode()}


def stored() -> list[Files]:
    material = nc.Material("m", albedo=np.zeros((4, 4, 4), np.uint8), alpha_mode="mask")
    asset = nc.build(CORNERS, FACES, uvs=UVS, materials=(material,))
    with tempfile.TemporaryDirectory() as folder:
        new = asset.save(Path(folder) / "m.ncl").read_bytes()
    old = [(DATA / name).read_bytes() for name in ("torus.ncl", "torus_version_2.ncl")]
    return [{"m.ncl": data} for data in (new, *old)]


def damaged(rng: np.random.Generator, whole: bytes, kinds: int = 7) -> bytes:
    """Some bytes changed, cut out, doubled; numbers and words that no writer writes. Of the first
    two `kinds` alone the file keeps its length."""
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 6))):
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 9))
        kind = rng.integers(kinds)
        if kind == 0:
            data[at : at + length] = rng.bytes(length)[: len(data) - at]
        elif kind == 1:
            width = 2 ** int(rng.integers(4))
            number = NUMBERS[rng.integers(len(NUMBERS))] % 256**width
            data[at : at + width] = number.to_bytes(width, "little")[: len(data) - at]
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4 and rng.random() < 0.2:
            del data[at:]
        else:
            words = bytes(data).split(b" ")
            words[rng.integers(len(words))] = WORDS[rng.integers(len(WORDS))]
            data = bytearray(b" ".join(words))
        if not data:
            break
    return bytes(data)


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value below a value of JSON."""
    below = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in below if isinstance(value, (dict, list)) else ():
        found += [(value, key), *(places(inner) if isinstance(inner, (dict, list)) else ())]
    return found


def changed(rng: np.random.Generator, value: Any) -> Any:
    """Values of JSON taken out, put in the place of others, or made odd."""
    value = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        there = places(value)
        if not there:
            break
        container, key = there[rng.integers(len(there))]
        kind = rng.integers(4)
        if kind == 0:
            del container[key]
        elif kind == 1:
            other, name = there[rng.integers(len(there))]
            container[key] = copy.deepcopy(other[name])
        elif kind == 2 and type(container[key]) is int:
            container[key] += int(rng.integers(-2, 3))
        else:
            container[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    return value


def example(reader: str, rng: np.random.Generator) -> Files:
    """A folder of files of which one is damaged."""
    make, parts = {"gltf": gltf, "glb": glb}.get(reader), header_and_buffer()
    if make and rng.random() < 0.75:
        return make(changed(rng, parts[0]), parts[1])
    files = make(*parts) if make else SOURCES[reader][rng.integers(len(SOURCES[reader]))]
    names = list(files)
    hurt = names[0 if rng.random() < 0.8 else rng.integers(len(names))]
    kinds = 2 if reader == "ncl" and rng.random() < 0.9 else 7  # of another length none is read
    return files | {hurt: damaged(rng, files[hurt], kinds)}


def read_mesh(path: Path, rng: np.random.Generator) -> None:
    assert nc.load(path).validate() == []
    nc.Scene.from_file(path)


def read_gltf(path: Path, rng: np.random.Generator) -> None:
    steps: list[Callable[[], Any]] = [lambda: nc.load_lights(path), lambda: read_mesh(path, rng)]
    steps[rng.integers(2)]()


def read_ncl(path: Path, rng: np.random.Generator) -> None:
    verify = bool(rng.random() < 0.2)
    kind = rng.integers(3)
    if kind == 0:
        with reading(path, "read_ncl"):
            core, _ = _C.read_ncl(str(path), 1, verify)
        assert core.validate(1) == []
    elif kind == 1:
        opened = ncl.open(path)
        with reading(path, "read_ncl"):
            opened._core = _C.NclFile(str(path), verify, 1)
        for page in range(len(opened.page_bytes)):
            opened.page(page)
        assert opened.load().validate() == [], opened.materials
    else:
        asset = nc.open(path)
        renderer = nc.Renderer(64, 64, budget=1 << 20, wait_resident=True)
        renderer.render(nc.Scene(asset), nc.Camera.around(asset))


SOURCES: dict[str, list[Files]] = {
    "obj": [obj()],
    "ply": [of_trimesh("ply"), of_trimesh("ply", encoding="ascii")],
    "stl": [of_trimesh("stl"), of_trimesh("stl_ascii")],
    "ncl": stored(),
}
READERS = {"gltf": read_gltf, "glb": read_gltf, "obj": read_mesh, "ply": read_mesh,
           "stl": read_mesh, "ncl": read_ncl}  # fmt: skip


def one(reader: str, rng: np.random.Generator, folder: Path) -> bool:
    """Whether an example is read all the same. Raises what must not be raised."""
    files = example(reader, rng)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    refusal = None
    try:
        READERS[reader](folder / next(iter(files)), rng)
    except (ValueError, OSError) as error:
        refusal = str(error)
    assert {path.name for path in folder.iterdir()} == set(files)
    for name in files:
        (folder / name).unlink()
    assert refusal is None or "m." in refusal, refusal
    return refusal is None


def fuzz(readers: list[str], seconds: float, most: int, seed: int, first: int) -> tuple[int, int]:
    """(examples tried, those read all the same), from number `first` on. Raises what `one` does;
    ends the process where one takes more than SECONDS."""
    open_meshoptimizer()
    status = Path("/proc/self/statm").read_text().split()
    limit = int(status[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    faulthandler.register(signal.SIGPROF, chain=True)  # says where, then ends the process
    end, read = time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in itertools.count(first):
            if number == first + most or time.monotonic() > end:
                break
            print(f"\rseed {seed}, example {number} ", end="", file=sys.stderr, flush=True)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            faulthandler.dump_traceback_later(60 * SECONDS, exit=True)
            reader = readers[number % len(readers)]
            read += one(reader, np.random.default_rng([seed, number]), Path(folder))
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
    return number - first, read


def broken(place: str, value: Any) -> Files:
    """The square with another value at a place such as "accessors/0/count"."""
    header, data = header_and_buffer()
    *path, last = [int(key) if key.isdigit() else key for key in place.split("/")]
    inside: Any = header
    for key in path:
        inside = inside[key]
    inside[last] = value
    return glb(header, data)


@pytest.mark.parametrize(
    ("place", "value"),
    [("scenes/0/nodes", []), ("accessors/0/count", 1 << 40), ("accessors/7/count", 1 << 40),
     ("accessors/0/count", -1), ("bufferViews/0/byteLength", 1 << 40), ("nodes/0/mesh", 9),
     ("meshes/0/primitives/0/material", 9), ("nodes/0/rotation", "x"), ("accessors/1", None),
     ("textures/0/sampler", 7), ("materials/0/alphaMode", "odd"),
     ("meshes/0/primitives/0/attributes/TEXCOORD_0", 0),
     ("meshes/0/primitives/0/attributes/COLOR_0", 1),
     ("nodes/1/matrix", [*np.eye(4).ravel()[:15].tolist(), 2.0]),
     ("nodes/1/matrix", [1.0, 0.0, 0.0, 0.5, *np.eye(4).ravel()[4:].tolist()]),
     ("nodes/1/matrix", [float("nan"), *np.eye(4).ravel()[1:].tolist()]),
     ("nodes/0/translation", [float("inf"), 0, 0])],
)  # fmt: skip
def test_what_the_fuzzer_found_in_a_gltf_is_refused_by_name(place, value, tmp_path):
    for name, data in broken(place, value).items():
        (tmp_path / name).write_bytes(data)
    for read in (nc.load, nc.Scene.from_file):
        with pytest.raises(ValueError, match=r"m\.glb"):
            read(tmp_path / "m.glb")


def test_a_header_nested_without_end_is_refused_by_name(tmp_path):
    (tmp_path / "m.gltf").write_text('{"nodes":' + "[" * 100000)
    with pytest.raises(ValueError, match=r"m\.gltf"):
        nc.load(tmp_path / "m.gltf")


def test_no_memory_is_taken_for_a_header_that_is_not_there(tmp_path):
    header, data = header_and_buffer()
    whole = bytearray(glb(header, data)["m.glb"])
    whole[12:16] = (0xFFFFFF00).to_bytes(4, "little")
    (tmp_path / "m.glb").write_bytes(whole)
    tracemalloc.start()
    with contextlib.suppress(ValueError):
        nc.load_lights(tmp_path / "m.glb")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1 << 24


def run(seconds: float, most: int, seed: int, first: int = 0) -> tuple[int, int]:
    """`fuzz` in a process of its own: what ends that one is a failure here."""
    command = [sys.executable, __file__, "--seconds", seconds, "--most", most, "--seed", seed]
    command += ["--first", first]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    tried, read = map(int, done.stdout.split())
    return tried, read


def test_damaged_meshes_are_refused_by_name_or_read():
    tried, read = run(600, 200, 0)
    assert tried == 200
    assert 0 < read < 200


@pytest.mark.slow
def test_thousands_of_damaged_meshes():
    tried, _ = run(10**9, 5000, 1)
    assert tried == 5000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=READERS, nargs="+", default=list(READERS))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--most", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    print(*fuzz(given.reader, given.seconds, given.most, given.seed, given.first))
