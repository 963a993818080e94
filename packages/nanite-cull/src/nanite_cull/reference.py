"""The definitions in plain numpy, slow and obvious: what the core must equal, bit for bit."""

import numpy as np

from nanite_cull.asset import NONE, Asset

SUBPIXELS = 256


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
    distance = np.sqrt((d[:, 0] * d[:, 0] + d[:, 1] * d[:, 1]) + d[:, 2] * d[:, 2]) - radius
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
