#include <cmath>
#include <string>

#include "native/check.h"
#include "native/parallel.h"
#include "store/ncl_file.h"
#include "store/part_codec.h"

namespace nanite_cull {

namespace {

// Clusters of one group, encoded; at most what a page holds.
struct Part {
  uint32_t group, cluster_begin, clusters;
  std::vector<uint8_t> bytes;
};

constexpr size_t least_page = 4096;  // a cluster of the longest vertices takes more; a page of it, its own

// Appends the parts of clusters [begin, begin + count): one, or more where that does not fit `room` bytes.
void add_parts(const Asset& asset, uint32_t group, uint32_t begin, uint32_t count, const VertexLayout& layout,
               size_t room, std::vector<Part>& out) {
  if (count <= most_part_clusters) {
    Part part{group, begin, count, encode_part(asset, begin, count, layout)};
    if (part.bytes.size() <= room || count == 1) {
      out.push_back(std::move(part));
      return;
    }
  }
  add_parts(asset, group, begin, count / 2, layout, room, out);
  add_parts(asset, group, begin + count / 2, count - count / 2, layout, room, out);
}

// All parts, the last cluster's first.
std::vector<Part> parts_of(const Asset& asset, const VertexLayout& layout, size_t room, int threads) {
  std::vector<std::vector<Part>> of_group(asset.groups.size());
  native::parallel_for(of_group.size(), 8, threads, [&](int64_t first, int64_t last) {
    for (int64_t g = first; g < last; ++g) {
      const Group& group = asset.groups[g];
      add_parts(asset, static_cast<uint32_t>(g), group.cluster_begin, group.cluster_count, layout, room,
                of_group[g]);
    }
  });
  std::vector<Part> parts;
  for (auto group = of_group.rbegin(); group != of_group.rend(); ++group)
    for (auto part = group->rbegin(); part != group->rend(); ++part) parts.push_back(std::move(*part));
  return parts;
}

// Puts parts [first, last) into one page.
std::vector<uint8_t> page_of(const std::vector<Part>& parts, size_t first, size_t last) {
  std::vector<uint8_t> page;
  auto put = [&](const auto& record) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&record);
    page.insert(page.end(), bytes, bytes + sizeof(record));
  };
  const uint32_t count = static_cast<uint32_t>(last - first);
  put(PageHead{count});
  uint32_t offset = part_head_at(count);
  for (size_t p = first; p < last; ++p) {
    const uint32_t bytes = static_cast<uint32_t>(parts[p].bytes.size());
    put(PartHead{offset, bytes, parts[p].clusters});
    offset += bytes;
  }
  for (size_t p = first; p < last; ++p) page.insert(page.end(), parts[p].bytes.begin(), parts[p].bytes.end());
  return page;
}

void fill_clusters(const Asset& asset, NclTables& t) {
  const ClusterBounds& b = asset.bounds;
  for (uint32_t c = 0; c < asset.clusters.size(); ++c) {
    const Cluster& k = asset.clusters[c];
    ClusterRecord record{};
    for (int a = 0; a < 3; ++a) record.lo[a] = b.lo[a][c], record.hi[a] = b.hi[a][c];
    record.longest_edge = k.longest_edge, record.source_group = k.source_group;
    record.level = static_cast<uint16_t>(k.level);
    record.vertices = static_cast<uint8_t>(k.vertex_count);
    record.triangles = static_cast<uint8_t>(k.triangle_count);
    t.clusters.push_back(record);
    if (k.source_group == none) t.leaves.push_back({b.x[c], b.y[c], b.z[c], b.r[c]});
  }
}

void fill_groups(const Asset& asset, const std::vector<Part>& parts, NclTables& t) {
  for (const Group& group : asset.groups) {
    const Sphere& s = group.bounds.sphere;
    t.groups.push_back({s.x, s.y, s.z, s.r, group.bounds.error, group.level, group.cluster_begin,
                        group.cluster_count, 0, 0, 0, 0});
  }
  for (uint32_t p = 0; p < parts.size(); ++p) {
    GroupRecord& group = t.groups[parts[p].group];
    if (group.parts++ == 0) group.part_begin = p;
  }
  t.dependencies = ncl_dependencies(t.clusters, t.groups);
}

}  // namespace

