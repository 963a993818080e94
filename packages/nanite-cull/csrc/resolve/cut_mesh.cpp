#include "resolve/cut_mesh.h"

#include <string>
#include <utility>

#include "native/check.h"
#include "native/parallel.h"

namespace nanite_cull {

namespace {

struct Piece {
  uint32_t slot;
  uint64_t vertex, triangle;  // where it begins
};

}  // namespace

CutMesh cut_mesh(const Draws& draws, const VisibleClusters& visible, int threads) {
  auto cluster_of = [&](uint32_t slot) -> const Cluster& {
    const Draw& draw = draws.draws[draws.of[slot]];
    return draws.assets[draw.asset]->clusters[visible.buffer[slot].cluster];
  };
  std::vector<Piece> pieces;
  uint64_t vertices = 0, triangles = 0;
  for (uint64_t i = 0; i < visible.small + visible.large; ++i) {
    const uint32_t slot =
        static_cast<uint32_t>(i < visible.small ? i : visible.buffer.size() - 1 - (i - visible.small));
    pieces.push_back({slot, vertices, triangles});
    vertices += cluster_of(slot).vertex_count, triangles += cluster_of(slot).triangle_count;
  }
  native::demand(vertices < none, [&] {
    return "cut_mesh: the cut has " + std::to_string(vertices) +
           " vertices, more than 2^32 - 2; raise the threshold or take fewer instances";
  });
  CutMesh out;
  out.vertices.resize(3 * vertices), out.faces.resize(3 * triangles);
  out.instance.resize(triangles), out.cluster.resize(triangles);
  native::parallel_for(pieces.size(), 64, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const Piece& piece = pieces[i];
      const Visible& seen = visible.buffer[piece.slot];
      const Draw& draw = draws.draws[draws.of[piece.slot]];
      const Cluster& cluster = cluster_of(piece.slot);
      const ClusterGeometry geometry = draws.geometry(draw.asset, seen.cluster);
      double* vertex = &out.vertices[3 * piece.vertex];
      for (int v = 0; v < cluster.vertex_count; ++v) {
        const float* p = geometry.position(v);
        const double* m = draw.linear;
        for (int a = 0; a < 3; ++a, m += 3)
          *vertex++ = ((m[0] * p[0] + m[1] * p[1]) + m[2] * p[2]) + draw.translation[a];
      }
      for (int t = 0; t < cluster.triangle_count; ++t) {
        const uint8_t* local = geometry.triangles + 3 * t;
        uint32_t* face = &out.faces[3 * (piece.triangle + t)];
        for (int k = 0; k < 3; ++k) face[k] = static_cast<uint32_t>(piece.vertex) + local[k];
        if (draw.mirrored) std::swap(face[1], face[2]);
        out.instance[piece.triangle + t] = seen.instance, out.cluster[piece.triangle + t] = seen.cluster;
      }
    }
  });
  return out;
}

}  // namespace nanite_cull
