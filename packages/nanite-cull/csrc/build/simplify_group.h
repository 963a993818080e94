// One group: its clusters joined, simplified to half, split again.
#pragma once

#include "build/build.h"
#include "build/pool.h"

namespace nanite_cull {

// A wedge that a triangle needs and the source has not: another one's, of another material.
struct NewWedge {
  uint32_t base, material;
};

struct GroupResult {
  bool accepted = false;  // false: stuck, the group's clusters stay as they are
  bool fallback = false;  // the strict pass was stuck and a later one was taken
  float estimate = 0;     // the simplifier's error, object units
  float measured = 0;     // certify()'s
  LodBounds bounds;       // of the group: contains every child's, error strictly larger
  ClusterPool clusters;   // the coarser clusters; vertices from mesh.wedge_count() on are of `made`
  std::vector<NewWedge> made;
};

// Joins `members` of `pool` and simplifies them. `locked` says for each position whether another group
// uses it: those vertices and the edges between them stay, bit for bit, so neighbours still fit.
// The cascade when the strict pass removes less than 15 %: again by position and material, without other
// attributes (seams open); again with small separate parts removed; again by position alone, each triangle
// taking a material that most of its corners have; else the group is stuck. No triangle ever mixes materials.
GroupResult simplify_group(const WeldedMesh& mesh, const ClusterPool& pool, const uint32_t* members,
                           size_t count, const std::vector<uint8_t>& locked, const BuildOptions& options);

// The bounds of a group that nothing replaces: around its clusters, of infinite error.
LodBounds terminal_bounds(const ClusterPool& pool, const uint32_t* members, size_t count);

}  // namespace nanite_cull
