"""Points from files or from a ray-cast street, as voxels; and how fast this build is on them."""

from .voxels import PointToVoxel, gather_features_by_pc_voxel_id

__all__ = ["PointToVoxel", "gather_features_by_pc_voxel_id"]
