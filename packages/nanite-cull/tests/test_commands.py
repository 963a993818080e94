"""The command line: files in, files and figures out, and exit codes that mean something."""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageSequence

import nanite_cull as nc
from nanite_cull import flight, meshes
from nanite_cull.__main__ import EXAMPLES, main


@pytest.fixture
def mesh_file(tmp_path):
    trimesh = pytest.importorskip("trimesh")

    def write(suffix):
        vertices, faces = meshes.planet(3)
        path = tmp_path / f"planet{suffix}"
        trimesh.Trimesh(vertices, faces, process=False).export(path)
        return path

    return write


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
def test_mesh_files_become_assets_with_all_triangles(mesh_file, suffix):
    asset = nc.load(mesh_file(suffix))
    assert asset.statistics()["source_triangles"] == 20 * 4**3
    assert asset.statistics()["roots"] == 1
    assert asset.validate() == []


def test_an_stl_file_of_separate_triangles_has_the_levels_of_the_welded_mesh(mesh_file):
    welded, separate = nc.load(mesh_file(".ply")), nc.load(mesh_file(".stl"))
    assert welded.levels() == separate.levels()
    assert np.array_equal(welded.positions, separate.positions)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_help_of_each_command_ends_with_examples(name, capsys):
    with pytest.raises(SystemExit) as done:
        main([name, "--help"])
    assert done.value.code == 0
    assert f"examples:\n  nanite-cull {name}" in capsys.readouterr().out


