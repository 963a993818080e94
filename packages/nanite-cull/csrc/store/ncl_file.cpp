#include "store/ncl_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "build/hierarchy.h"
#include "build/key_table.h"
#include "build/pool.h"
#include "build/validate.h"
#include "native/check.h"
#include "native/parallel.h"
#include "store/group_codec.h"

namespace nanite_cull {

namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are written as they lie in memory");

constexpr char magic[8] = {'\x89', 'N', 'C', 'L', '\r', '\n', '\x1a', '\n'};
constexpr uint64_t most_clusters = uint64_t(1) << 25;  // 2^32 triangles
constexpr uint32_t most_levels = 4096;

constexpr uint32_t has_normals = 1, has_uvs = 2, has_colors = 4, has_materials = 8, all_flags = 15;

struct Header {
  char magic[8];
  uint32_t version, flags;
  float step, uv_step;
  uint32_t width, levels;
  uint64_t groups, clusters, pages, vertices;
  uint64_t file_bytes;
  uint64_t hash;  // of the header with this field zero, and of all tables
};
// What version 3 adds, after the header of version 2.
struct Header3 {
  double origin[3];
  uint64_t borders;
};
struct BorderRecord {
  uint32_t vertex;
  float position[3];
};
struct GroupRecord {
  float x, y, z, r, error;
  uint32_t level, clusters, page, offset, bytes;  // offset: in the page
};
struct ClusterRecord {
  uint32_t source_group, level;
};
struct PageRecord {
  uint64_t offset, bytes, hash;
};
static_assert(sizeof(Header) == 80 && sizeof(GroupRecord) == 40 && sizeof(ClusterRecord) == 8 &&
                  sizeof(PageRecord) == 24 && sizeof(Header3) == 32 && sizeof(BorderRecord) == 16,
              "records have no padding");

// Eight bytes at a time; finds damage, not forgery.
uint64_t hash_bytes(const uint8_t* data, size_t size, uint64_t seed) {
  uint64_t h = seed ^ size * 0x9e3779b97f4a7c15ull;
  for (size_t i = 0; i < size; i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, data + i, std::min<size_t>(8, size - i));
    h = (h ^ word) * 0xff51afd7ed558ccdull;
    h ^= h >> 29;
  }
  return h * 0xc4ceb9fe1a85ec53ull;
}

VertexLayout layout_of(uint32_t flags) {
  return {(flags & has_normals) != 0, (flags & has_uvs) != 0, (flags & has_colors) != 0,
          (flags & has_materials) != 0};
}

template <class T>
const uint8_t* bytes_of(const std::vector<T>& values) {
  return reinterpret_cast<const uint8_t*>(values.data());
}

[[noreturn]] void refuse(const std::string& why) { throw native::ValueError("read_ncl: " + why); }

// The tables of a file, found inside it.
struct Tables {
  Header header;
  Header3 more{};
  std::vector<GroupRecord> groups;
  std::vector<ClusterRecord> clusters;
  std::vector<PageRecord> pages;
  std::vector<BorderRecord> borders;
};

uint64_t hash_tables(Header header, const Tables& t) {
  header.hash = 0;
  uint64_t h = hash_bytes(reinterpret_cast<const uint8_t*>(&header), sizeof(header), 1);
  if (header.version >= 3) h = hash_bytes(reinterpret_cast<const uint8_t*>(&t.more), sizeof(t.more), h);
  h = hash_bytes(bytes_of(t.groups), t.groups.size() * sizeof(GroupRecord), h);
  h = hash_bytes(bytes_of(t.clusters), t.clusters.size() * sizeof(ClusterRecord), h);
  h = hash_bytes(bytes_of(t.pages), t.pages.size() * sizeof(PageRecord), h);
  return hash_bytes(bytes_of(t.borders), t.borders.size() * sizeof(BorderRecord), h);
}

size_t tables_begin(const Header& h) { return sizeof(Header) + (h.version >= 3 ? sizeof(Header3) : 0); }

size_t tables_end(const Header& h, const Header3& more) {
  return tables_begin(h) + more.borders * sizeof(BorderRecord) + h.groups * sizeof(GroupRecord) +
         h.clusters * sizeof(ClusterRecord) + h.pages * sizeof(PageRecord);
}

