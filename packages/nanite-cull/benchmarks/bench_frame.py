"""One frame at 1920x1080 of a heightfield, beside llvmpipe (OpenGL on the CPU), VTK and Embree.

llvmpipe and Embree give the id of the triangle at every pixel, VTK a shaded picture; ours draws
the cut at one pixel of error, the others the source. The camera is the same in all rows. VTK's row
needs `pip install vtk`.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import moderngl
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import Bench

import nanite_cull as nc
from nanite_cull import meshes

try:
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
except ImportError:
    vtk = None

WIDTH, HEIGHT = 1920, 1080
EYE = (0, 0.8, 1.6)
CAMERA = nc.Camera.look_at(EYE, (0, 0, 0), fov_y=60, near=0.01)
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
        with self.context:
            self.array = self.context.vertex_array(
                self.program,
                [(self.context.buffer(vertices.tobytes()), "3f", "position")],
                self.context.buffer(faces.tobytes()),
            )

    def draw(self) -> None:
        with self.context:
            self.target.use()
            self.context.enable(moderngl.DEPTH_TEST)
            self.target.clear(depth=1.0)
            self.array.render()
            self.context.finish()


def embree(vertices: np.ndarray, faces: np.ndarray) -> Callable[[], object]:
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


def vtk_frame(vertices: np.ndarray, faces: np.ndarray) -> Callable[[], object]:
    """A call that draws the mesh off-screen and waits for the picture."""
    points, cells, data = vtk.vtkPoints(), vtk.vtkCellArray(), vtk.vtkPolyData()
    points.SetData(numpy_to_vtk(vertices, deep=True))
    corners = numpy_to_vtkIdTypeArray(faces.astype(np.int64).ravel(), deep=True)
    cells.SetData(3, corners)
    data.SetPoints(points)
    data.SetPolys(cells)
    mapper, actor, renderer = vtk.vtkPolyDataMapper(), vtk.vtkActor(), vtk.vtkRenderer()
    mapper.SetInputData(data)
    actor.SetMapper(mapper)
    actor.GetProperty().SetInterpolationToFlat()
    renderer.AddActor(actor)
    camera = renderer.GetActiveCamera()
    camera.SetPosition(*EYE)
    camera.SetFocalPoint(0, 0, 0)
    camera.SetViewUp(0, 1, 0)
    camera.SetViewAngle(CAMERA.fov_y)
    camera.SetClippingRange(CAMERA.near, 10)
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(0)
    window.SetSize(WIDTH, HEIGHT)
    window.AddRenderer(renderer)

    def draw() -> None:
        window.MakeCurrent()
        camera.Modified()
        window.Render()
        window.WaitForCompletion()

    return draw


def main() -> None:
    context = moderngl.create_context(standalone=True, backend="egl")
    versions = {
        "moderngl": moderngl.__version__,
        "opengl": context.info["GL_VERSION"],
        "vtk": vtk.vtkVersion().GetVTKVersion() if vtk else "not installed, no row",
    }
    bench = Bench(
        "frame", f"{context.info['GL_RENDERER']}, VTK and Embree", versions=versions, repeats=7
    )
    llvmpipe = Llvmpipe(context)

    def opengl(vertices: np.ndarray, faces: np.ndarray) -> Callable[[], object]:
        llvmpipe.load(vertices, faces)
        return llvmpipe.draw

    inputs = {}
    for name, side in SIDES.items():
        vertices, faces = meshes.heightfield(side)
        scene = nc.Scene(nc.build(vertices, faces, keep_source=False))
        renderer = nc.Renderer(WIDTH, HEIGHT)
        stats = renderer.render(scene, CAMERA).stats
        bench.fact(f"{name}: triangles drawn", f"{stats['triangles']:,} of {len(faces):,}")
        inputs[name] = vertices, faces, scene, renderer
    # VTK last: when its window goes, it ends the EGL display that moderngl's context lives on
    peers = {"llvmpipe": opengl, "Embree": embree, **({"VTK": vtk_frame} if vtk else {})}
    for peer, make in peers.items():
        for name, (vertices, faces, scene, renderer) in inputs.items():
            case = f"{name} heightfield, 1 px, beside {peer}"
            if not bench.wants(case):
                continue

            def ours(renderer=renderer, scene=scene) -> None:
                renderer.render(scene, CAMERA)

            bench.compare(case, ours, make(vertices, faces))
    bench.finish()


if __name__ == "__main__":
    main()