def test_build_then_info_validate_and_render(mesh_file, tmp_path, capsys):
    stored = tmp_path / "planet.ncl"
    assert main(["build", str(mesh_file(".glb")), "-o", str(stored), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == stored.stat().st_size
    assert main(["info", str(stored), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source_triangles"] == 1280
    assert main(["info", str(stored)]) == 0
    assert "level  clusters" in capsys.readouterr().out
    assert main(["validate", str(stored)]) == 0
    assert capsys.readouterr().out == "all promises hold\n"
    picture = tmp_path / "planet.png"
    assert (
        main(["render", str(stored), "-o", str(picture), "--size", "120x80", "--kind", "overdraw"])
        == 0
    )
    assert Image.open(picture).size == (120, 80)


def test_orbit_is_an_animation(tmp_path):
    path = tmp_path / "orbit.gif"
    assert main(["orbit", "icosphere:3", "-o", str(path), "--size", "64x48", "--frames", "5"]) == 0
    with Image.open(path) as image:
        assert image.n_frames == 5
        assert image.size == (64, 48)


def test_a_flight_is_frames_in_a_folder_or_an_animation(tmp_path, capsys):
    stored = tmp_path / "planet.ncl"
    nc.build(*meshes.planet(4)).save(stored)
    options = ["--size", "64x48", "--frames", "5", "--budget", "1"]
    assert main(["fly", str(stored), "-o", str(tmp_path / "frames"), *options]) == 0
    names = sorted(p.name for p in (tmp_path / "frames").iterdir())
    assert names == [f"frame_{i:05}.png" for i in range(5)]
    pictures = [np.asarray(Image.open(tmp_path / "frames" / name)) for name in names]
    assert all(p.shape == (48, 64, 3) and p.std() > 5 for p in pictures)
    assert all((a != b).any() for a, b in pairwise(pictures))
    # streamed, and the same as with all in memory
    mesh = ["fly", "planet:4", "-o", str(tmp_path / "again"), *options]
    assert main(mesh) == 0
    camera = next(flight.cameras(flight.around(nc.load(stored)), 5, nc.load(stored)))
    whole = nc.Renderer(64, 48).render(nc.Scene(nc.load(stored)), camera).picture()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again" / names[0])), whole)
    path = tmp_path / "path.json"
    path.write_text(
        json.dumps(
            [{"eye": [0, 0, 3], "target": [0, 0, 0]}, {"eye": [0, 0, 1.2], "target": [0, 1, 0]}]
        )
    )
    animation = tmp_path / "a.gif"
    flown = ["fly", str(stored), "-o", str(animation), "--path", str(path), "--live", "--json"]
    capsys.readouterr()
    assert main([*flown, *options]) == 0
    assert json.loads(capsys.readouterr().out) == {"flight": str(animation), "frames": 5, "fps": 25}
    assert Image.open(animation).n_frames == 5
    places = flight.read_path(path)
    eyes = [camera.eye for camera in flight.cameras(places, 9, nc.load(stored))]
    assert np.allclose(eyes[0], [0, 0, 3])
    assert np.allclose(eyes[-1], [0, 0, 1.2])
    assert np.allclose(eyes[4], [0, 0, 2.1])


@pytest.mark.parametrize("fps", [1, 25, 30, 40, 48, 50])
def test_a_gif_plays_as_fast_as_the_flight_says(fps, tmp_path):
    """Its delays are hundredths of a second: at 30 a second no one of them does."""
    images = (np.full((4, 4, 3), i, np.uint8) for i in range(0, 240, 2))
    flight.write(images, tmp_path / "a.gif", fps)
    with Image.open(tmp_path / "a.gif") as image:
        delays = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert len(delays) == 120
    assert abs(sum(delays) - 120_000 / fps) <= 5
    assert set(delays) <= {1000 // fps // 10 * 10, -(-1000 // fps // 10) * 10}
    assert min(delays) >= 20


def test_a_gif_that_would_play_slower_than_said_is_refused(tmp_path, capsys):
    path = tmp_path / "a.gif"
    flown = ["fly", "icosphere:2", "-o", str(path), "--size", "8x8", "--frames", "2"]
    assert main([*flown, "--fps", "51"]) == 2
    assert "--fps of a GIF must be at most 50, got 51; write a video" in capsys.readouterr().err
    assert not path.exists()


def test_frames_of_a_longer_flight_are_named(tmp_path):
    images = np.zeros((5, 4, 4, 3), np.uint8)
    flight.write(images, tmp_path / "frames", 25)
    flight.write(images, tmp_path / "frames", 25)
    with pytest.warns(RuntimeWarning, match="2 pictures of another .*, frame_00003.png and on"):
        flight.write(images[:3], tmp_path / "frames", 25)


@pytest.mark.parametrize(
    "text",
    ["{}", "[", "[" * 100_000, '[{"eye": [0, 0, 1]}]', '[{"eye": [0, 0], "target": [0, 0, 0]}]',
     "3",
     '[{"eye": [0, 0, NaN], "target": [0, 0, 0]}, {"eye": [0, 0, 1], "target": [0, 0, 0]}]'],
)  # fmt: skip
def test_a_path_that_is_no_list_of_places_is_refused_by_name(text, tmp_path):
    path = tmp_path / "path.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"path\.json must"):
        flight.read_path(path)


@pytest.mark.parametrize("side", [1, -1])
def test_a_flight_may_look_straight_down(tmp_path, side):
    asset, path = nc.build(*meshes.planet(3)), tmp_path / "path.json"
    places = [{"eye": [x, 4 * side, 0.25], "target": [x, 0, 0.25]} for x in (-0.3, 0, 0.3)]
    path.write_text(json.dumps(places))
    for camera in flight.cameras(flight.read_path(path), 5, asset):
        frame = nc.Renderer(32, 24).render(nc.Scene(asset), camera)
        assert frame.coverage.sum() > 100
        north, south = (np.nanmean(half[..., 2]) for half in np.split(frame.position, 2))
        assert north < south  # -z is up


@pytest.mark.slow
def test_a_flight_is_a_video_where_the_command_is_installed(tmp_path):
    tried = [sys.executable, "-m", "ffmpeg_gpu_build", "--version"]
    if subprocess.run(tried, capture_output=True).returncode or not shutil.which("ffmpeg"):
        pytest.skip("needs ffmpeg-gpu-build and ffmpeg")
    video = tmp_path / "a.mp4"
    assert main(["fly", "planet:3", "-o", str(video), "--size", "64x48", "--frames", "6"]) == 0
    assert video.read_bytes()[4:8] == b"ftyp"
    decoded = ["ffmpeg", "-v", "error", "-i", video, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    frames = subprocess.run(decoded, capture_output=True, check=True).stdout
    pixels = np.frombuffer(frames, np.uint8).reshape(6, 48, 64, 3)
    asset = nc.build(*meshes.planet(3))
    for camera, seen in zip(flight.cameras(flight.around(asset), 6, asset), pixels, strict=True):
        drawn = nc.Renderer(64, 48).render(nc.Scene(asset), camera).picture()
        assert np.abs(drawn.astype(int) - seen).mean() < 12


def test_bench_measures(capsys):
    assert main(["bench", "heightfield:40", "--size", "64x64", "--frames", "2", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["source_triangles"] == 2 * 39**2
    assert figures["frame_cpu_ms"] > 0


def test_without_a_command_it_says_what_it_is():
    done = subprocess.run(
        [sys.executable, "-m", "nanite_cull"], capture_output=True, text=True, check=True
    )
    assert nc.__version__ in done.stdout
    assert "meshoptimizer" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nothing.glb"], "nothing.glb does not exist"),
        (["info", "gyroid:0"], "gyroid: cells must be at least 2, got 0"),
        (["render", "icosphere:2", "-o", "no/such/folder/a.png"], "No such file"),
        (["render", "icosphere:2", "-o", "a.png", "--threshold", "-1"], "threshold must be 0"),
        (["fly", "icosphere:2", "-o", "a.tiff"], "must be a folder, a .gif or a video"),
        (["fly", "icosphere:2", "-o", "a", "--path", "no.json"], "No such file"),
        (["fly", "nothing.ncl", "-o", "a"], "nothing.ncl does not exist"),
    ],
)
def test_wrong_input_is_exit_code_two_with_the_reason(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_mesh_is_refused(tmp_path):
    pytest.importorskip("trimesh")
    path = tmp_path / "text.obj"
    path.write_text("this is no mesh\n")
    with pytest.raises(ValueError, match=r"text\.obj"):
        nc.load(path)


def test_import_is_light():
    """Nothing heavy comes with the import: no torch, matplotlib, scipy, trimesh or subprocess."""
    code = "import sys, nanite_cull; print(sorted(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    for module in ("torch", "matplotlib", "scipy", "trimesh", "PIL", "tqdm"):
        assert f"'{module}'" not in out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_result_that_nobody_takes_ends_in_one_sentence(tmp_path):
    command = [sys.executable, "-m", "nanite_cull", "version", "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        "nanite-cull version: [Errno 28] No space left on device"
    ]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
