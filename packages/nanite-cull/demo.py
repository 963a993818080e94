"""An orbit of a mesh of over two million triangles, or of any mesh file, with its levels and
clusters.

python demo.py --out DIR [mesh.glb]
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import nanite_cull as nc
from nanite_cull import meshes, orbit, pictures

SIDE = 1050  # vertices a side of the landscape: 2.2 million triangles
FRAMES = 24
CODE = """\
import nanite_cull as nc

asset = nc.build(vertices, faces)            # or nc.load("mesh.glb")
scene = nc.Scene(asset)
frame = nc.Renderer(1920, 1080, threshold=1.0).render(scene, nc.Camera.around(asset))
frame.save("shaded.png")
frame.save("clusters.png", "cluster")"""


def landscape_colors(vertices: np.ndarray) -> np.ndarray:
    """(V, 3) colours of a heightfield: grass low, rock where it is steep, snow on top."""
    height = vertices[:, 1].reshape(SIDE, SIDE)
    slope = np.hypot(*np.gradient(height, 2 / (SIDE - 1)))[..., None]
    level = ((height - height.min()) / np.ptp(height))[..., None]
    grass, rock, snow = (
        np.array(c) for c in ((0.36, 0.45, 0.20), (0.50, 0.44, 0.38), (0.93, 0.94, 0.97))
    )
    color = grass + (np.array((0.62, 0.58, 0.36)) - grass) * np.clip((level - 0.25) / 0.3, 0, 1)
    color = color + (snow - color) * np.clip((level - 0.66) / 0.12, 0, 1)
    color = color + (rock - color) * np.clip((slope - 0.55) / 0.5, 0, 1)
    return color.reshape(-1, 3)


def label(image: np.ndarray, text: str) -> np.ndarray:
    """The picture with a line of text in its lower left corner."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture, "RGBA")
    font = ImageFont.load_default(size=max(14, image.shape[0] // 36))
    pad = image.shape[0] // 60
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    y = image.shape[0] - (bottom - top) - 3 * pad
    draw.rounded_rectangle(
        (pad, y - pad, pad + right - left + 2 * pad, y + bottom - top + pad),
        pad,
        fill=(0, 0, 0, 150),
    )
    draw.text((2 * pad, y - top), text, font=font, fill=(255, 255, 255, 255))
    return np.asarray(picture)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and card.json")
    parser.add_argument("mesh", nargs="?", help="a mesh file instead of the procedural landscape")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    print("making the mesh", file=sys.stderr)
    if args.mesh:
        from nanite_cull.mesh_io import read_mesh

        mesh, name = read_mesh(args.mesh), Path(args.mesh).name
    else:
        vertices, faces = meshes.heightfield(SIDE, relief=0.16)
        mesh, name = {"vertices": vertices, "faces": faces}, "A procedural landscape"
        mesh["colors"] = landscape_colors(vertices)
    start = time.process_time()
    asset = nc.build(**mesh)
    build_seconds = time.process_time() - start
    problems = asset.validate()
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1

    scene, stats = nc.Scene(asset), asset.statistics()
    camera = nc.Camera.around(asset, 35, 30, 0.62)
    renderer = nc.Renderer(1280, 720)
    frame = renderer.render(scene, camera)
    exact = nc.Renderer(1280, 720, threshold=0).render(scene, camera)
    source, drawn = stats["source_triangles"], frame.stats["triangles"]
    coarse = nc.Renderer(1280, 720, threshold=8).render(scene, camera)
    for file, image, text in (
        (
            "shaded.png",
            frame.picture(),
            f"{drawn:,} of {source:,} triangles, threshold 1 pixel of error",
        ),
        (
            "clusters.png",
            frame.picture("cluster"),
            f"{frame.stats['clusters']:,} of {stats['clusters']:,} clusters, one colour each",
        ),
        (
            "levels.png",
            frame.picture("level"),
            f"level of detail, blue: source, red: coarse; {stats['levels']} levels",
        ),
        (
            "coarse.png",
            coarse.picture("triangle"),
            f"triangles at a threshold of 8 pixels: {coarse.stats['triangles']:,}",
        ),
    ):
        pictures.save(label(image, text), args.out / file)

    small = nc.Renderer(640, 360)
    images = []
    for f in tqdm(
        orbit.turn(asset, small, FRAMES, distances=(0.45, 1.6)), "orbit", FRAMES, disable=None
    ):
        half = np.concatenate(
            [f.picture("shaded")[:, 160:480], f.picture("cluster")[:, 160:480]], 1
        )
        images.append(
            label(half, f"{f.stats['triangles']:,} triangles, {f.stats['clusters']:,} clusters")
        )
    orbit.save_gif(images, args.out / "orbit.gif", seconds=4)

    cpu = []
    for _ in range(5):
        start = time.process_time()
        renderer.render(scene, camera)
        cpu.append(time.process_time() - start)
    differ = int((exact.coverage != frame.coverage).sum())
    card = {
        "title": "nanite-cull",
        "summary": f"{name} of {source:,} triangles became {stats['clusters']:,} clusters on "
        f"{stats['levels']} levels, was checked and drawn on the CPU without any graphics API.",
        "figures": [
            {"label": "source triangles", "value": f"{source:,}"},
            {"label": "drawn at a threshold of 1 pixel", "value": f"{drawn:,}"},
            {"label": "build, CPU seconds", "value": f"{build_seconds:.1f}"},
            {"label": "frame 1280x720, CPU ms", "value": f"{1e3 * float(np.median(cpu)):.0f}"},
            {
                "label": "pixels of outline that differ from the source",
                "value": f"{differ:,} of {exact.coverage.size:,}",
            },
        ],
        "beside": {
            "result": "frame-2026-11-29.json",
            "case": "10 M heightfield, 1 px, beside llvmpipe",
            "peer": "llvmpipe (LLVM 15.0.6)",
        },
        "pictures": [
            {
                "file": "orbit.gif",
                "caption": "A turn that moves in and out: shaded, and clusters in their colours.",
            },
            {"file": "shaded.png", "caption": "Shaded, at a threshold of one pixel of error."},
            {"file": "clusters.png", "caption": "The clusters of the same picture."},
            {"file": "levels.png", "caption": "The level of detail chosen for each cluster."},
            {"file": "coarse.png", "caption": "Triangles when eight pixels of error may show."},
        ],
        "code": CODE,
    }
    (args.out / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
