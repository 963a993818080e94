"""Frames as people have them: arrays, natural order, 16 bits, floats, several recordings."""

import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from convlstm import data, pictures, train
from convlstm.__main__ import main
from convlstm.forecasting.data import Frames, Scale, load_frames, load_recordings


def folder_of(path, frames, ending=".png", name="frame{}"):
    path.mkdir()
    for k, frame in frames.items():
        Image.fromarray(frame).save(path / (name.format(k) + ending))
    return path


def test_numbers_in_names_are_in_their_order(tmp_path):
    frames = {k: np.full((8, 8), k, "uint8") for k in (1, 2, 9, 10, 11, 100)}
    got = load_frames(folder_of(tmp_path / "f", frames))
    assert (got[:, 0, 0, 0] * 255).round().astype(int).tolist() == [1, 2, 9, 10, 11, 100]
    names = ["radar_2024-1-9.png", "radar_2024-1-10.png", "radar_2024-02-01.png", "a.png"]
    (tmp_path / "n").mkdir()
    for name in names:
        Image.fromarray(frames[1]).save(tmp_path / "n" / name)
    order = [p.name for p in data.natural_order((tmp_path / "n").iterdir())]
    assert order == ["a.png", *names[:3]]


def test_sixteen_bits_keep_their_depth(tmp_path):
    ramp = (np.arange(64).reshape(8, 8) * 1000).astype("uint16")
    for ending in (".png", ".tif"):
        folder = folder_of(tmp_path / f"deep{ending}", {1: ramp, 2: ramp}, ending)
        recordings, scale = load_recordings(folder)
        assert scale == Scale(0, 65535, "of 65535")
        assert np.allclose(recordings[0][0, ..., 0], ramp / 65535, atol=1e-7)
        assert len(np.unique(recordings[0])) == 64


def test_float_pictures_keep_their_values(tmp_path):
    rain = np.linspace(0, 5, 64, dtype="float32").reshape(8, 8)
    recordings, scale = load_recordings(folder_of(tmp_path / "f", {1: rain}, ".tif"))
    assert (scale.low, scale.high) == (0, 5)
    assert np.allclose(scale.undo(recordings[0][0, ..., 0]), rain, atol=1e-6)
    broken = rain.copy()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="missing values"):
        load_frames(folder_of(tmp_path / "g", {1: broken}, ".tif"))


def test_colour_pictures_and_mixed_depths(tmp_path):
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (8, 8, 3)).astype("uint8")
    assert load_frames(folder_of(tmp_path / "c", {1: frame}), channels=3).shape == (1, 8, 8, 3)
    mixed = {1: frame[..., 0], 2: frame[..., 0].astype("uint16")}
    with pytest.raises(ValueError, match="one size and depth"):
        load_frames(folder_of(tmp_path / "m", mixed))


@pytest.mark.parametrize(
    ("shape", "count", "frames"),
    [
        ((7, 8, 8), 1, 7),
        ((7, 8, 8, 1), 1, 7),
        ((5, 12, 8, 8), 12, 5),  # mnist_test_seq.npy: time, sequence, H, W
        ((4, 7, 8, 8, 1), 4, 7),
    ],
)
@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_arrays_are_recordings(tmp_path, shape, count, frames, ending):
    array = np.random.default_rng(0).integers(0, 255, shape).astype("uint8")
    path = tmp_path / f"mnist_test_seq{ending}"
    np.save(path, array) if ending == ".npy" else np.savez(path, frames=array)
    recordings, scale = load_recordings(path)
    assert len(recordings) == count
    assert recordings[0].shape == (frames, 8, 8, 1)
    assert scale.high == 255
    if len(shape) == 4 and count > 1:
        assert np.allclose(recordings[3][2, ..., 0] * 255, array[2, 3], atol=1e-4)