std::vector<uint8_t> encode_ncl(const Asset& asset, int threads, size_t most_page_bytes,
                                const std::vector<uint8_t>& materials) {
  native::demand(most_page_bytes >= least_page && most_page_bytes <= page_bytes, [&] {
    return "encode_ncl: most_page_bytes must be " + std::to_string(least_page) + " to " +
           std::to_string(page_bytes) + ", got " + std::to_string(most_page_bytes);
  });
  NclTables t;
  HeaderStart& h = t.header.start;
  std::memset(&t.header, 0, sizeof(t.header));
  std::memcpy(h.magic, ncl_magic, sizeof(h.magic));
  h.version = materials.empty() ? ncl_version : ncl_version_with_materials;
  h.flags = (asset.normals.empty() ? 0 : has_normals) | (asset.uvs.empty() ? 0 : has_uvs) |
            (asset.colors.empty() ? 0 : has_colors) | (asset.materials.empty() ? 0 : has_materials) |
            (has_exact_floats(asset) ? has_exact : 0);
  h.step = asset.step, h.uv_step = asset.uv_step, h.width = asset.width, h.levels = asset.levels;
  std::copy_n(asset.origin, 3, t.header.origin);
  const std::vector<Part> parts =
      parts_of(asset, VertexLayout(h.flags), most_page_bytes - part_head_at(1), threads);
  t.nodes = asset.nodes;
  fill_clusters(asset, t);
  fill_groups(asset, parts, t);

  std::vector<std::vector<uint8_t>> pages;
  for (size_t first = 0, last = 0; first < parts.size(); first = last) {
    size_t size = sizeof(PageHead);
    for (; last < parts.size(); ++last) {
      size += sizeof(PartHead) + parts[last].bytes.size();
      if (size > most_page_bytes && last > first) break;
      t.parts.push_back({parts[last].group, parts[last].cluster_begin, parts[last].clusters,
                         static_cast<uint32_t>(pages.size()), static_cast<uint32_t>(last - first)});
    }
    pages.push_back(page_of(parts, first, last));
    t.pages.push_back({0, hash_bytes(pages.back().data(), pages.back().size(), t.pages.size()),
                       static_cast<uint32_t>(pages.back().size()), static_cast<uint32_t>(first),
                       static_cast<uint32_t>(last - first), 0});
  }
  h.groups = t.groups.size(), h.clusters = t.clusters.size(), h.pages = t.pages.size();
  h.vertices = asset.vertex_count();
  t.header.nodes = t.nodes.size(), t.header.parts = t.parts.size(), t.header.leaves = t.leaves.size();
  t.header.dependencies = t.dependencies.size();
  t.header.vertex_refs = asset.vertex_refs.size(), t.header.triangles = asset.triangle_count();
  uint64_t offset = t.bytes();
  for (PageRecord& page : t.pages) page.offset = offset, offset += page.bytes;
  if (!materials.empty()) offset += materials.size() + sizeof(MaterialsFoot);
  h.file_bytes = offset;
  h.hash = t.hash();

  std::vector<uint8_t> out(reinterpret_cast<const uint8_t*>(&t.header),
                           reinterpret_cast<const uint8_t*>(&t.header + 1));
  out.reserve(offset);
  t.each([&](const auto& table) {
    out.insert(out.end(), bytes_of(table), bytes_of(table) + table.size() * sizeof(table[0]));
  });
  for (const auto& page : pages) out.insert(out.end(), page.begin(), page.end());
  if (materials.empty()) return out;
  const MaterialsFoot foot{materials.size(),
                           hash_bytes(materials.data(), materials.size(), ncl_version_with_materials)};
  out.insert(out.end(), materials.begin(), materials.end());
  const auto* bytes = reinterpret_cast<const uint8_t*>(&foot);
  out.insert(out.end(), bytes, bytes + sizeof(foot));
  return out;
}

}  // namespace nanite_cull
