"""The definitions in plain numpy, slow and obvious: what the core must equal, bit for bit."""

from typing import Any

import numpy as np

from nanite_cull.asset import NONE, Asset
from nanite_cull.frame import Frame
from nanite_cull.lights import Sun
from nanite_cull.materials import display
from nanite_cull.pictures import LEVEL_RAMP, LIGHT, RELIEF, background, ramp

SUBPIXELS = 256
FARTHEST = np.sqrt(np.finfo(np.float32).max)  # the square of more is infinite


def too_coarse(
    centre: np.ndarray,
    radius: np.ndarray,
    error: np.ndarray,
    eye: np.ndarray,
    near: float,
    pixels_per_unit: float,
    threshold: float,
) -> np.ndarray:
    """Whether errors, seen from the nearest point of their spheres, exceed the threshold in pixels.

    centre (N, 3), radius and error (N,), all float32; perspective, in the space of the spheres.
    """
    f = np.float32
    d = centre - eye.astype(f)
    centre_distance = np.sqrt((d[:, 0] * d[:, 0] + d[:, 1] * d[:, 1]) + d[:, 2] * d[:, 2])
    distance = np.minimum(centre_distance, FARTHEST) - radius
    exceeds = error * f(pixels_per_unit) > f(threshold) * distance
    return np.where(distance > f(near), exceeds, error > 0)


def cut(
    asset: Asset, eye: np.ndarray, near: float, pixels_per_unit: float, threshold: float
) -> np.ndarray:
    """The clusters of the cut, ascending: own error fine, parent's too coarse. No frustum."""
    arguments = (np.asarray(eye), near, pixels_per_unit, threshold)
    parent = too_coarse(
        asset.groups["centre"], asset.groups["radius"], asset.groups["error"], *arguments
    )
    own = too_coarse(
        asset.clusters["centre"], asset.clusters["radius"], asset.clusters["error"], *arguments
    )
    return np.flatnonzero(~own & parent[asset.clusters["group"]]).astype(np.uint32)


def cut_triangles(asset: Asset, clusters: np.ndarray) -> np.ndarray:
    """(n, 3) vertex indices of all triangles of the clusters."""
    return np.concatenate([asset.faces(int(c)) for c in clusters])