def test_what_is_no_array_of_frames_is_refused_by_name(tmp_path):
    np.save(tmp_path / "line.npy", np.zeros(4))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    np.savez(tmp_path / "two.npz", a=np.zeros((3, 8, 8)), b=np.zeros(3))
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, message in [
        ("line.npy", "must be"), ("text.npy", "must hold numbers"), ("two.npz", "one array"),
        ("cut.npy", "no array of numbers"), ("object.npy", "no array of numbers"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            load_frames(tmp_path / name)


def test_windows_never_cross_from_one_recording_to_the_next():
    recordings = [np.full((10, 4, 4, 1), k, "float32") for k in range(3)]
    source = Frames(recordings, 4)
    for held_out in (False, True):
        batch = source.batch(0, 0, 50, held_out)
        assert all(len(np.unique(window)) == 1 for window in batch)
        assert set(np.unique(batch)) == {0, 1, 2}
    many = Frames([np.full((4, 2, 2, 1), k, "float32") for k in range(20)], 4)
    assert set(np.unique(many.batch(0, 0, 200))) == set(range(18))
    assert set(np.unique(many.batch(0, 0, 200, True))) == {18, 19}


def test_the_scale_of_the_training_is_that_of_the_forecast(tmp_path, capsys):
    rain = np.random.default_rng(0).random((40, 16, 16)).astype("float32") * 20
    np.save(tmp_path / "rain.npy", rain)
    np.save(tmp_path / "drizzle.npy", rain / 10)
    run = str(tmp_path / "run")
    options = ["--size", "16x16", "--filters", "2", "--frames", "4", "--steps", "1", "--json"]
    assert main(["train", "--out", run, "--data", str(tmp_path / "rain.npy"), *options]) == 0
    scale = train.load_checkpoint(run).scale
    assert scale.high == pytest.approx(float(rain.max()))
    capsys.readouterr()
    ahead = ["--given", "2", "--steps", "2", "--count", "2", "--json"]
    for name in ("rain.npy", "drizzle.npy"):
        assert main(["predict", run, "--data", str(tmp_path / name), *ahead]) == 0
    from convlstm.forecasting.commands import source_of

    source = source_of(str(tmp_path / "drizzle.npy"), (16, 16), 4, 1, scale)
    assert source.batch(0, 0, 8).max() < 0.11  # not stretched to [0, 1] again


def test_an_animation_is_what_its_name_says(tmp_path):
    av = pytest.importorskip("av")
    panels = {"a": np.random.default_rng(0).random((5, 12, 12, 1))}
    pictures.animation(panels, tmp_path / "x.mp4")
    assert (tmp_path / "x.mp4").read_bytes()[4:8] == b"ftyp"
    with av.open(str(tmp_path / "x.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
    pictures.animation(panels, tmp_path / "x.gif")
    assert (tmp_path / "x.gif").read_bytes()[:4] == b"GIF8"
    for write, name in ((pictures.gif, "x.mp4"), (pictures.animation, "x.webp")):
        with pytest.raises(ValueError, match=r"must end in \.gif"):
            write(panels, tmp_path / f"new{name}")
    with pytest.raises(ValueError, match=r"must end in \.png"):
        pictures.strip(panels, ["t"] * 5, tmp_path / "s.jpg")
    with pytest.raises(ValueError, match=r"grey or .* colour"):
        pictures.gif({"two": np.zeros((3, 8, 8, 2))}, tmp_path / "two.gif")


def test_written_files_have_the_users_permissions_and_links_stay(tmp_path):
    import os
    import stat

    from convlstm import models

    old = os.umask(0o027)
    try:
        pictures.gif({"a": np.zeros((2, 8, 8, 1))}, tmp_path / "a.gif")
        models.save_keras(models.next_frame("small", size=(8, 8), filters=1), tmp_path / "a.keras")
    finally:
        os.umask(old)
    for name in ("a.gif", "a.keras"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640
    (tmp_path / "link.gif").symlink_to("a.gif")
    (tmp_path / "a.gif").chmod(0o604)
    pictures.gif({"a": np.ones((3, 8, 8, 1))}, tmp_path / "link.gif")
    assert (tmp_path / "link.gif").is_symlink()
    assert stat.S_IMODE((tmp_path / "a.gif").stat().st_mode) == 0o604
    assert len(load_frames(tmp_path / "a.gif")) == 3
    with pytest.raises(OSError, match="No space left"):
        pictures.gif({"a": np.zeros((2, 8, 8, 1))}, "/dev/full")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_link_that_leads_to_itself_is_told_and_stays(tmp_path):
    (tmp_path / "a.gif").symlink_to("a.gif")
    with pytest.raises(OSError, match="a symlink that leads to itself"):
        pictures.gif({"a": np.ones((3, 8, 8, 1))}, tmp_path / "a.gif")
    assert (tmp_path / "a.gif").is_symlink()


@pytest.mark.parametrize("many", [3, 20])
def test_no_frame_that_is_held_out_is_trained_on_with_several_recordings(many):
    """Every frame holds its recording and its time, so a window tells where it comes from."""
    length = 40
    recordings = [
        np.full((length, 1, 1, 1), k, np.float32) + np.arange(length).reshape(-1, 1, 1, 1) / 1000
        for k in range(many)
    ]
    frames = Frames(recordings, steps=3)
    trained = set(np.round(frames.batch(0, 0, 2000), 3).ravel().tolist())
    held = set(np.round(frames.batch(0, 0, 500, held_out=True), 3).ravel().tolist())
    assert held
    assert not trained & held
    assert {int(value) for value in trained} == set(range(many if many < 10 else many - many // 10))


def test_missing_values_stay_missing_and_are_not_trained_on(tmp_path):
    rain = np.random.default_rng(0).random((40, 12, 12)).astype("float32") * 20
    rain[:, 3:5, 4:7] = np.nan
    np.save(tmp_path / "rain.npy", rain)
    recordings, scale = data.open_recordings(tmp_path / "rain.npy")
    assert np.isnan(recordings[0][:]).sum() == np.isnan(rain).sum()
    assert scale.high == pytest.approx(float(np.nanmax(rain)))
    kept, _ = load_recordings(tmp_path / "rain.npy", missing="keep")
    assert np.isnan(kept[0]).any()
    run = str(tmp_path / "run")
    options = ["--size", "12x12", "--filters", "2", "--frames", "4", "--steps", "3", "--every", "3"]
    source = ["--data", str(tmp_path / "rain.npy")]
    assert main(["train", "--out", run, *source, *options, "--json"]) == 0
    assert all(p.isfinite().all() for p in train.load_checkpoint(run).parameters())
    strip = str(tmp_path / "s.png")
    assert main(["predict", run, *source, "--given", "2", "--steps", "2", "--strip", strip]) == 0
    rain[0, 0, 0] = np.inf
    np.save(tmp_path / "rain.npy", rain)
    with pytest.raises(ValueError, match="infinite values"):
        load_recordings(tmp_path / "rain.npy", missing="keep")


def test_the_scale_of_rain_rates_is_their_logarithm_and_comes_back():
    scale = data.SCALES["mm/h"]
    rates = np.array([0, 0.05, 0.1, 1, 10, 100, np.nan], "float32")
    frames = scale.apply(rates)
    assert np.allclose(frames[:6], [0, 0, 0, 1 / 3, 2 / 3, 1], atol=1e-6)
    assert np.isnan(frames[6])
    assert np.allclose(scale.undo(frames[3:6]), rates[3:6], rtol=1e-5)
    assert scale.undo(frames[:2]).tolist() == [0, 0]
    assert data.SCALES["dBZ"].apply(np.array([-10.0, 60.0])).tolist() == [0, 1]
    with pytest.raises(ValueError, match="above 0"):
        Scale(0, 1, transform="log")
    with pytest.raises(ValueError, match="one of linear, log"):
        Scale(0, 1, transform="root")


def test_a_recording_larger_than_memory_is_read_window_by_window(tmp_path):
    """A sparse file of 40 GB: what is not read is not there."""
    path = tmp_path / "large.npy"
    shape = (600_000, 128, 128)
    header = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    header[5] = 0.25
    del header
    values, _ = data.open_recordings(path, scale=Scale(0, 1))
    source = Frames(values, 10)
    assert source.batch(0, 0, 4).shape == (4, 10, 128, 128, 1)
    assert (values[0][5:6] == 0.25).all()
    folder = folder_of(tmp_path / "f", {k: np.full((8, 8), k, "uint8") for k in range(30)})
    (recording,), _ = data.open_recordings(folder)
    (folder / "frame3.png").write_bytes(b"damaged")  # not looked at before it is needed
    assert (recording[20:22][:, 0, 0, 0] * 255).round().tolist() == [20, 21]


def write_gridded(path):
    """Rain (x, time, y) packed as whole numbers with a fill value, and a second variable."""
    xarray = pytest.importorskip("xarray", reason="xarray reads NetCDF and Zarr")
    pytest.importorskip("zarr" if path.suffix == ".zarr" else "h5netcdf")
    rain = np.linspace(0, 40, 20 * 6 * 5).reshape(5, 20, 6).round(1)
    rain[1, 2, 3] = np.nan
    attributes = {"units": "mm h-1"}
    data_set = xarray.Dataset(
        {
            "rain": (("x", "time", "y"), rain, attributes),
            "quality": (("time", "y", "x"), np.ones((20, 6, 5), "float32")),
            "station": (("y",), np.zeros(6)),
        }
    )
    packed = {"rain": {"dtype": "int16", "scale_factor": 0.1, "_FillValue": -1}}
    if path.suffix == ".zarr":
        data_set.to_zarr(path)
    else:
        data_set.to_netcdf(path, engine="h5netcdf", encoding=packed)
    return rain.transpose(1, 2, 0)


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_netcdf_and_zarr_are_recordings_in_their_unit(tmp_path, ending):
    path = tmp_path / f"radar{ending}"
    rain = write_gridded(path)
    (recording,), scale = data.open_recordings(f"{path}::rain")
    assert recording.shape == (20, 6, 5, 1)
    assert scale == data.SCALES["mm/h"]
    assert np.allclose(recording[3:7][..., 0], scale.apply(rain[3:7]), atol=1e-5, equal_nan=True)
    assert np.isnan(recording[:]).sum() == 1
    with pytest.raises(ValueError, match=r"rain over three axes|rain, quality over three axes"):
        data.open_recordings(path)
    (path / "zarr.json" if path.is_dir() else path).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read"):
        data.open_recordings(f"{path}::rain")


def test_netcdf_without_xarray_names_the_cure(tmp_path, monkeypatch):
    (tmp_path / "a.nc").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(RuntimeError, match="pip install xarray h5netcdf zarr"):
        data.open_recordings(tmp_path / "a.nc")


def coordinates(path, minutes, unit="mm/h"):
    """Frames of 8x8 at these times, each with its number as its value."""
    xarray = pytest.importorskip("xarray", reason="xarray reads NetCDF")
    pytest.importorskip("h5netcdf")
    times = np.datetime64("2024-01-01", "ns") + np.array(minutes) * np.timedelta64(1, "m")
    rain = np.arange(len(minutes), dtype="f4")[:, None, None, None] * np.ones((1, 1, 8, 8), "f4")
    rain = xarray.DataArray(rain, dims=("time", "level", "y", "x"), attrs={"units": unit})
    xarray.Dataset({"rain": rain}, {"time": times}).to_netcdf(path, engine="h5netcdf")
    return path


def test_frames_of_a_netcdf_come_in_the_order_of_their_times(tmp_path):
    path = coordinates(tmp_path / "a.nc", [0, 15, 5, 10, 20])
    (recording,), _ = data.open_recordings(path)
    assert recording.values.read(0, 5)[:, 0, 0, 0].tolist() == [0, 2, 3, 1, 4]


def test_a_gap_in_the_times_begins_a_new_recording(tmp_path):
    path = coordinates(tmp_path / "a.nc", [0, 5, 10, 60, 65, 70, 75])
    first, second = data.open_recordings(path)[0]
    assert first.values.read(1, 3)[:, 0, 0, 0].tolist() == [1, 2]
    assert second.values.read(0, 4)[:, 0, 0, 0].tolist() == [3, 4, 5, 6]


def test_two_frames_of_one_time_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two frames of one time"):
        data.open_recordings(coordinates(tmp_path / "a.nc", [0, 5, 5, 10]))


def test_values_of_another_unit_than_the_checkpoints_are_refused(tmp_path):
    scale = data.SCALES["mm/h"]
    with pytest.raises(ValueError, match="are dBZ, those of the checkpoint mm/h"):
        data.open_recordings(coordinates(tmp_path / "a.nc", [0, 5, 10], "dBZ"), scale=scale)
    data.open_recordings(coordinates(tmp_path / "b.nc", [0, 5, 10], "mm h-1"), scale=scale)


@pytest.mark.parametrize(
    ("frames", "scale", "message"),
    [
        (np.full((9, 8, 8), 6000, "u2"), Scale(0, 255, "of 255"), "of 65535.*checkpoint of 255"),
        (np.full((9, 8, 8), 0.5, "f4"), Scale(0, 255, "of 255"), "from 0 to 1.*checkpoint of 255"),
        (np.full((9, 8, 8), 9, "u1"), Scale(0, 1), "of 255.*checkpoint from 0 to 1"),
        (np.full((9, 8, 8), 9, "u1"), data.SCALES["dBZ"], "of 255.*checkpoint dBZ"),
    ],
)
def test_values_of_another_depth_than_the_checkpoints_are_refused(tmp_path, frames, scale, message):
    np.save(tmp_path / "a.npy", frames)
    with pytest.raises(ValueError, match=message):
        data.open_recordings(tmp_path / "a.npy", scale=scale)
    np.save(tmp_path / "b.npy", frames.astype("f4") * 100)
    data.open_recordings(tmp_path / "b.npy", scale=scale)


@pytest.mark.parametrize("shape", [(5, 20), (20, 5), (20, 20), (1, 20)], ids=str)
@pytest.mark.parametrize("time_first", [False, True])
def test_sequences_are_told_from_their_frames_by_what_changes_less(tmp_path, shape, time_first):
    count, steps = shape
    rng = np.random.default_rng(0)
    starts = rng.random((count, 1, 8, 8))
    whole = (starts + 0.01 * rng.random((count, steps, 8, 8)).cumsum(1)).astype("f4")
    np.save(tmp_path / "a.npy", whole.swapaxes(0, 1) if time_first else whole)
    found, _ = load_recordings(tmp_path / "a.npy")
    assert len(found) == count
    assert all(len(recording) == steps for recording in found)


def test_gdals_missing_value_is_missing_and_no_part_of_the_scale(tmp_path):
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2()
    tags[42113] = "-9999"
    rain = np.linspace(0, 40, 64, dtype="f4").reshape(8, 8)
    rain[0, :3] = -9999
    (tmp_path / "f").mkdir()
    for k in range(3):
        Image.fromarray(rain).save(tmp_path / "f" / f"{k}.tif", tiffinfo=tags)
    for path in (tmp_path / "f", tmp_path / "f" / "0.tif"):
        (frames,), scale = load_recordings(path, missing="keep")
        assert (scale.low, scale.high) == (0, 40)
        assert np.isnan(frames[0, 0, :4, 0]).tolist() == [True] * 3 + [False]
    Image.fromarray(rain).save(tmp_path / "f" / "1.tif")
    with pytest.raises(ValueError, match="one NODATA"):
        load_recordings(tmp_path / "f", missing="keep")


def test_an_animation_in_a_folder_of_pictures_is_refused(tmp_path):
    pages = [Image.fromarray(np.full((8, 8), 10 * k, "u1")) for k in range(4)]
    (tmp_path / "f").mkdir()
    pages[0].save(tmp_path / "f" / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"a\.tif holds 4 frames"):
        load_frames(tmp_path / "f")
    assert load_frames(tmp_path / "f" / "a.tif").shape[0] == 4


def test_sixteen_bits_in_colour_are_refused_not_cut(tmp_path):
    def chunk(kind, body):
        whole = kind + body
        return struct.pack(">I", len(body)) + whole + struct.pack(">I", zlib.crc32(whole))

    rows = b"".join(b"\0" + np.full((8, 3), 1000 * k, ">u2").tobytes() for k in range(8))
    head = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    (tmp_path / "f").mkdir()
    data_of = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    (tmp_path / "f" / "a.png").write_bytes(data_of)
    for path in (tmp_path / "f", tmp_path / "f" / "a.png"):
        with pytest.raises(ValueError, match="16 bits for each of several channels"):
            load_frames(path, channels=3)


@pytest.mark.parametrize("content", [b"", b"no picture", "cut"])
def test_a_damaged_picture_is_named_and_ends_no_command_in_a_traceback(tmp_path, capsys, content):
    noise = np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)
    folder = folder_of(tmp_path / "frames", {1: noise, 2: noise})
    if content == "cut":
        content = (folder / "frame1.png").read_bytes()[:150]
    (folder / "frame1.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"frame1\.png is no picture, or damaged"):
        load_frames(folder)
    assert main(["train", "--out", str(tmp_path / "run"), "--data", str(folder)]) == 1
    assert "frame1.png" in capsys.readouterr().err


def test_what_systems_leave_beside_pictures_is_no_frame(tmp_path):
    folder = folder_of(tmp_path / "frames", {1: np.zeros((4, 4), np.uint8)})
    (folder / "._frame1.png").write_bytes(b"of macOS")
    (folder / "frame2.png").mkdir()
    assert len(load_frames(folder)) == 1
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"nothing")
    assert len(load_recordings(tmp_path)[0]) == 1


def tiff_of(values):
    """An uncompressed TIFF of one channel with the numbers of an array, signed or not."""
    h, w = values.shape
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    tags = [
        (256, 4, w), (257, 4, h), (258, 3, 8 * values.itemsize), (259, 3, 1), (262, 3, 1),
        (273, 4, 8), (277, 3, 1), (278, 4, h), (279, 4, len(data)),
        (339, 3, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    start = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    return start + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("kind", "low", "high", "said"),
    [
        ("int8", -100, 100, "signed 8"), ("uint32", 0, 4e9, "unsigned 32"),
        ("uint8", 0, 255, ""), ("uint16", 0, 6e4, ""), ("int16", -3e4, 3e4, ""),
        ("int32", -1e6, 1e6, ""), ("uint32", 0, 2e9, ""), ("float32", -1, 5, ""),
    ],
)  # fmt: skip
def test_numbers_of_a_tiff_keep_their_sign_or_are_refused(tmp_path, kind, low, high, said):
    values = np.linspace(low, high, 64).reshape(8, 8).astype(kind)
    (tmp_path / "a.tif").write_bytes(tiff_of(values))
    if said:
        with pytest.raises(ValueError, match=said):
            load_frames(tmp_path)
        return
    recordings, scale = load_recordings(tmp_path)
    back = scale.undo(recordings[0].astype(np.float64))[0, ..., 0]
    assert np.allclose(back, values.astype(np.float64), rtol=0, atol=1e-6 * max(abs(low), high))


@pytest.mark.parametrize("channels", [2, 4])
def test_frames_of_two_or_four_channels_are_no_recordings(tmp_path, channels):
    np.save(tmp_path / "a.npy", np.zeros((6, 8, 8, channels), np.uint8))
    with pytest.raises(ValueError, match="with 1 or 3 channels"):
        load_frames(tmp_path / "a.npy")


@pytest.mark.parametrize("option", [{"limit": 0}, {"limit": -1}, {"channels": 2}])
def test_counts_that_make_no_sense_are_refused_by_name(tmp_path, option):
    np.save(tmp_path / "a.npy", np.zeros((6, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be"):
        load_frames(tmp_path / "a.npy", **option)


def test_panels_of_an_animation_go_together_or_are_refused(tmp_path):
    frames = np.random.default_rng(0).random((3, 1, 500, 1))
    pictures.animation({"wide": frames, "list": frames.tolist()}, tmp_path / "a.gif")
    assert Image.open(tmp_path / "a.gif").n_frames == 3
    with pytest.raises(ValueError, match=r"frames of one size, got a \(3, 1, 500, 1\), b"):
        pictures.gif({"a": frames, "b": frames[:, :, :9]}, tmp_path / "b.gif")
    with pytest.raises(ValueError, match="side must be at least 1"):
        pictures.gif({"a": frames}, tmp_path / "b.gif", side=0)
    with pytest.raises(ValueError, match="milliseconds must be at least 1"):
        pictures.mp4({"a": frames}, tmp_path / "b.mp4", milliseconds=0)
