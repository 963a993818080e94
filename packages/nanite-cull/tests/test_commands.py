"""The command line: files in, files and figures out, and exit codes that mean something."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import nanite_cull as nc
from nanite_cull import meshes
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
