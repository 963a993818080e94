"""Points from files as voxels; and how fast this build is on them."""

from .voxels import (
    Point2VoxelCPU,
    PointToVoxel,
    VoxelGenerator,
    VoxelGeneratorV2,
    gather_features_by_pc_voxel_id,
)

Point2VoxelCPU1d = Point2VoxelCPU2d = Point2VoxelCPU3d = Point2VoxelCPU4d = Point2VoxelCPU

__all__ = [
    "Point2VoxelCPU",
    "Point2VoxelCPU1d",
    "Point2VoxelCPU2d",
    "Point2VoxelCPU3d",
    "Point2VoxelCPU4d",
    "PointToVoxel",
    "VoxelGenerator",
    "VoxelGeneratorV2",
    "gather_features_by_pc_voxel_id",
]