Tables read_tables(const uint8_t* data, size_t size, bool verify) {
  Tables t;
  if (size < sizeof(Header))
    refuse("the file has " + std::to_string(size) +
           " bytes, less than a header; it is truncated or no .ncl file");
  Header& h = t.header;
  std::memcpy(&h, data, sizeof(Header));
  if (std::memcmp(h.magic, magic, sizeof(magic)) != 0) refuse("not an .ncl file (its first bytes differ)");
  if (h.version != ncl_version && h.version != 2)
    refuse("the file has version " + std::to_string(h.version) + ", this library reads versions 2 and " +
           std::to_string(ncl_version) + "; store the mesh again with this library");
  if (h.file_bytes != size)
    refuse("the file has " + std::to_string(size) + " bytes, its header says " +
           std::to_string(h.file_bytes) + "; it is truncated or damaged");
  const bool sane = h.groups > 0 && h.clusters >= h.groups && h.clusters < most_clusters && h.pages > 0 &&
                    h.pages <= h.groups && h.vertices > 0 &&
                    h.vertices <= h.clusters * max_cluster_vertices &&
                    (h.flags & ~uint32_t(all_flags)) == 0 && (h.width == 4 || h.width == 8) &&
                    h.step >= 1e-30f && h.step <= 1e18f && h.uv_step >= 1e-38f && h.uv_step <= 1e20f;
  if (!sane || tables_begin(h) > size) refuse("the header is damaged (impossible counts)");
  if (h.version >= 3) std::memcpy(&t.more, data + sizeof(Header), sizeof(Header3));
  if (t.more.borders > h.vertices || tables_end(h, t.more) > size)
    refuse("the header is damaged (impossible counts)");
  t.groups.resize(h.groups), t.clusters.resize(h.clusters), t.pages.resize(h.pages);
  t.borders.resize(t.more.borders);
  const uint8_t* at = data + tables_begin(h);
  std::memcpy(t.groups.data(), at, h.groups * sizeof(GroupRecord));
  at += h.groups * sizeof(GroupRecord);
  std::memcpy(t.clusters.data(), at, h.clusters * sizeof(ClusterRecord));
  at += h.clusters * sizeof(ClusterRecord);
  std::memcpy(t.pages.data(), at, h.pages * sizeof(PageRecord));
  at += h.pages * sizeof(PageRecord);
  if (!t.borders.empty()) std::memcpy(t.borders.data(), at, t.borders.size() * sizeof(BorderRecord));
  if (verify && hash_tables(h, t) != h.hash) refuse("the header or a table is damaged (its hash differs)");
  uint64_t total = 0;
  for (const GroupRecord& g : t.groups) {
    if (g.level >= most_levels || g.page >= h.pages || g.clusters < 1 || g.clusters > h.clusters ||
        g.bytes > t.pages[g.page].bytes || g.offset > t.pages[g.page].bytes - g.bytes)
      refuse("the group table is damaged (a group lies outside its page)");
    total += g.clusters;
  }
  if (total != h.clusters)
    refuse("the groups hold " + std::to_string(total) + " clusters, the header says " +
           std::to_string(h.clusters));
  for (size_t p = 0; p < t.pages.size(); ++p) {
    const PageRecord& page = t.pages[p];
    if (page.bytes > page_bytes || page.offset > size || page.bytes > size - page.offset)
      refuse("page " + std::to_string(p) + " lies outside the file");
    if (verify && hash_bytes(data + page.offset, page.bytes, p) != page.hash)
      refuse("page " + std::to_string(p) + " is damaged (its hash differs)");
  }
  return t;
}

