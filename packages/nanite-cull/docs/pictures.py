"""Draws the pictures of "How a frame flows": what each stage of one frame leaves.

.venv/bin/python packages/nanite-cull/docs/pictures.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import nanite_cull as nc
from nanite_cull import _C, meshes, pictures

HERE = Path(__file__).resolve().parent
COLORS = 96  # of a picture: small files
SIZE = (480, 270)
BEFORE = nc.Camera.look_at((-0.12, 1.1, 9.45), (0, 0.9, 0), fov_y=48, near=0.05)
CAMERA = nc.Camera.look_at((0, 1.1, 9.5), (0, 0.9, 0), fov_y=48, near=0.05)
ABOVE = nc.Camera.look_at((7.5, 15, 15), (0, 0, -3), fov_y=44, near=0.05)
LIGHTS = [nc.Sun((0.7, 1, 0.45), strength=0.75), nc.Lamp((-2.2, 2.6, 4.2), strength=0.5, fade=2)]


def tiles(side: int = 512) -> np.ndarray:
    """(side, side, 4) uint8: a floor of pale tiles."""
    y, x = np.mgrid[:side, :side]
    at = (x // 64 + y // 64) % 2
    joint = (x % 64 < 3) | (y % 64 < 3)
    shade = np.where(joint, 90, 176 + 34 * at)[..., None]
    return np.concatenate(
        [shade * [1.0, 0.96, 0.88], np.full((side, side, 1), 255)], 2
    ).astype(np.uint8)  # fmt: skip


def floor() -> nc.Asset:
    """A square of two units a side with the tiles on it."""
    x, z = (g.ravel() for g in np.meshgrid(*[np.linspace(-1, 1, 65)] * 2))
    i = np.arange(64 * 65).reshape(64, 65)[:, :64].ravel()
    faces = np.concatenate([np.stack([i, i + 65, i + 1], 1), np.stack([i + 1, i + 65, i + 66], 1)])
    material = nc.Material(albedo=tiles(), double_sided=True)
    return nc.build(
        np.stack([x, 0 * x, z], 1), faces, uvs=6 * np.stack([x, z], 1) + 6, progress=False,
        normals=np.tile([0.0, 1.0, 0.0], (len(x), 1)), materials=[material],
        material_ids=np.zeros(len(faces), int),
    )  # fmt: skip


def place(x: float, y: float, z: float, size: float, turn: float = 0.0) -> np.ndarray:
    out, c, s = np.eye(4), np.cos(turn), np.sin(turn)
    out[:3, :3] = size * np.array([(c, 0, s), (0, 1, 0), (-s, 0, c)])
    out[:3, 3] = x, y, z
    return out


def yard(planet: nc.Asset) -> nc.Scene:
    """Rows of boulders and rings on a floor, large ones before small ones."""
    vertices, faces, normals, _ = meshes.torus(160, 80)
    colors = np.tile([0.62, 0.20, 0.12], (len(vertices), 1))
    ring = nc.build(vertices, faces, normals=normals, colors=colors, progress=False)
    random, scene = np.random.default_rng(5), nc.Scene()
    scene.add(floor(), place(0, 0, -3, 13))
    boulders = [place(-2.1, 1, 3.4, 1.0), place(2.2, 0.9, 2.6, 0.9), place(0.1, 1.5, -1.5, 1.5)]
    rings = []
    for row in range(9):
        for column in range(-6, 7):
            x, z = 1.35 * column + 0.3 * random.normal(), -3 - 1.4 * row
            size = 0.35 + 0.15 * random.random()
            if (row + column) % 3:
                boulders.append(place(x, size, z, size, random.uniform(0, 6)))
            else:
                rings.append(place(x, 0.3 * size, z, size, random.uniform(0, 6)))
    scene.add(planet, np.array(boulders))
    scene.add(ring, np.array(rings))
    return scene


def save(name: str, picture: np.ndarray) -> None:
    """A picture of 0 to 1, or of bytes."""
    if picture.dtype != np.uint8:
        picture = (255 * np.clip(picture, 0, 1) + 0.5).astype(np.uint8)
    small = Image.fromarray(picture).quantize(COLORS, dither=Image.Dither.NONE)
    small.save(HERE / f"frame-{name}.png", optimize=True)


def keys(frame: nc.Frame) -> np.ndarray:
    """One number for the cluster that each pixel shows."""
    return frame.instance.astype(np.int64) << 32 | frame.cluster


def streaming(planet: nc.Asset) -> None:
    """The first frame of a file, and the same view when its pages have come."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "planet.ncl"
        path.write_bytes(_C.encode_ncl(planet._core, 0, 16384))
        asset = nc.open(path)
        camera, scene = nc.Camera.look_at((1.5, 1.0, 1.9)), nc.Scene(asset)
        both = []
        for wait in (False, True):
            renderer = nc.Renderer(SIZE[0] // 2, SIZE[1], wait_resident=wait)
            both.append(renderer.render(scene, camera).picture("triangle"))
        save("streaming", np.concatenate(both, 1))


def culling(scene: nc.Scene) -> None:
    """From above: what the frustum leaves; of that, what is drawn and what was hidden."""
    seen = nc.Renderer(*SIZE).render(scene, ABOVE, cull_camera=CAMERA)
    save("cull", seen.picture("level"))
    hiding = nc.Renderer(*SIZE, occlusion=True)
    hiding.render(scene, CAMERA.shifted(0, 0, *SIZE))
    drawn = hiding.render(scene, CAMERA).visible_clusters.astype(np.int64)
    is_drawn = np.isin(keys(seen), drawn[:, 0] << 32 | drawn[:, 1])
    grey = seen.picture("shaded").mean(-1, keepdims=True) / 255
    color = np.where(is_drawn[..., None], grey * [1.15, 0.85, 0.35], grey * [0.35, 0.45, 0.75])
    save("occlusion", np.where(seen.coverage[..., None], color, grey))
    save("pyramid", pyramid(hiding))


def pyramid(renderer: nc.Renderer) -> np.ndarray:
    """The levels of the depth pyramid that the next frame is culled by, side by side."""
    texels, (width, height) = renderer._history.texels, SIZE
    out = np.tile(pictures.background(height)[:, None], (1, width, 1))
    x, levels = 0, []
    while (width, height) != (1, 1):
        width, height = (width + 1) // 2, (height + 1) // 2
        levels.append(texels[: width * height].reshape(height, width))
        texels = texels[width * height :]
    top = levels[0].max()
    for level in levels:
        rows, columns = level.shape
        y = (out.shape[0] - rows) // 2
        out[y : y + rows, x : x + columns] = pictures.ramp(np.sqrt(level / top))
        x += columns
        if x + (columns + 1) // 2 > out.shape[1]:
            break
    return out


def targets(scene: nc.Scene) -> None:
    """One frame: raster, depth targets, base pass, light."""
    options = {"lights": LIGHTS, "shadow_size": 1024, "velocity": True, "overdraw": True}
    renderer = nc.Renderer(*SIZE, **options)
    renderer.render(scene, BEFORE)
    frame = renderer.render(scene, CAMERA)
    save("visibility", frame.picture("cluster"))
    save("triangles", frame.picture("triangle"))
    save("overdraw", frame.picture("overdraw"))
    save("depth", frame.picture("depth"))
    save("velocity", motion(frame))
    save("normal", frame.picture("normal"))
    save("albedo", np.where(frame.coverage[..., None], frame.albedo[..., :3] ** (1 / 2.2), 0.2))
    save("material", materials(frame, scene))
    save("map", shadow_map(frame))
    save("lit", np.stack([frame.lit[0], frame.lit[0], frame.lit[1]], -1) * 0.9 + 0.05)
    samples = nc.Renderer(*SIZE, lights=LIGHTS, shadow_size=2048, samples=8)
    save("picture", samples.render(scene, CAMERA).picture())


def motion(frame: nc.Frame) -> np.ndarray:
    """Velocities: direction as hue, pixels as brightness."""
    x, y = frame.velocity[..., 0], frame.velocity[..., 1]
    angle, size = np.arctan2(y, x), np.hypot(x, y)
    wheel = [0.5 + 0.5 * np.cos(angle - shift) for shift in (0, 2.1, 4.2)]
    return np.stack(wheel, -1) * (size / max(size.max(), 1e-9))[..., None] ** 0.5


def materials(frame: nc.Frame, scene: nc.Scene) -> np.ndarray:
    """What the base pass lists pixels by: a material of an asset."""
    seen = frame.coverage
    asset = np.where(seen, scene.asset_of[np.where(seen, frame.instance, 0)], 3)
    colors = np.array([(0.20, 0.45, 0.70), (0.90, 0.60, 0.20), (0.30, 0.65, 0.35), (0.15,) * 3])
    return colors[asset]


def shadow_map(frame: nc.Frame) -> np.ndarray:
    """The sun's two finest cascades."""
    side = SIZE[0] // 2
    out = np.tile(pictures.background(SIZE[1])[:, None], (1, SIZE[0], 1))
    for i, depth in enumerate(frame._shadows.depths()[:2]):
        step = depth.shape[0] // side
        small = depth[: side * step : step, : side * step : step]
        low, high = np.quantile(small[small > 0], (0.01, 0.99))
        shown = pictures.ramp(0.05 + 0.9 * (small - low) / (high - low))
        y = (SIZE[1] - side) // 2
        out[y : y + side, i * side : (i + 1) * side] = shown
    return out


def main() -> None:
    vertices, faces = meshes.planet(6)
    height = np.linalg.norm(vertices, axis=1)[:, None]
    part = (height - height.min()) / np.ptp(height)
    colors = np.array([0.30, 0.36, 0.20]) * (1 - part) + np.array([0.85, 0.78, 0.66]) * part
    planet = nc.build(vertices, faces, colors=colors, progress=False)
    streaming(planet)
    scene = yard(planet)
    culling(scene)
    targets(scene)


if __name__ == "__main__":
    main()
