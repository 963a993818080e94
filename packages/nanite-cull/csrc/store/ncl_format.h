// The file format .ncl, versions 3 and 4: how the bytes lie. Little-endian; records as they lie in memory.
//
//   Header         152 bytes: magic, version, what a vertex has, counts, origin, hash of all below
//   Node[]         the hierarchy (core/records.h), node 0 the root
//   GroupRecord[]  LOD bounds, pass, and where its clusters, parts and dependencies are
//   PartRecord[]   a group, or what of it fits a page: clusters, page and place in the page; the last cluster
//                  comes first, so each part ends where the one before begins
//   ClusterRecord[] box, longest edge, generating group, counts
//   SphereRecord[] the LOD sphere of each leaf cluster, in their order
//   uint32_t[]     dependencies: the groups that draw in a group's place while it is not there
//   PageRecord[]   offset, bytes, hash and parts of each page
//   pages          at most 128 KB each, coarsest groups first
//   version 4:     the materials, bytes of which the core knows nothing, and MaterialsFoot, the file's last
//
// All but the pages is the header of the file: what a traversal reads. So a mesh can be culled, and what it
// needs be asked for, before a triangle is read. Group g may be drawn once its parts and, closed under this
// rule, those of its dependencies are there; where it is not, its dependencies' clusters stand for it.
//
// A page is complete in itself: core/page_layout.h, and the bytes of each part: part_codec.h.
//
// Version 4 is written where there are materials, else version 3; version 2 (ncl_version_2.h) is read, not
// written.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/page_layout.h"
#include "core/records.h"

namespace nanite_cull {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are written as they lie in memory");

constexpr uint32_t ncl_version = 3, ncl_version_with_materials = 4;
constexpr char ncl_magic[8] = {'\x89', 'N', 'C', 'L', '\r', '\n', '\x1a', '\n'};
constexpr uint64_t most_clusters = uint64_t(1) << 25;  // 2^32 triangles
constexpr uint32_t most_levels = 4096;

// Flags: what a vertex has beside its place on the grid. Exact: its float is not on the grid.
constexpr uint32_t has_normals = 1, has_uvs = 2, has_colors = 4, has_materials = 8, has_exact = 16;

struct HeaderStart {  // the same in all versions
  char magic[8];
  uint32_t version, flags;
  float step, uv_step;
  uint32_t width, levels;
  uint64_t groups, clusters, pages, vertices;
  uint64_t file_bytes;
  uint64_t hash;  // of the header with this field zero, and of all tables
};
struct Header {
  HeaderStart start;
  uint64_t nodes, parts, leaves, dependencies;
  uint64_t vertex_refs, triangles;  // of all clusters
  double origin[3];
};
struct GroupRecord {
  float x, y, z, r, error;
  uint32_t level;
  uint32_t cluster_begin, clusters;
  uint32_t part_begin, parts;
  uint32_t dependency_begin, dependencies;
};
struct PartRecord {
  uint32_t group;
  uint32_t cluster_begin, clusters;
  uint32_t page, slot;  // slot: which of the page's parts
};
struct ClusterRecord {
  float lo[3], hi[3];
  float longest_edge;
  uint32_t source_group;
  uint16_t level;
  uint8_t vertices, triangles;
};
struct SphereRecord {
  float x, y, z, r;
};
struct PageRecord {
  uint64_t offset, hash;
  uint32_t bytes;
  uint32_t part_begin, parts;
  uint32_t unused;
};
struct MaterialsFoot {
  uint64_t bytes, hash;
};
static_assert(sizeof(MaterialsFoot) == 16 && sizeof(HeaderStart) == 80 && sizeof(Header) == 152 &&
                  sizeof(Node) == 416 && sizeof(GroupRecord) == 48 && sizeof(PartRecord) == 20 &&
                  sizeof(ClusterRecord) == 36 && sizeof(SphereRecord) == 16 && sizeof(PageRecord) == 32,
              "records have no padding");

// Eight bytes at a time; finds damage, not forgery.
inline uint64_t hash_bytes(const uint8_t* data, size_t size, uint64_t seed) {
  uint64_t h = seed ^ size * 0x9e3779b97f4a7c15ull;
  for (size_t i = 0; i < size; i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, data + i, std::min<size_t>(8, size - i));
    h = (h ^ word) * 0xff51afd7ed558ccdull;
    h ^= h >> 29;
  }
  return h * 0xc4ceb9fe1a85ec53ull;
}

template <class T>
const uint8_t* bytes_of(const std::vector<T>& values) {
  return reinterpret_cast<const uint8_t*>(values.data());
}

}  // namespace nanite_cull