def selected_on_paths(asset: Asset, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each leaf cluster, the fewest and the most selected ones on a path to a root."""
    table = asset.clusters
    selected = np.zeros(len(table), int)
    selected[clusters] = 1
    made_by: dict[int, list[int]] = {}
    for c, source in enumerate(table["source_group"]):
        made_by.setdefault(int(source), []).append(c)
    fewest, most = selected.copy(), selected.copy()
    for c in range(len(table) - 1, -1, -1):  # coarser clusters come later in the table
        above = made_by.get(int(table["group"][c]), [])
        if above:
            fewest[c] += min(fewest[a] for a in above)
            most[c] += max(most[a] for a in above)
    leaves = table["source_group"] == NONE
    return fewest[leaves], most[leaves]


def edge_balance(corners: np.ndarray) -> np.ndarray:
    """(n, 2) directed edges that outnumber their opposites: none on a closed surface."""
    a = corners[:, [0, 1, 2]].ravel().astype(np.int64)
    b = corners[:, [1, 2, 0]].ravel().astype(np.int64)
    low, high = np.minimum(a, b), np.maximum(a, b)
    keys, inverse = np.unique(low * (high.max() + 1) + high, return_inverse=True)
    net = np.bincount(inverse, np.where(a < b, 1, -1), len(keys)).astype(int)
    left = keys[net != 0]
    return np.stack([left // (high.max() + 1), left % (high.max() + 1)], 1)


def project(
    positions: np.ndarray, matrix: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fixed-point x and y (8 sub-pixel bits, y down) and depth; all in front of the near plane."""
    f = np.float32
    m, p = matrix.astype(f), positions.astype(f)
    x, y, z, w = (
        ((m[i, 0] * p[:, 0] + m[i, 1] * p[:, 1]) + m[i, 2] * p[:, 2]) + m[i, 3] for i in range(4)
    )
    if not (w > 0).all() or not (z <= w).all():
        raise ValueError("reference.project: all vertices must lie in front of the near plane")
    inverse = f(1) / w
    half_x, half_y = f(width * SUBPIXELS / 2), f(height * SUBPIXELS / 2)
    fixed_x = np.rint((x * inverse) * half_x + half_x).astype(np.int64)
    fixed_y = np.rint(half_y - (y * inverse) * half_y).astype(np.int64)
    return fixed_x, fixed_y, z * inverse


def depth_plane(
    xs: list[int], ys: list[int], zs: list[float], area: int, rx: int, ry: int
) -> tuple[np.float32, np.float32, np.float32]:
    """Depth at the centre of pixel (rx, ry), and its steps to the right and down.

    Exact integers in units of 2**-23 of the range of depths, each rounded once to float32.
    """
    f = np.float32
    p, zq, zr = f(zs[0]), f(zs[1]) - f(zs[0]), f(zs[2]) - f(zs[0])
    across = max(abs(zq), abs(zr))
    if not across > f(2.0**-100):
        return p, f(0), f(0)
    unit = f(2.0 ** (np.frexp(across)[1] - 24))
    q, r = int(zq / unit), int(zr / unit)
    step_x = q * (ys[2] - ys[0]) - r * (ys[1] - ys[0])
    step_y = r * (xs[1] - xs[0]) - q * (xs[2] - xs[0])
    whole, pixel = f(area), f(SUBPIXELS) * unit
    slopes = (f(step_x) / whole) * pixel, (f(step_y) / whole) * pixel
    if not p / unit < f(2.0**60):
        return p, *slopes
    off_x = rx * SUBPIXELS + SUBPIXELS // 2 - xs[0]
    off_y = ry * SUBPIXELS + SUBPIXELS // 2 - ys[0]
    total = int(p / unit) * area + step_x * off_x + step_y * off_y
    scale, size = 1.0, abs(total)
    while size >> 62:
        size, scale = size >> 16, scale * 65536
    return (f(np.copysign(1, total)) * (f(size) * f(scale)) / whole) * unit, *slopes


def raster(
    positions: np.ndarray, faces: np.ndarray, matrix: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Depth (float32) and face id (int64, -1: none) of every pixel.

    Looks at every pixel of every triangle's bounding box: pixel centres, top-left rule, the nearest
    wins, the later face on a tie.
    """
    f = np.float32
    fx, fy, fz = project(positions, matrix, width, height)
    depth, ids = np.zeros((height, width), f), np.full((height, width), -1, np.int64)
    for number, face in enumerate(faces):
        corners = [(int(fx[v]), int(fy[v]), float(fz[v])) for v in face]
        (ax, ay, _), (bx, by, _), (cx, cy, _) = corners
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if area == 0:
            continue
        if area < 0:
            corners = [corners[0], corners[2], corners[1]]
        first = min(range(3), key=lambda i: (corners[i][1], corners[i][0]))
        corners = corners[first:] + corners[:first]
        xs, ys, zs = (list(values) for values in zip(*corners, strict=True))
        x0, x1 = max(0, min(xs) // SUBPIXELS), min(width - 1, max(xs) // SUBPIXELS)
        y0, y1 = max(0, min(ys) // SUBPIXELS), min(height - 1, max(ys) // SUBPIXELS)
        if x0 > x1 or y0 > y1:
            continue
        px, py = np.meshgrid(np.arange(x0, x1 + 1), np.arange(y0, y1 + 1))
        sx, sy = px * SUBPIXELS + SUBPIXELS // 2, py * SUBPIXELS + SUBPIXELS // 2
        inside = np.ones(px.shape, bool)
        for i in range(3):
            dx, dy = xs[(i + 1) % 3] - xs[i], ys[(i + 1) % 3] - ys[i]
            edge = dx * (sy - ys[i]) - dy * (sx - xs[i])
            top_left = dy < 0 or (dy == 0 and dx > 0)
            inside &= (edge >= 0) if top_left else (edge > 0)
        rx, ry = (
            min(max(xs[0] // SUBPIXELS, 0), width - 1),
            min(max(ys[0] // SUBPIXELS, 0), height - 1),
        )
        base, slope_x, slope_y = depth_plane(xs, ys, zs, abs(area), rx, ry)
        z = (base + (px - rx).astype(f) * slope_x) + (py - ry).astype(f) * slope_y
        z = np.minimum(np.maximum(z, f(min(zs))), f(max(zs)))
        window = (slice(y0, y1 + 1), slice(x0, x1 + 1))
        wins = inside & (z >= depth[window]) & (z > 0)
        depth[window][wins], ids[window][wins] = z[wins], number
    return depth, ids


def stable_color(ids: np.ndarray) -> np.ndarray:
    """(..., 3) float32 in 0 to 1: the same id has the same colour in every picture."""
    h = ids.astype(np.uint32) * np.uint32(0x9E3779B1)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x85EBCA77)
    h ^= h >> np.uint32(13)
    channels = [(h >> np.uint32(8 * c) & np.uint32(255)).astype(np.float32) / 255 for c in range(3)]
    return 0.25 + 0.75 * np.stack(channels, -1)


def _lights(frame: Frame, normal: np.ndarray) -> np.ndarray:
    """(height, width): what a frame's lights add on surfaces with these normals, shadows in it."""
    out = np.zeros(normal.shape[:2])
    for light, lit in zip(frame.lights, frame.lit, strict=True):
        if isinstance(light, Sun):
            way = np.broadcast_to(np.asarray(light.direction, float), normal.shape)
        else:
            way = np.asarray(light.position, float) - np.nan_to_num(frame.position)
        way = way / np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-300)
        out += light.strength * lit * np.maximum((way * normal).sum(-1), 0)
    return out


def _light(frame: Frame, light: Any) -> np.ndarray:
    """(height, width, 1): a lamp, the sky and a rim; both sides of a surface are lit."""
    normal, camera = frame.normal, frame.camera
    rotation = camera.view[:3, :3].astype(np.float32)
    if camera.orthographic:
        facing = normal @ (rotation[2] / np.float32(camera.scale))
    else:
        x, y = (axis.astype(np.float32) for axis in camera.rays(frame.width, frame.height))
        x, y = np.meshgrid(x, y)
        ray = np.stack([-x, -y, np.ones_like(x)], -1) / np.sqrt(x * x + y * y + 1)[..., None]
        facing = np.einsum("hwc,hwc->hw", normal, ray @ (rotation / np.float32(camera.scale)))
    normal = np.where(facing[..., None] < 0, -normal, normal)
    if light is None and frame.lights:
        direct = _lights(frame, normal)
    else:
        towards = np.asarray(LIGHT if light is None else light, float)
        lamp = (towards / np.linalg.norm(towards)).astype(np.float32)
        direct = 0.72 * np.maximum(normal @ lamp, 0)
    sky = 0.5 + 0.5 * normal[..., 1]
    rim = (1 - np.abs(facing)) ** 3
    return (direct + 0.26 * sky + 0.10 * rim)[..., None]


def _box_mean(values: np.ndarray, weights: np.ndarray, radius: int) -> np.ndarray:
    """Weighted means over squares of 2 * radius + 1 pixels, cut off at the image's edges."""

    def box_sum(plane: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            padded = np.pad(plane, [(radius + 1, radius) if a == axis else (0, 0) for a in (0, 1)])
            total = np.cumsum(padded, axis, dtype=np.float64)
            high, low = [slice(None)] * 2, [slice(None)] * 2
            high[axis], low[axis] = slice(2 * radius + 1, None), slice(0, plane.shape[axis])
            plane = total[tuple(high)] - total[tuple(low)]
        return plane

    return box_sum(values * weights) / np.maximum(box_sum(weights), 1e-9)


def _relief(frame: Frame) -> np.ndarray:
    """(height, width, 1) factor: hollows darker, ridges lighter, from the depth alone.

    After Luft, Colditz and Deussen, "Image Enhancement by Unsharp Masking the Depth Buffer", 2006.
    """
    camera, seen = frame.camera, frame.coverage
    distance = np.where(seen, frame.distance, 0).astype(np.float64)
    pixel = 2 / (camera._window(frame.width, frame.height)[1] * frame.height * camera.scale)
    at_one = camera.scale * pixel
    pixels = np.full(distance.shape, pixel) if camera.orthographic else distance * at_one
    hollow = np.zeros_like(distance)
    for radius in (max(1, frame.height // 180), max(2, frame.height // 45)):
        mean = _box_mean(distance, seen.astype(np.float64), radius)
        hollow += (distance - mean) / np.where(seen, pixels * radius, 1)
    return (1 - np.clip(RELIEF * hollow, -0.12, 0.4)).astype(np.float32)[..., None]


def _base(frame: Frame, kind: str) -> np.ndarray:
    if kind == "cluster":
        return stable_color(frame.cluster ^ (frame.instance << np.uint32(20)))
    if kind == "triangle":
        return stable_color(frame.triangle)
    if kind == "instance":
        return stable_color(frame.instance)
    if kind == "level":
        return ramp(frame.level.astype(np.float32) / max(1, frame.top_level), LEVEL_RAMP)
    if frame.has_colors:
        tables = [asset.material_table for asset in frame._assets]
        linear = {m.vertex_colors == "linear" for table in tables for m in table} or {False}
        if len(linear) > 1 or (linear == {True} and not all(tables)):
            raise ValueError("picture: the definition takes colours of one kind in a scene")
        color = np.clip(frame.color[..., :3], 0, 1)
        return display(color) if True in linear else color
    return np.full((frame.height, frame.width, 3), (0.80, 0.76, 0.70), np.float32)


def picture(frame: Frame, kind: str, light: Any = None) -> np.ndarray:
    """(height, width, 3) uint8: a lit picture; the core's differs by one step of 255 at most."""
    color = _base(frame, kind) * np.clip(_light(frame, light) * _relief(frame), 0, 1.2)
    color = np.where(frame.coverage[..., None], color, background(frame.height)[:, None])
    return (np.clip(color, 0, 1) ** (1 / 1.1) * 255 + 0.5).astype(np.uint8)


def linear_light(srgb: np.ndarray) -> np.ndarray:
    """sRGB bytes as linear light, float64 (IEC 61966-2-1)."""
    c = np.asarray(srgb) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def texture_levels(rgba: np.ndarray) -> list[np.ndarray]:
    """The pyramid of a (height, width, 4) uint8 texture, each level (h, w, 4) float64, linear:
    means over the texels that one covers, colours weighed by alpha; not rounded to bytes."""

    def halved(values: np.ndarray) -> np.ndarray:  # along the first axis
        fine = len(values)
        coarse = max(fine // 2, 1)
        edges = np.arange(coarse + 1) * fine / coarse
        first, texel = edges[:-1, None], np.arange(fine)
        cover = np.clip(np.minimum(edges[1:, None], texel + 1) - np.maximum(first, texel), 0, None)
        return np.tensordot(cover * coarse / fine, values, 1)

    level = np.concatenate([linear_light(rgba[..., :3]), rgba[..., 3:] / 255], 2)
    out = [level]
    while max(level.shape[:2]) > 1:
        color, alpha = level[..., :3], level[..., 3:]
        weighed = np.concatenate([color * alpha, alpha, color], 2)
        mean = halved(halved(weighed).transpose(1, 0, 2)).transpose(1, 0, 2)
        alpha = mean[..., 3:4]
        color = np.where(alpha > 0, mean[..., :3] / np.where(alpha > 0, alpha, 1), mean[..., 4:])
        level = np.concatenate([color, alpha], 2)
        out.append(level)
    return out


def _texels(level: np.ndarray, uv: np.ndarray, wrap: tuple[str, str], linear: bool) -> np.ndarray:
    """(N, 4) of one level at (N, 2) coordinates, v downwards."""

    def index(i: np.ndarray, size: int, mode: str) -> np.ndarray:
        if mode == "repeat":
            return i % size
        if mode == "clamp":
            return np.clip(i, 0, size - 1)
        return np.minimum(i % (2 * size), 2 * size - 1 - i % (2 * size))

    height, width = level.shape[:2]
    at = uv * [width, height] - (0.5 if linear else 0)
    first = np.floor(at).astype(int)
    part = (at - first)[:, :, None] if linear else np.zeros((len(uv), 2, 1))
    out = np.zeros((len(uv), 4))
    for dy in (0, 1) if linear else (0,):
        for dx in (0, 1) if linear else (0,):
            weight = (part[:, 0] if dx else 1 - part[:, 0]) * (part[:, 1] if dy else 1 - part[:, 1])
            x = index(first[:, 0] + dx, width, wrap[0])
            out += weight * level[index(first[:, 1] + dy, height, wrap[1]), x]
    return out


def texture_at(
    levels: list[np.ndarray], uv: np.ndarray, right: np.ndarray, below: np.ndarray,
    material: Any,
) -> np.ndarray:  # fmt: skip
    """(N, 4) linear: what a Material's sampler gives at (N, 2) coordinates (v downwards) whose
    steps to the next pixel to the right and below are `right` and `below`."""
    size = np.array(levels[0].shape[1::-1])
    step = np.maximum(np.linalg.norm(right * size, axis=1), np.linalg.norm(below * size, axis=1))
    level = np.clip(np.log2(np.maximum(step, 1e-30)), 0, len(levels) - 1)
    fine = np.floor(level).astype(int)
    part = level - fine
    if material.mip != "linear":
        fine, part = np.floor(level + 0.5).astype(int), 0 * level
    if material.mip == "off":
        fine = 0 * fine
    out = np.zeros((len(uv), 4))
    for weight, numbers in ((1 - part, fine), (part, np.minimum(fine + 1, len(levels) - 1))):
        for number in np.unique(numbers):
            for magnified in (True, False):
                chosen = (numbers == number) & ((level <= 0) == magnified)
                linear = (material.magnify if magnified else material.minify) == "linear"
                texels = _texels(levels[number], uv[chosen], material.wrap, linear)
                out[chosen] += weight[chosen, None] * texels
    return out
