"""Assets drawn from a file's pages under a budget: never a hole, in the end the same picture."""

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import _C, meshes, ncl, reference

pytestmark = pytest.mark.native

PAGE = 6000  # bytes on disk: small ones make many pages of small meshes
PLANES = ("depth", "visibility", "instance", "cluster", "triangle", "level", "material", "normal",
          "uv", "color")  # fmt: skip
INSIDE = nc.Camera.look_at((0.1, 0, 0.2), (0, 0, -1), fov_y=90, near=0.01)  # of a closed mesh


def store(asset, path, page=PAGE):
    path.write_bytes(_C.encode_ncl(asset._core, 0, page))
    return path


def memory(path):
    """Bytes of all pages of positions, decoded."""
    count = ncl.open(path).clusters
    return int(12 * count["vertex_count"].sum() + 3 * count["triangle_count"].sum())


def settle(renderer, scene, camera, frames=400):
    """Renders until nothing is missing; the frames drawn."""
    drawn = []
    for _ in range(frames):
        drawn.append(renderer.render(scene, camera))
        if drawn[-1].stats["missing_pages"] == 0 and len(drawn) > 1:
            return drawn
        time.sleep(1 / 60)
    raise AssertionError(f"pages are still missing after {frames} frames: {drawn[-1].stats}")


def same(a, b):
    return all(
        getattr(a, p).tobytes() == getattr(b, p).tobytes() for p in PLANES
    ) and np.array_equal(a.picture(), b.picture())


@pytest.fixture(scope="module")
def colored():
    """Normals, texture coordinates, colours, materials, and an origin far away."""
    vertices, faces, normals, uvs = meshes.torus(120, 60)
    random = np.random.default_rng(1)
    return nc.build(
        vertices + np.array([5e5, 0, -3e6]), faces, normals=normals, uvs=uvs,
        colors=random.random((len(vertices), 4)), material_ids=np.arange(len(faces)) // 3000,
    )  # fmt: skip


@pytest.fixture(scope="module")
def large_planet():
    """327,680 triangles in small clusters, so that what a view needs is a small part."""
    return nc.build(*meshes.planet(7), max_triangles=32, group_size=6)


@pytest.fixture
def planet_file(planet_asset, tmp_path):
    return store(planet_asset, tmp_path / "planet.ncl")


@pytest.mark.parametrize("name", ["planet_asset", "field_asset", "torus_asset", "colored"])
@pytest.mark.parametrize("threshold", [0, 1, 12])
def test_waiting_gives_the_picture_of_the_whole_mesh(name, threshold, request, tmp_path):
    asset = request.getfixturevalue(name)
    streamed = nc.open(store(asset, tmp_path / "a.ncl"))
    for distance in (0.3, 1.0, 6.0):
        camera = nc.Camera.around(asset, 40, 20, distance)
        options = {"threshold": threshold, "threads": 2}
        whole = nc.Renderer(200, 150, **options).render(nc.Scene(asset), camera)
        waited = nc.Renderer(200, 150, wait_resident=True, **options)
        assert same(whole, waited.render(nc.Scene(streamed), camera))


def fly_over(asset, path, views, width, height, fov, **options):
    """Renders views of a planet that streams under a tenth of its memory, each beside the one of
    the whole mesh; how many pages came and went."""
    budget = memory(path) // 10
    streaming = nc.Renderer(width, height, wait_resident=True, budget=budget, **options)
    whole = nc.Renderer(width, height, **options)
    scene, streamed = nc.Scene(asset), nc.Scene(nc.open(path))
    for angle in np.linspace(0, 2 * np.pi, views):
        eye = np.array([np.sin(angle), 0.1, np.cos(angle)])
        camera = nc.Camera.look_at(1.5 * eye, 0.5 * eye, near=1e-3, fov_y=fov)
        frame = streaming.render(streamed, camera)
        assert same(frame, whole.render(scene, camera))
        assert frame.stats["resident_bytes"] <= budget
    return frame.stats["evicted_pages"]


@pytest.mark.once
def test_a_file_ten_times_the_budget_gives_the_same_pictures(large_planet, tmp_path):
    path = store(large_planet, tmp_path / "a.ncl", 4096)
    assert fly_over(large_planet, path, 24, 320, 240, 8, threshold=16) > 50