// Joins the decoded groups in order: vertices get their numbers as clusters use them, as in the build.
void join_groups(std::vector<DecodedGroup>& groups, const Tables& t, const VertexLayout& layout,
                 Asset& asset) {
  const int width = layout.width();
  KeyTable table(t.header.vertices, width);
  std::vector<uint32_t> keys;
  size_t cluster_index = 0;
  for (uint32_t g = 0; g < groups.size(); ++g) {
    const GroupRecord& record = t.groups[g];
    asset.groups.push_back({{{record.x, record.y, record.z, record.r}, record.error},
                            static_cast<uint32_t>(asset.clusters.size()),
                            record.clusters,
                            record.level});
    const int32_t* vertex = groups[g].vertices.data();
    for (uint32_t c = 0; c < record.clusters; ++c) {
      const ClusterRecord& from = t.clusters[cluster_index++];
      Cluster cluster;
      cluster.vertex_begin = static_cast<uint32_t>(asset.vertex_refs.size());
      cluster.triangle_begin = asset.clusters.empty() ? 0
                                                      : asset.clusters.back().triangle_begin +
                                                            asset.clusters.back().triangle_count;
      cluster.vertex_count = groups[g].vertex_counts[c],
      cluster.triangle_count = groups[g].triangle_counts[c];
      cluster.group = g, cluster.source_group = from.source_group, cluster.level = from.level;
      for (int v = 0; v < cluster.vertex_count; ++v, vertex += width) {
        const uint32_t id = table.find_or_add(reinterpret_cast<const uint32_t*>(vertex), keys);
        if (id == asset.vertex_count() && !layout.append(vertex, asset))
          refuse("group " + std::to_string(g) + " has a vertex out of range");
        asset.vertex_refs.push_back(id);
      }
      asset.clusters.push_back(cluster);
    }
    asset.triangles.insert(asset.triangles.end(), groups[g].triangles.begin(), groups[g].triangles.end());
    groups[g] = {};
  }
  if (asset.vertex_count() != t.header.vertices)
    refuse("the pages hold " + std::to_string(asset.vertex_count()) + " vertices, the header says " +
           std::to_string(t.header.vertices));
}

// Vertices on open borders get the source's floats back.
void restore_borders(const Tables& t, Asset& asset) {
  for (const BorderRecord& record : t.borders) {
    if (record.vertex >= asset.vertex_count()) refuse("the border table names a vertex that does not exist");
    for (int a = 0; a < 3; ++a) {
      float& kept = asset.positions[3 * size_t(record.vertex) + a];
      if (!(std::fabs(record.position[a] - kept) <= asset.step))
        refuse("the border table moves a vertex off its grid point");
      kept = record.position[a];
    }
  }
}

std::vector<BorderRecord> border_records(const Asset& asset) {
  std::vector<BorderRecord> records;
  for (uint32_t v = 0; v < asset.vertex_count(); ++v) {
    const float* p = &asset.positions[3 * size_t(v)];
    bool exact = true;
    for (int a = 0; a < 3; ++a)
      exact = exact && float(std::nearbyint(double(p[a]) / asset.step)) * asset.step == p[a];
    if (!exact) records.push_back({v, {p[0], p[1], p[2]}});
  }
  return records;
}

// Own bounds from the group that made each cluster; boxes and edges from the vertices.
void complete_clusters(Asset& asset, int threads) {
  asset.bounds.resize(asset.clusters.size());
  native::parallel_for(asset.clusters.size(), 256, threads, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      const uint32_t source = asset.clusters[c].source_group;
      if (source != none && source >= asset.groups.size())
        refuse("cluster " + std::to_string(c) + " names a group that does not exist");
      measure_cluster(asset, static_cast<uint32_t>(c));
    }
  });
}

}  // namespace

