"""Cluster level of detail, hierarchical culling and software rasterisation of huge meshes.

asset = nanite_cull.build(vertices, faces)
frame = nanite_cull.Renderer(1920, 1080).render(nanite_cull.Scene(asset), camera)
frame.save("picture.png")
"""

from importlib.metadata import version

from nanite_cull import meshes
from nanite_cull.asset import Asset, build, open
from nanite_cull.camera import Camera
from nanite_cull.frame import CutMesh, Frame
from nanite_cull.gltf import load_lights
from nanite_cull.lights import Lamp, Sun
from nanite_cull.materials import Material
from nanite_cull.mesh_io import load
from nanite_cull.render import Renderer
from nanite_cull.scene import Scene, load_scene

__version__ = version("nanite-cull")

__all__ = [
    "Asset",
    "Camera",
    "CutMesh",
    "Frame",
    "Lamp",
    "Material",
    "Renderer",
    "Scene",
    "Sun",
    "__version__",
    "build",
    "load",
    "load_lights",
    "load_scene",
    "meshes",
    "open",
]
