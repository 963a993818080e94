"""The command: scans in four formats give the same voxels; broken files give one sentence."""

import json

import numpy as np
import pytest
import torch

from spconv_lite.__main__ import main
from spconv_lite.data import timing

PIL = pytest.importorskip("PIL.Image")
FIELDS = ("x", "y", "z", "intensity")


def write(path, points):
    count = len(points)
    if path.suffix == ".npy":
        np.save(path, points)
    elif path.suffix == ".bin":
        points.tofile(path)
    elif path.suffix == ".ply":
        fields = "".join(f"property float {name}\n" for name in FIELDS)
        header = f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n"
        path.write_bytes(f"{header}{fields}end_header\n".encode() + points.tobytes())
    else:
        rows = "\n".join(" ".join(map(repr, row)) for row in points.tolist())
        path.write_text(
            "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\n"
            f"COUNT 1 1 1 1\nWIDTH {count}\nHEIGHT 1\nPOINTS {count}\nDATA ascii\n{rows}\n"
        )


@pytest.fixture
def points():
    generator = np.random.default_rng(0)
    scale, low = np.array([60, 60, 6, 1]), np.array([-30, -30, -3, 0])
    return (generator.random((500, 4)) * scale + low).astype(np.float32)


def test_every_format_gives_the_same_picture_and_count(points, tmp_path, capsys):
    seen = set()
    for suffix in (".npy", ".bin", ".ply", ".pcd"):
        scan, picture = tmp_path / f"scan{suffix}", tmp_path / f"picture{suffix}.png"
        write(scan, points)
        assert main(["--json", "voxelize", str(scan), "-o", str(picture)]) == 0
        facts = json.loads(capsys.readouterr().out)
        pixels = np.asarray(PIL.open(picture))
        assert pixels.shape == (1000, 1000, 3)
        seen.add((facts["points"], facts["voxels"], pixels.tobytes()))
    assert len(seen) == 1
    (found,) = seen
    cells = np.floor((points[:, :3] + [50, 50, 4]) / [0.1, 0.1, 0.2])
    assert found[:2] == (500, len(np.unique(cells, axis=0)))


@pytest.mark.parametrize("name", ["picture.jpg", "picture.JPEG"])
def test_a_name_that_ends_in_jpg_gets_a_jpeg(name, points, tmp_path):
    np.save(tmp_path / "scan.npy", points)
    assert main(["voxelize", str(tmp_path / "scan.npy"), "-o", str(tmp_path / name)]) == 0
    with PIL.open(tmp_path / name) as picture:
        assert picture.format == "JPEG"
        assert picture.size == (1000, 1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "scan.npy"]


def test_a_picture_that_cannot_be_written_is_named_before_work_begins(
    points, tmp_path, capsys, monkeypatch
):
    np.save(tmp_path / "scan.npy", points)
    write_to = ["voxelize", str(tmp_path / "scan.npy"), "-o"]
    assert main([*write_to, str(tmp_path / "x.gif")]) == 2
    assert "must be a .png, .jpg or .jpeg, got 'x.gif'" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main([*write_to, str(tmp_path / "x.jpg")]) == 2
    assert "a JPEG needs Pillow" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.bin", b"123", "a KITTI scan is 16 bytes a point, got 3 bytes"),
        ("a.txt", b"", "a scan must end in .npy, .bin, .ply, .pcd"),
        ("a.ply", b"ply\n", "the header has no end"),
        (
            "a.ply",
            b"ply\nformat binary_little_endian 1.0\nelement vertex 99999999999\n"
            b"property float x\nproperty float y\nproperty float z\nend_header\n12",
            "99999999999 points of 12 bytes are promised, 2 bytes are there",
        ),
        ("a.pcd", b"FIELDS x y\nDATA ascii\n", "missing: ['POINTS', 'SIZE', 'TYPE']"),
    ],
)
def test_broken_files_end_in_one_sentence(name, content, sentence, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert main(["voxelize", str(tmp_path / name), "-o", str(tmp_path / "x.png")]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


def test_info_names_version_build_and_cuda(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    for word in ("spconv-lite", "build", "instruction set", "threads", "cuda", "torch"):
        assert word in text


def test_bench_times_the_steps_of_a_layer_and_counts_its_pairs(capsys):
    threads = torch.get_num_threads()
    try:
        assert (
            main(
                [
                    "--json",
                    "bench",
                    "--sites",
                    "500",
                    "--channels",
                    "8",
                    "--repeats",
                    "2",
                    "--threads",
                    "1",
                ]
            )
            == 0
        )
    finally:
        torch.set_num_threads(threads)
    facts = json.loads(capsys.readouterr().out)
    assert [facts["sites"], facts["channels"], facts["threads"]] == [500, 8, 1]
    assert 500 <= facts["pairs"] <= 27 * 500
    assert all(facts[name] >= 0 for name in facts if name.endswith("ms"))
    assert facts["forward, GFLOP/s"] > 0
    assert [timing.three_digits(figure) for figure in (0.00123456, 98765.4)] == [0.00123, 98800]
    with pytest.raises(SystemExit):
        main(["bench", "--sites", "-3"])
    assert "must be a positive integer, got '-3'" in capsys.readouterr().err