@pytest.mark.slow
def test_a_large_file_ten_times_the_budget_gives_the_same_pictures(tmp_path):
    """5.2 million triangles, pages and clusters of the usual size."""
    asset = nc.build(*meshes.planet(9), keep_source=False)
    path = asset.save(tmp_path / "a.ncl")
    assert fly_over(asset, path, 32, 960, 540, 12, threshold=16) > 20


def test_a_view_that_exceeds_the_budget_says_so(planet_asset, planet_file):
    budget = memory(planet_file) // 4
    scene, camera = nc.Scene(nc.open(planet_file)), INSIDE
    options = {"threshold": 0, "budget": budget, "wait_resident": True}
    with pytest.raises(
        RuntimeError, match=r"bytes of pages, more than the budget of .*; raise budg"
    ):
        nc.Renderer(160, 120, **options).render(scene, camera)
    renderer = nc.Renderer(160, 120, on_overflow="warn", **options)
    with pytest.warns(RuntimeWarning, match="more than the budget"):
        frame = renderer.render(scene, camera)
    assert frame.coverage.all()
    assert 0 < frame.stats["resident_bytes"] <= budget
    assert frame.stats["triangles"] > 200
    with pytest.raises(
        ValueError, match=r"always stay, take \d+ bytes, more than the budget of 100;"
    ):
        nc.Renderer(16, 16, budget=100).render(scene, camera)
    with pytest.raises(ValueError, match="budget must be at least 1, got 0"):
        nc.Renderer(16, 16, budget=0)


@pytest.mark.parametrize("seed", [1, 31])
def test_waiting_ends_whatever_the_budget_lacks(seed, tmp_path, monkeypatch):
    """Where not all fits, what is there says what is wanted next: pages may not take turns."""
    path = store(nc.build(*meshes.planet(6), max_triangles=32, group_size=6), tmp_path / "a.ncl")
    random, scene, waits = np.random.default_rng(seed), nc.Scene(), []
    places = np.tile(np.eye(4), (6, 1, 1))
    places[1:, :3, 3] = random.normal(size=(5, 3)) * 2
    scene.add(nc.open(path), places)
    camera = nc.Camera.look_at(random.normal(size=3), near=1e-3)
    load = nc.Renderer._load_wanted

    def counted(renderer):
        waits.append(renderer.budget)
        assert waits.count(renderer.budget) < 20
        return load(renderer)

    monkeypatch.setattr(nc.Renderer, "_load_wanted", counted)
    for percent in range(14, 64, 2):
        budget = memory(path) * percent // 100
        options = {"budget": budget, "wait_resident": True, "on_overflow": "warn"}
        with pytest.warns(RuntimeWarning, match="more than the budget"):
            frame = nc.Renderer(96, 72, threshold=0.1, **options).render(scene, camera)
        assert frame.stats["resident_bytes"] <= budget < frame.stats["wanted_bytes"]
    assert len(waits) > 25


