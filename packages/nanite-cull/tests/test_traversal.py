"""Three orders of going through the hierarchies, one result: that of testing every cluster."""

import pickle
import subprocess
import warnings

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import _C, meshes
from nanite_cull._options import TRAVERSALS

pytestmark = pytest.mark.native

OTHERS = TRAVERSALS[1:]
ROOM = {
    "max_candidate_nodes": 1 << 16,
    "max_candidate_clusters": 1 << 16,
    "max_visible_clusters": 1 << 16,
}
PLANES = ("depth", "instance", "cluster", "triangle")


@pytest.fixture(scope="module")
def assets(torus_asset):
    return nc.build(*meshes.planet(4)), torus_asset, nc.build(*meshes.heightfield(32))


def _scene(assets, random, count, spread):
    """Turned, mirrored and stretched, in no order; every tenth is hidden."""
    scene = nc.Scene()
    for kind in random.integers(0, len(assets), -(-count // 100)):
        places = np.tile(np.eye(4), (100, 1, 1))
        q, _ = np.linalg.qr(random.normal(size=(100, 3, 3)))
        places[:, :3, :3] = q * np.exp(random.uniform(-2, 1, (100, 1, 3)))
        places[:, :3, 3] = random.normal(size=(100, 3)) * spread
        first = scene.add(assets[kind], places).start
        scene.hide(slice(first, first + 10))
    return scene


def _camera(random, spread):
    camera = nc.Camera.look_at(
        random.normal(size=3) * spread * random.choice([0.1, 1, 8]), random.normal(size=3),
        up=random.normal(size=3), fov_y=float(random.uniform(3, 120)),
        near=float(10 ** random.uniform(-3, 0)),
    )  # fmt: skip
    if random.random() < 0.25:
        return camera.moved(fov_y=None, height=float(random.uniform(1, 30)), near=0.1, far=90.0)
    return camera


@pytest.mark.parametrize("count", [100, 700, 5000])  # 5,000: with the tree over instances
def test_all_find_what_testing_every_cluster_finds(assets, count):
    random = np.random.default_rng(count)
    spread = 2 + count ** (1 / 3)
    scene, found = _scene(assets, random, count, spread), 0
    for i in range(14 if count < 5000 else 7):
        camera = _camera(random, spread)
        options = {"threshold": float(random.choice([0.5, 1, 4, 30])), "frustum": i % 7 != 6}
        flat, _ = nc.Renderer(320, 200, hierarchy=False, **options).cull(scene, camera)
        whole, stats = nc.Renderer(320, 200, **options).cull(scene, camera)
        assert np.array_equal(whole, flat)
        for traversal in OTHERS:
            for threads in (1, 2, 8):
                renderer = nc.Renderer(
                    320, 200, traversal=traversal, threads=threads, **ROOM, **options
                )
                visible, work = renderer.cull(scene, camera)
                assert np.array_equal(visible, flat)
                assert work == stats
        found += len(flat)
    assert found > 100


@pytest.mark.parametrize("traversal", OTHERS)
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_frames_with_occlusion_are_the_same(assets, traversal, threads):
    random = np.random.default_rng(threads)
    scenes = [_scene(assets, np.random.default_rng(3), 300, 3) for _ in range(3)]  # each a history
    plain = nc.Renderer(161, 97)
    reference = nc.Renderer(161, 97, occlusion=True)
    renderer = nc.Renderer(161, 97, occlusion=True, traversal=traversal, threads=threads, **ROOM)
    hidden = brought = 0
    for i in range(12):
        if i % 4 == 0:
            camera = _camera(random, 3)
        if i % 3 == 2:
            moved = np.tile(np.eye(4), (20, 1, 1))
            moved[:, :3, 3] = random.normal(size=(20, 3)) * 3
            first = int(random.integers(0, 280))
            for scene in scenes:
                scene.update(first, moved)
        expected, same, frame = (
            r.render(s, camera) for r, s in zip((plain, reference, renderer), scenes, strict=True)
        )
        for plane in PLANES:
            assert np.array_equal(getattr(frame, plane), getattr(expected, plane))
        assert frame.stats == same.stats
        assert np.array_equal(frame.visible_clusters, same.visible_clusters)
        hidden += frame.stats["occluded_clusters"] + frame.stats["occluded_nodes"]
        brought += frame.stats["post_clusters"]
        del expected, same, frame
    assert hidden > 0
    assert brought > 0


@pytest.mark.parametrize("traversal", OTHERS)
def test_several_views_are_the_same(assets, traversal):
    random = np.random.default_rng(5)
    scene = _scene(assets, random, 1500, 12)
    cameras = [_camera(random, 12) for _ in range(9)]
    plain = nc.Renderer(160, 100)
    expected = plain.render_depths(scene, cameras)
    for threads in (1, 2, 8):
        renderer = nc.Renderer(160, 100, traversal=traversal, threads=threads, **ROOM)
        assert np.array_equal(renderer.render_depths(scene, cameras), expected)
        for name in ("candidates", "visited", "visible", "triangles", "culled", "overflow"):
            assert renderer.stats[name] == plain.stats[name]


@pytest.mark.parametrize("traversal", OTHERS)
@pytest.mark.parametrize("occlusion", [False, True])
def test_streamed_assets_ask_for_the_same_pages(planet_asset, tmp_path, traversal, occlusion):
    path = tmp_path / "planet.ncl"
    path.write_bytes(_C.encode_ncl(planet_asset._core, 0, 6000))
    streamed, whole = nc.Scene(nc.open(path)), nc.Scene(planet_asset)
    options = {"wait_resident": True, "occlusion": occlusion}
    plain, reference = nc.Renderer(200, 150), nc.Renderer(200, 150, **options)
    waiting = nc.Renderer(200, 150, traversal=traversal, threads=2, **options)
    for eye in ((0, 0, 3), (0, 1.2, 0.3), (1.4, 0, 0)):
        camera = nc.Camera.look_at(eye, (0, 0, 0), up=(0.1, 0.2, 1), near=0.01)
        frame, expected = waiting.render(streamed, camera), plain.render(whole, camera)
        for plane in PLANES:
            assert np.array_equal(getattr(frame, plane), getattr(expected, plane))
        assert frame.stats == reference.render(streamed, camera).stats
        assert frame.stats["resident_pages"] > 1
        del frame, expected


@pytest.mark.parametrize("name", ["nodes", "clusters"])
@pytest.mark.parametrize("traversal", OTHERS)
def test_capacities_of_1_to_64_are_counted_and_raised(assets, traversal, name):
    random = np.random.default_rng(6)
    scene, capacity = _scene(assets, random, 100, 6), f"max_candidate_{name}"
    camera = nc.Camera.look_at((0, 0, 14))
    whole, work = nc.Renderer(320, 200, threshold=0.5).cull(scene, camera)
    known, options = set(map(tuple, whole.tolist())), {"threshold": 0.5, "traversal": traversal}
    for room in (1, 2, 3, 4, 7, 8, 16, 17, 31, 48, 63, 64):
        found = []
        for threads in (1, 2, 8):
            sizes = {**ROOM, capacity: room, "threads": threads}
            renderer = nc.Renderer(320, 200, on_overflow="warn", **options, **sizes)
            with pytest.warns(RuntimeWarning, match=f"candidate_{name} dropped"):
                visible, stats = renderer.cull(scene, camera)
            visible = list(map(tuple, visible.tolist()))
            assert set(visible) < known
            assert visible == [v for v in map(tuple, whole.tolist()) if v in set(visible)]
            dropped = stats[f"dropped_candidate_{name}"]
            assert dropped > 0
            if name == "clusters":
                assert dropped + stats["candidate_clusters"] == work["candidate_clusters"]
                assert stats["nodes"] == work["nodes"]
            elif traversal == "persistent":
                assert stats["nodes"] == room
            found.append((visible, stats))
        if traversal == "levels":
            assert found[0] == found[1] == found[2]
        with pytest.raises(RuntimeError, match=rf"{name} dropped \d+ at capacity {room}; raise"):
            nc.Renderer(320, 200, **options, **sizes).cull(scene, camera)


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_a_queue_holds_exactly_what_it_is_made_for(assets, threads):
    """As many nodes as the pass visits fit, one less does not; a Renderer's queue is used again."""
    scene = _scene(assets, np.random.default_rng(7), 300, 8)
    camera = nc.Camera.look_at((0, 0, 20))
    whole, work = nc.Renderer(320, 200).cull(scene, camera)
    options = {"traversal": "persistent", "threads": threads}
    enough = nc.Renderer(320, 200, max_candidate_nodes=work["nodes"], **options)
    for _ in range(20):
        visible, stats = enough.cull(scene, camera)
        assert np.array_equal(visible, whole)
        assert stats == work
    small = nc.Renderer(320, 200, max_candidate_nodes=work["nodes"] - 1, **options)
    with pytest.raises(RuntimeError, match="candidate_nodes dropped 1 at capacity"):
        small.cull(scene, camera)


@pytest.mark.parametrize("traversal", OTHERS)
def test_occlusion_and_views_overflow_by_name(assets, traversal):
    scene = _scene(assets, np.random.default_rng(8), 300, 4)
    camera = nc.Camera.look_at((0, 0, 12))
    for name in ("max_candidate_nodes", "max_candidate_clusters", "max_visible_clusters"):
        options = {**ROOM, name: 3, "traversal": traversal, "threads": 2}
        for _ in range(2):
            with pytest.raises(RuntimeError, match=f"{name[4:]} dropped"):
                nc.Renderer(160, 100, occlusion=True, **options).render(scene, camera)
        with pytest.raises(RuntimeError, match=f"{name[4:]} dropped"):
            nc.Renderer(160, 100, **options).render_depths(scene, [camera] * 3)


@pytest.mark.parametrize("traversal", TRAVERSALS)
def test_empty_scenes_and_views_of_nothing(assets, traversal):
    away = nc.Camera.look_at((0, 0, 900), (0, 0, 999))
    for scene in (nc.Scene(), _scene(assets, np.random.default_rng(9), 100, 3)):
        for threads in (1, 8):
            visible, stats = nc.Renderer(64, 64, traversal=traversal, threads=threads).cull(
                scene, away
            )
            assert len(visible) == stats["nodes"] == 0


def test_what_makes_no_sense_is_refused(planet_asset):
    scene, camera = nc.Scene(planet_asset), nc.Camera.look_at((0, 0, 3))
    with pytest.raises(ValueError, match=r"traversal must be one of .*'levels'.*, got 'depth'"):
        nc.Renderer(traversal="depth")
    for traversal in OTHERS:
        renderer = nc.Renderer(64, 64, traversal=traversal, hierarchy=False)
        with pytest.raises(ValueError, match="traversal must be instances where hierarchy is"):
            renderer.cull(scene, camera)
    for name in ("max_candidate_nodes", "max_candidate_clusters"):
        renderer = nc.Renderer(64, 64, traversal="persistent", **{name: 2**28 + 1})
        with pytest.raises(ValueError, match=r"at most 2\^28 candidates"):
            renderer.cull(scene, camera)
    kept = pickle.loads(pickle.dumps(nc.Renderer(64, 64, traversal="levels")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(
            kept.cull(scene, camera)[0], nc.Renderer(64, 64).cull(scene, camera)[0]
        )


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_whole_persistent_culls_on_threads_under_the_sanitizers(sanitizer, sanitized):
    program = sanitized("stress_cull", sanitizer)
    done = subprocess.run([program, "100"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout == "100 runs, 0 failures\n"