std::vector<uint8_t> encode_ncl(const Asset& asset, int threads) {
  Tables t;
  Header& h = t.header;
  std::memset(&h, 0, sizeof(h));
  std::memcpy(h.magic, magic, sizeof(magic));
  h.version = ncl_version;
  h.flags = (asset.normals.empty() ? 0 : has_normals) | (asset.uvs.empty() ? 0 : has_uvs) |
            (asset.colors.empty() ? 0 : has_colors) | (asset.materials.empty() ? 0 : has_materials);
  h.step = asset.step, h.uv_step = asset.uv_step, h.width = asset.width, h.levels = asset.levels;
  h.groups = asset.groups.size(), h.clusters = asset.clusters.size(), h.vertices = asset.vertex_count();

  const VertexLayout layout = layout_of(h.flags);
  std::vector<std::vector<uint8_t>> blobs(asset.groups.size());
  native::parallel_for(blobs.size(), 8, threads, [&](int64_t first, int64_t last) {
    for (int64_t g = first; g < last; ++g) blobs[g] = encode_group(asset, asset.groups[g], layout);
  });
  t.groups.resize(h.groups);
  std::vector<std::vector<uint8_t>> pages;
  for (size_t g = blobs.size(); g-- > 0;) {  // coarsest first: what a reader of a part wants first
    const Group& group = asset.groups[g];
    native::demand(blobs[g].size() <= page_bytes,
                   [&] { return "encode_ncl: group " + std::to_string(g) + " does not fit a page"; });
    if (pages.empty() || pages.back().size() + blobs[g].size() > page_bytes) pages.emplace_back();
    const Sphere& s = group.bounds.sphere;
    t.groups[g] = {s.x,
                   s.y,
                   s.z,
                   s.r,
                   group.bounds.error,
                   group.level,
                   group.cluster_count,
                   static_cast<uint32_t>(pages.size() - 1),
                   static_cast<uint32_t>(pages.back().size()),
                   static_cast<uint32_t>(blobs[g].size())};
    pages.back().insert(pages.back().end(), blobs[g].begin(), blobs[g].end());
    blobs[g] = {};
  }
  for (const Cluster& c : asset.clusters) t.clusters.push_back({c.source_group, c.level});
  h.pages = pages.size();
  t.borders = border_records(asset);
  std::copy_n(asset.origin, 3, t.more.origin);
  t.more.borders = t.borders.size();
  uint64_t offset = tables_end(h, t.more);
  for (size_t p = 0; p < pages.size(); ++p) {
    t.pages.push_back({offset, pages[p].size(), hash_bytes(pages[p].data(), pages[p].size(), p)});
    offset += pages[p].size();
  }
  h.file_bytes = offset;
  h.hash = hash_tables(h, t);

  std::vector<uint8_t> out(reinterpret_cast<const uint8_t*>(&h),
                           reinterpret_cast<const uint8_t*>(&h) + sizeof(h));
  out.reserve(offset);
  out.insert(out.end(), reinterpret_cast<const uint8_t*>(&t.more),
             reinterpret_cast<const uint8_t*>(&t.more) + sizeof(t.more));
  out.insert(out.end(), bytes_of(t.groups), bytes_of(t.groups) + h.groups * sizeof(GroupRecord));
  out.insert(out.end(), bytes_of(t.clusters), bytes_of(t.clusters) + h.clusters * sizeof(ClusterRecord));
  out.insert(out.end(), bytes_of(t.pages), bytes_of(t.pages) + h.pages * sizeof(PageRecord));
  out.insert(out.end(), bytes_of(t.borders), bytes_of(t.borders) + t.borders.size() * sizeof(BorderRecord));
  for (const auto& page : pages) out.insert(out.end(), page.begin(), page.end());
  return out;
}

Asset decode_ncl(const uint8_t* data, size_t size, const ReadOptions& options) {
  const Tables t = read_tables(data, size, options.verify_hashes);
  const VertexLayout layout = layout_of(t.header.flags);
  std::vector<DecodedGroup> groups(t.groups.size());
  native::parallel_for(groups.size(), 8, options.threads, [&](int64_t first, int64_t last) {
    for (int64_t g = first; g < last; ++g) {
      const GroupRecord& record = t.groups[g];
      std::string why;
      if (!decode_group(data + t.pages[record.page].offset + record.offset, record.bytes, record.clusters,
                        layout, groups[g], why))
        refuse("group " + std::to_string(g) + " " + why);
    }
  });
  Asset asset;
  asset.step = t.header.step, asset.uv_step = t.header.uv_step;
  asset.width = t.header.width, asset.levels = t.header.levels;
  std::copy_n(t.more.origin, 3, asset.origin);
  join_groups(groups, t, layout, asset);
  restore_borders(t, asset);
  complete_clusters(asset, options.threads);
  build_hierarchy(asset);
  const std::vector<std::string> problems = validate(asset, 1);
  if (!problems.empty()) refuse("the content is unsound: " + problems[0]);
  return asset;
}

Asset read_ncl(const std::string& path, const ReadOptions& options) {
  struct Mapping {
    int file = -1;
    void* data = MAP_FAILED;
    size_t size = 0;
    ~Mapping() {
      if (data != MAP_FAILED) munmap(data, size);
      if (file >= 0) close(file);
    }
  } map;
  map.file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info{};
  if (map.file < 0 || fstat(map.file, &info) != 0)
    throw native::MachineError("read_ncl: cannot open " + path + ": " + std::strerror(errno));
  map.size = static_cast<size_t>(info.st_size);
  if (map.size == 0) refuse(path + " is empty");
  map.data = mmap(nullptr, map.size, PROT_READ, MAP_PRIVATE, map.file, 0);
  if (map.data == MAP_FAILED)
    throw native::MachineError("read_ncl: cannot map " + path + ": " + std::strerror(errno));
  return decode_ncl(static_cast<const uint8_t*>(map.data), map.size, options);
}

}  // namespace nanite_cull