@pytest.mark.parametrize("installs", [3, 17])
def test_without_waiting_it_converges_as_fast_as_pages_may_come(
    installs, planet_asset, planet_file
):
    """Each frame is complete, and after as many frames as the pages need it is the final one."""
    whole = nc.Renderer(160, 120, threshold=0.5).render(nc.Scene(planet_asset), INSIDE)
    renderer = nc.Renderer(160, 120, threshold=0.5, max_installs=installs)
    scene = nc.Scene(nc.open(planet_file))
    frames = settle(renderer, scene, INSIDE)
    assert all(frame.coverage.all() for frame in frames)
    assert same(frames[-1], whole)
    pages = frames[-1].stats["installed_pages"]
    # one frame to ask, one until the first pages are there
    assert len(frames) <= 2 + -(-pages // installs) + len(frames) // 4
    installed = np.diff([f.stats["installed_pages"] for f in frames])
    assert installed.max() <= installs
    triangles = [f.stats["triangles"] for f in frames]
    # finer on the whole: a finer group shows fewer where some of its clusters lie outside the view
    assert np.diff(triangles).min() > -0.05 * triangles[-1]
    assert triangles[-1] > 2 * triangles[0]


def traces(asset, file, count, seed):
    """Random walks of which pages are there: what the frame that follows finds."""
    streamer = _C.Streamer(1 << 30, 128, 1, True)
    scene, core = nc.Scene(file), _C.Frame()
    streamer.begin_frame(scene._core)
    random = np.random.default_rng(seed)
    pages = len(ncl.open(file._path).page_bytes)
    there = np.zeros(pages, bool)
    for _ in range(count):
        change = random.random(pages) < random.choice([0.02, 0.3, 1.0])
        there = np.where(change, random.random(pages) < random.choice([0.1, 0.5, 0.95]), there)
        streamer.set_pages(file._core, there.astype(np.uint8).tobytes())
        streamer.begin_frame(scene._core)
        state = streamer.residency(file._core)
        yield random, streamer, scene, core, {k: np.frombuffer(v, bool) for k, v in state.items()}


def check_traces(asset, path, count, seed, random_camera):
    """By validator: each leaf has exactly one cluster that stands for it, drawn from what is there.
    By picture: from inside a closed mesh no pixel shows what lies behind it."""
    streamed, file = nc.open(path), ncl.open(path)
    group = asset.clusters["group"]
    parts = file.parts[np.argsort(file.parts["cluster_begin"])]
    page_of = np.repeat(parts["page"], parts["cluster_count"])
    partial = 0
    for random, streamer, scene, core, there in traces(asset, streamed, count, seed):
        partial += 0 < there["groups"].sum() < len(there["groups"])
        for g in np.flatnonzero(there["groups"]).tolist():
            assert there["groups"][file.dependencies(g)].all()
        needed = np.zeros(len(there["groups"]), bool)
        np.logical_or.at(needed, group, ~there["pages"][page_of])
        assert not (there["groups"] & needed).any()
        options = _C.CullOptions()
        options.frustum = False
        threshold = float(random.choice([0, 0.3, 1, 5, 50]))
        view = random_camera(random)._core(320, 240, threshold)
        core.cull(scene._core, view, options, False, streamer, view)
        visible = core.visible()[:, 1]
        assert there["pages"][page_of[visible]].all()
        fewest, most = reference.selected_on_paths(asset, visible)
        assert fewest.min() == most.max() == 1
        assert there["groups"][group[visible]].all()
        view = INSIDE._core(64, 48, threshold)
        core.cull(scene._core, view, _C.CullOptions(), True, streamer, view)
        core.raster(view, _C.RasterOptions())
        assert (core.depth > 0).all()
    assert partial > count / 3


def test_no_eviction_trace_leaves_a_hole(random_camera, tmp_path):
    asset = nc.build(*meshes.planet(4))
    check_traces(asset, store(asset, tmp_path / "a.ncl", 4096), 250, 1, random_camera)


@pytest.mark.slow
def test_none_of_ten_thousand_eviction_traces_leaves_a_hole(random_camera, tmp_path):
    asset = nc.build(*meshes.planet(4))
    check_traces(asset, store(asset, tmp_path / "a.ncl", 4096), 10_000, 2, random_camera)


@pytest.mark.once
def test_every_frame_of_a_flight_under_pressure_is_complete(large_planet, tmp_path):
    """Threads decode while the camera turns inside; the budget is far below what it would like."""
    path = store(large_planet, tmp_path / "a.ncl", 16_000)
    budget = memory(path) // 20
    options = {"budget": budget, "max_installs": 8, "decode_threads": 3}
    renderer = nc.Renderer(160, 120, threshold=0.2, **options)
    scene = nc.Scene(nc.open(path))
    thresholds = []
    for i in range(120):
        angle = i / 20
        eye = 0.8 * np.array([np.sin(angle), 0.2, np.cos(angle)])
        camera = nc.Camera.look_at(eye, 2 * eye, fov_y=80, near=1e-3, up=(0.1, 1, 0))
        frame = renderer.render(scene, camera)
        assert frame.coverage.all()
        assert frame.stats["resident_bytes"] <= budget
        thresholds.append(frame.stats["threshold"])
        time.sleep(0.004)
    assert frame.stats["evicted_pages"] > 30
    assert max(thresholds) > 0.25  # pressure
    far = nc.Camera.look_at((0, 0, 60), (0, 0, 0))
    for _ in range(200):
        frame = renderer.render(scene, far)
    assert frame.stats["threshold"] == pytest.approx(0.2)


def test_the_threshold_settles_under_pressure(large_planet, tmp_path):
    path = store(large_planet, tmp_path / "a.ncl", 16_000)
    renderer = nc.Renderer(160, 120, threshold=0.02, budget=memory(path) // 6)
    scene, camera = nc.Scene(nc.open(path)), nc.Camera.around(large_planet)
    frames = [renderer.render(scene, camera)]
    while (
        time.sleep(0.01)
        or len({f.stats["threshold"] for f in frames[-20:]}) > 1
        or len(frames) < 30
    ):
        frames.append(renderer.render(scene, camera))
        assert len(frames) < 300
    assert frames[-1].stats["threshold"] > 0.1
    assert np.array_equal(frames[-1].visibility, frames[-2].visibility)
    assert 0.5 < frames[-1].stats["wanted_bytes"] / renderer.budget <= 0.85
    assert frames[-1].stats["missing_pages"] == 0


def test_a_frame_and_its_shadows_share_a_threshold_that_settles(field_asset, tmp_path):
    """Maps want more than the picture: together under pressure, one alone would let go of it."""
    sun = {"lights": [nc.Sun((0.4, 0.8, 0.3))], "shadow_size": 512}
    scene = nc.Scene(nc.open(store(field_asset, tmp_path / "a.ncl")))
    camera = nc.Camera.around(field_asset, elevation=15, distance=0.6)
    waits = nc.Renderer(96, 72, threshold=2, wait_resident=True, **sun)
    picture = waits.render(scene, camera).stats["wanted_bytes"]
    maps = waits._streamer.stats()["wanted_bytes"]
    budget = int(0.9 * maps)
    assert picture < 0.7 * budget
    renderer = nc.Renderer(96, 72, threshold=2, budget=budget, **sun)
    frames, states = [], set()
    while len(frames) < 20 or len(states) > 1:
        frames.append(renderer.render(scene, camera))
        states = {(f.stats["installed_pages"], f.stats["threshold"]) for f in frames[-10:]}
        assert len(frames) < 200, states
        time.sleep(0.005)
    assert frames[-1].stats["threshold"] > 2
    assert frames[-1].stats["missing_pages"] == 0
    assert np.array_equal(frames[-1].picture(), frames[-10].picture())


@pytest.mark.parametrize("views", [{"samples": 3}, {"lights": [nc.Sun()], "shadow_size": 256}])
def test_no_more_pages_come_for_more_views_of_a_frame(views, field_asset, tmp_path):
    scene = nc.Scene(nc.open(store(field_asset, tmp_path / "a.ncl")))
    camera = nc.Camera.around(field_asset, elevation=15, distance=0.6)
    renderer, installed = nc.Renderer(96, 72, threshold=0.5, max_installs=2, **views), []
    for _ in range(12):
        installed.append(renderer.render(scene, camera).stats["installed_pages"])
        time.sleep(0.01)
    assert installed[-1] > 4
    assert np.diff(installed).max() <= 2


def test_a_frame_keeps_what_it_saw(torus_asset, tmp_path):
    path = store(torus_asset, tmp_path / "a.ncl")
    camera = nc.Camera.around(torus_asset)
    whole = nc.Renderer(200, 150).render(nc.Scene(torus_asset), camera)
    renderer, streamed = nc.Renderer(200, 150, wait_resident=True), nc.open(path)
    frame = renderer.render(nc.Scene(streamed), camera)
    pages = len(ncl.open(path).page_bytes)
    renderer._streamer.set_pages(streamed._core, bytes(pages))
    assert renderer._streamer.stats()["resident_pages"] < pages
    del streamed
    assert same(frame, whole)


def test_instances_far_and_near_and_assets_in_memory_beside_streamed_ones(
    planet_asset, torus_asset, tmp_path
):
    streamed = nc.open(store(planet_asset, tmp_path / "a.ncl"))
    transforms = np.tile(np.eye(4), (300, 1, 1))
    transforms[:, :3, 3] = np.random.default_rng(3).normal(size=(300, 3)) * [40, 40, 150]
    scenes = []
    for asset in (planet_asset, streamed):
        scene = nc.Scene()
        scene.add(asset, transforms)
        scene.add(torus_asset, transforms[::7] + np.eye(4)[3] * 0)
        scenes.append(scene)
    camera = nc.Camera.look_at((0, 0, 1.5), (0, 0, -10), near=0.01)
    frames = [nc.Renderer(320, 200, wait_resident=True).render(s, camera) for s in scenes]
    assert same(*frames)
    assert frames[0].stats["far_instances"] == frames[1].stats["far_instances"] > 50
    renderer = nc.Renderer(320, 200)
    assert same(settle(renderer, scenes[1], camera)[-1], frames[0])


@pytest.mark.parametrize("wait", [True, False])
def test_a_file_cut_or_changed_while_it_is_open_is_an_error(wait, planet_asset, planet_file):
    data = planet_file.read_bytes()

    def draw():
        renderer = nc.Renderer(64, 48, threshold=0.1, wait_resident=wait)
        scene = nc.Scene(nc.open(planet_file))
        far = nc.Camera.look_at((0, 0, 1e5), (0, 0, 0), near=1.0)
        renderer.render(scene, far)  # what stays is there
        yield
        for _ in range(200):
            renderer.render(scene, INSIDE)
            time.sleep(0.01)

    for change, message in (
        (lambda: os.truncate(planet_file, len(data) * 3 // 4), "cut short while it was open"),
        (lambda: planet_file.open("r+b").write(bytes(len(data))), r"page \d+ is damaged"),
    ):
        planet_file.write_bytes(data)
        drawing = draw()
        next(drawing)
        change()
        with pytest.raises(ValueError, match=f"{message}.*, in {planet_file}"):
            next(drawing)
    with pytest.raises(ValueError, match=f"read_ncl: {planet_file}"):
        nc.open(planet_file)


def test_renaming_another_file_over_it_changes_nothing(
    planet_asset, torus_asset, planet_file, tmp_path
):
    streamed = nc.open(planet_file)
    os.replace(store(torus_asset, tmp_path / "other.ncl"), planet_file)
    whole = nc.Renderer(64, 48).render(nc.Scene(planet_asset), INSIDE)
    assert same(nc.Renderer(64, 48, wait_resident=True).render(nc.Scene(streamed), INSIDE), whole)


def test_a_killed_process_leaves_nothing_behind(planet_file):
    code = (
        "import sys, nanite_cull as nc\n"
        "scene = nc.Scene(nc.open(sys.argv[1]))\n"
        "renderer = nc.Renderer(64, 48, threshold=0.1, max_installs=1)\n"
        "camera = nc.Camera.look_at((0.1, 0, 0.2), (0, 0, -1), near=0.01)\n"
        "while True:\n"
        "    print(renderer.render(scene, camera).stats['resident_pages'], flush=True)\n"
    )
    before = (
        {p: p.stat().st_mtime_ns for p in planet_file.parent.iterdir()},
        set(os.listdir("/dev/shm")),
    )
    data = planet_file.read_bytes()
    process = subprocess.Popen([sys.executable, "-c", code, planet_file], stdout=subprocess.PIPE)
    while int(process.stdout.readline()) < 5:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert before[0] == {p: p.stat().st_mtime_ns for p in planet_file.parent.iterdir()}
    assert set(os.listdir("/dev/shm")) <= before[1]
    assert planet_file.read_bytes() == data


@pytest.mark.parametrize("wait", [True, False])
def test_threads_share_a_renderer(wait, large_planet, tmp_path):
    path = store(large_planet, tmp_path / "a.ncl", 16_000)
    scene = nc.Scene(nc.open(path))
    budget = memory(path) // 4
    options = {"budget": budget, "wait_resident": wait, "decode_threads": 2}
    renderer = nc.Renderer(120, 90, threshold=4, **options)
    whole, found = nc.Renderer(120, 90, threshold=4), []

    def work(seed):
        for i in range(12):
            angle = seed * 2 + i / 10
            eye = 0.8 * np.array([np.sin(angle), 0.2, np.cos(angle)])
            camera = nc.Camera.look_at(eye, 2 * eye, fov_y=40, near=1e-3)
            frame = renderer.render(scene, camera)
            right = frame.coverage.all() and frame.stats["resident_bytes"] <= budget
            if wait:
                right = right and same(frame, whole.render(nc.Scene(large_planet), camera))
            found.append(bool(right))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 48


def test_a_forked_child_streams_on(planet_asset, planet_file):
    scene = nc.Scene(nc.open(planet_file))
    renderer = nc.Renderer(64, 48, threshold=0.5, max_installs=2)
    whole = nc.Renderer(64, 48, threshold=0.5).render(nc.Scene(planet_asset), INSIDE)
    for _ in range(4):
        renderer.render(scene, INSIDE)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if same(settle(renderer, scene, INSIDE)[-1], whole) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert same(settle(renderer, scene, INSIDE)[-1], whole)


def test_frames_are_numbered_past_sixteen_bits(planet_asset, planet_file):
    scene = nc.Scene(nc.open(planet_file))
    renderer = nc.Renderer(64, 48, threshold=0.5)
    whole = nc.Renderer(64, 48, threshold=0.5).render(nc.Scene(planet_asset), INSIDE)
    for _ in range(2):
        for _frame in range(0xFFFF - 4):
            renderer._streamer.begin_frame(scene._core)
        assert same(settle(renderer, scene, INSIDE)[-1], whole)


def test_a_streamed_asset_is_an_asset(colored, tmp_path):
    path = store(colored, tmp_path / "a.ncl")
    streamed = nc.open(path)
    assert streamed.streamed
    assert not colored.streamed
    assert streamed.statistics() == colored.statistics()
    assert streamed.levels() == colored.levels()
    for table in ("clusters", "groups", "nodes", "origin"):
        assert getattr(streamed, table).tobytes() == getattr(colored, table).tobytes()
    assert colored.radius <= streamed.radius < 1.5 * colored.radius
    assert streamed.validate() == []
    assert (
        streamed.save(tmp_path / "b.ncl").read_bytes()
        == colored.save(tmp_path / "c.ncl").read_bytes()
    )
    for name in ("positions", "normals", "uvs", "colors", "materials", "vertex_refs",
                 "local_triangles", "leaf_source"):  # fmt: skip
        with pytest.raises(
            RuntimeError, match=rf"Asset.{name}: .* nanite_cull.load reads all of it"
        ):
            getattr(streamed, name)
    camera = nc.Camera.around(colored)
    frames = [
        nc.Renderer(80, 60, wait_resident=True).render(nc.Scene(a), camera)
        for a in (colored, streamed, copy.deepcopy(streamed), pickle.loads(pickle.dumps(streamed)))
    ]
    assert all(same(frame, frames[0]) for frame in frames[1:])
    renderer = pickle.loads(pickle.dumps(nc.Renderer(80, 60, budget=1 << 20, wait_resident=True)))
    assert same(renderer.render(nc.Scene(streamed), camera), frames[0])
    with pytest.raises(FileNotFoundError, match=r"nothing\.ncl does not exist"):
        nc.open(tmp_path / "nothing.ncl")


def test_pages_stay_with_the_asset_when_its_first_scene_goes(planet_file):
    renderer, streamed = nc.Renderer(64, 48, wait_resident=True), nc.open(planet_file)
    scenes = [nc.Scene(streamed), nc.Scene(streamed)]
    for scene in scenes:
        renderer.render(scene, INSIDE)
    there = renderer.stats["installed_pages"]
    del scenes[0], scene
    renderer.render(scenes[0], INSIDE)
    assert renderer.stats["installed_pages"] == there
    assert renderer.stats["resident_pages"] == renderer.stats["wanted_pages"]


def test_memory_is_given_back_with_the_asset(planet_file):
    renderer = nc.Renderer(64, 48, wait_resident=True)
    for _ in range(3):
        renderer.render(nc.Scene(nc.open(planet_file)), INSIDE)
    renderer.render(nc.Scene(nc.open(planet_file)), INSIDE)
    assert renderer._streamer.stats()["resident_bytes"] <= 1.1 * memory(planet_file)


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_threads_at_one_streamer_under_the_sanitizers(sanitizer, planet_asset, tmp_path, sanitized):
    program = sanitized("stress_streamer", sanitizer)
    path = store(planet_asset, tmp_path / "a.ncl", 4096)
    done = subprocess.run([program, path, "100"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.endswith(", 0 failures\n")


@pytest.mark.parametrize("wait", [True, False])
def test_occlusion_and_streaming_give_the_same_picture(wait, planet_asset, torus_asset, tmp_path):
    """Frames of a walk through planets that hide each other, each beside one that knows neither."""
    transforms = np.tile(np.eye(4), (60, 1, 1))
    transforms[:, :3, 3] = np.random.default_rng(4).normal(size=(60, 3)) * [3, 3, 12]
    plain, streamed = nc.Scene(), nc.Scene()
    for asset in (planet_asset, torus_asset):
        plain.add(asset, transforms)
        streamed.add(nc.open(store(asset, tmp_path / f"{len(streamed)}.ncl")), transforms)
    whole = nc.Renderer(160, 100)
    renderer = nc.Renderer(160, 100, occlusion=True, wait_resident=wait)
    for z in np.linspace(14, 8, 5):
        camera = nc.Camera.look_at((0.3, 0.2, z), (0, 0, -10), near=0.05)
        expected = whole.render(plain, camera)
        frame = (
            renderer.render(streamed, camera) if wait else settle(renderer, streamed, camera)[-1]
        )
        for plane in ("depth", "instance", "cluster", "triangle", "normal", "uv"):
            assert getattr(frame, plane).tobytes() == getattr(expected, plane).tobytes()
    assert frame.stats["occluded_clusters"] + frame.stats["occluded_instances"] > 0
