// How far a simplified patch lies from what it replaces, measured: an upper bound, not an estimate.
//
// Each triangle carries a debt: no point of it lies farther from the source than that, and no point of the
// source that it stands for lies farther from it. A simplified triangle's debt is the distance between it
// and the finer triangles, both ways, plus theirs; at the leaves it is zero. So the source is never looked at
// again, and the bound follows from the triangle inequality.
//
// Finer to coarser: every corner is measured, and every edge that bends over more than one coarser triangle
// at its peak: the distance to one triangle is convex, so between two that share an edge it is largest where
// the edge crosses from one to the other; where they share none, at its middle, times the most that a roof of
// two slopes can rise beside it. Coarser to finer: the corners are the finer patch's own; measured are the
// middle of each triangle that it does not have, and of each such side, times the same for what lies between.
// On 100 real meshes no point of 100,000, either way, is farther than that by Embree (tests/test_corpus.py).
#pragma once

#include <cstdint>
#include <vector>

namespace nanite_cull {

// Triangles over shared positions; `debt` holds one number for each, or none where all are zero.
struct PatchSurface {
  std::vector<uint32_t> indices;
  const std::vector<float>& debt;
};

// Fills `debt` for the triangles of `after`, whose corners are corners of `before`; returns the largest, or
// the diameter of a component of `before` that `after` left out altogether where that is larger.
float certify(const std::vector<float>& positions, const PatchSurface& before,
              const std::vector<uint32_t>& after, std::vector<float>& debt);

}  // namespace nanite_cull
