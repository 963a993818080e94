"""One frame at 1920x1080 of a heightfield, beside llvmpipe (OpenGL on the CPU) and Embree's rays.

All three give the id of the triangle at every pixel; ours draws the cut at one pixel of error, the
others the source. The camera is the one of all rows.
"""

import sys
from pathlib import Path

import moderngl
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import Bench

import nanite_cull as nc
from nanite_cull import meshes

WIDTH, HEIGHT = 1920, 1080
CAMERA = nc.Camera.look_at((0, 0.8, 1.6), (0, 0, 0), fov_y=60, near=0.01)
SIDES = {"1 M": 708, "10 M": 2237}
VERTEX_SHADER = """
#version 330
in vec3 position;
uniform mat4 matrix;
void main() { gl_Position = matrix * vec4(position, 1.0); }
"""
FRAGMENT_SHADER = """
#version 330
out uint id;
void main() { id = uint(gl_PrimitiveID) + 1u; }
"""


class Llvmpipe:
    """Draws a mesh into an id target and waits for it."""

    def __init__(self, context: moderngl.Context) -> None:
        self.context = context
        self.program = context.program(vertex_shader=VERTEX_SHADER, fragment_shader=FRAGMENT_SHADER)
        matrix = CAMERA.projection(WIDTH, HEIGHT)
        matrix[2] = -matrix[3] + (0, 0, 0, -2 * CAMERA.near)
        matrix[2, 2] = -1.0
        self.program["matrix"].write((matrix @ CAMERA.view).T.astype(np.float32).tobytes())
        size = (WIDTH, HEIGHT)
        self.target = context.framebuffer(
            [context.renderbuffer(size, 1, dtype="u4")], context.depth_renderbuffer(size)
        )

    def load(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self.array = self.context.vertex_array(
            self.program,
            [(self.context.buffer(vertices.tobytes()), "3f", "position")],
            self.context.buffer(faces.tobytes()),
        )

    def draw(self) -> None:
        self.target.use()
        self.context.enable(moderngl.DEPTH_TEST)
        self.target.clear(depth=1.0)
        self.array.render()
        self.context.finish()


def embree(vertices: np.ndarray, faces: np.ndarray):
    """A call that shoots one ray through every pixel."""
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    scene = EmbreeScene()
    TriangleMesh(scene, vertices, faces.astype(np.int32))
    half = np.tan(np.radians(CAMERA.fov_y) / 2)
    x = ((np.arange(WIDTH) + 0.5) * 2 / WIDTH - 1) * half * WIDTH / HEIGHT
    y = (1 - (np.arange(HEIGHT) + 0.5) * 2 / HEIGHT) * half
    grid = np.stack([*np.meshgrid(x, y), -np.ones((HEIGHT, WIDTH))], -1).reshape(-1, 3)
    rays = (grid @ CAMERA.view[:3, :3]).astype(np.float32)
    origins = np.broadcast_to(CAMERA.eye.astype(np.float32), rays.shape).copy()
    return lambda: scene.run(origins, rays)


def main() -> None:
    context = moderngl.create_context(standalone=True, backend="egl")
    renderer_name = context.info["GL_RENDERER"]
    bench = Bench(
        "frame",
        f"{renderer_name} and Embree",
        versions={"moderngl": moderngl.__version__, "opengl": context.info["GL_VERSION"]},
        repeats=7,
    )
    peer = Llvmpipe(context)
    for name, side in SIDES.items():
        cases = {
            "llvmpipe": f"{name} heightfield, 1 px, beside llvmpipe",
            "embree": f"{name} heightfield, 1 px, beside Embree",
        }
        if not any(bench.wants(case) for case in cases.values()):
            continue
        vertices, faces = meshes.heightfield(side)
        asset = nc.build(vertices, faces, keep_source=False)
        scene, renderer = nc.Scene(asset), nc.Renderer(WIDTH, HEIGHT)
        stats = renderer.render(scene, CAMERA).stats
        bench.fact(f"{name}: triangles drawn", f"{stats['triangles']:,} of {len(faces):,}")

        def ours(renderer=renderer, scene=scene) -> None:
            renderer.render(scene, CAMERA)

        peer.load(vertices, faces)
        bench.compare(cases["llvmpipe"], ours, peer.draw)
        if name == "1 M" and bench.wants(cases["embree"]):
            bench.compare(cases["embree"], ours, embree(vertices, faces))
    bench.finish()


if __name__ == "__main__":
    main()
