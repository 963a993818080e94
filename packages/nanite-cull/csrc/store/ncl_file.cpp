#include "store/ncl_file.h"

#include <cmath>

#include "build/hierarchy.h"
#include "build/validate.h"
#include "native/check.h"
#include "native/parallel.h"
#include "store/join_parts.h"
#include "store/ncl_version_2.h"

namespace nanite_cull {

namespace {

constexpr uint32_t flags_of_2 = has_normals | has_uvs | has_colors | has_materials;
constexpr uint32_t pages_at_once = 64;  // decoded before they are joined

[[noreturn]] void refuse(const std::string& why) { throw native::ValueError("read_ncl: " + why); }

// The start of the header, checked as far as it can be alone.
HeaderStart read_start(const NclBytes& bytes) {
  HeaderStart h;
  const size_t size = bytes.size();
  if (size < sizeof(h))
    refuse("the file has " + std::to_string(size) +
           " bytes, less than a header; it is truncated or no .ncl file");
  bytes.read(0, sizeof(h), &h);
  if (std::memcmp(h.magic, ncl_magic, sizeof(h.magic)) != 0)
    refuse("not an .ncl file (its first bytes differ)");
  if (h.version < 2 || h.version > ncl_version_with_materials)
    refuse("the file has version " + std::to_string(h.version) + ", this library reads versions 2 to " +
           std::to_string(ncl_version_with_materials) + "; store the mesh again with this library");
  if (h.file_bytes != size)
    refuse("the file has " + std::to_string(size) + " bytes, its header says " +
           std::to_string(h.file_bytes) + "; it is truncated or damaged");
  const uint32_t flags = h.version == 2 ? flags_of_2 : flags_of_2 | has_exact;
  const bool sane = h.groups > 0 && h.clusters >= h.groups && h.clusters < most_clusters && h.pages > 0 &&
                    h.pages <= h.clusters && h.vertices > 0 &&
                    h.vertices <= h.clusters * max_cluster_vertices && (h.flags & ~flags) == 0 &&
                    (h.width == 4 || h.width == 8) && h.step >= 1e-30f && h.step <= 1e18f &&
                    h.uv_step >= 1e-38f && h.uv_step <= 1e20f && h.levels <= most_levels;
  if (!sane) refuse("the header is damaged (impossible counts)");
  return h;
}

NclTables read_tables(const NclBytes& bytes, bool verify) {
  NclTables t;
  t.header.start = read_start(bytes);
  if (t.header.start.version == 2)
    refuse("a file of version 2 has no header to open it by; load it and save it again");
  uint64_t at = 0;
  auto size_of = [&](uint64_t count, size_t record) {
    if (count > (bytes.size() - at) / record) refuse("the header is damaged (impossible counts)");
    return static_cast<size_t>(count) * record;
  };
  bytes.read(0, size_of(1, sizeof(Header)), &t.header);
  at = sizeof(Header);
  auto read_table = [&](auto& table, uint64_t count) {
    const size_t size = size_of(count, sizeof(table[0]));
    table.resize(count);
    bytes.read(at, size, table.data());
    at += size;
  };
  const Header& h = t.header;
  read_table(t.nodes, h.nodes), read_table(t.groups, h.start.groups), read_table(t.parts, h.parts);
  read_table(t.clusters, h.start.clusters), read_table(t.leaves, h.leaves);
  read_table(t.dependencies, h.dependencies), read_table(t.pages, h.start.pages);
  if (verify && t.hash() != h.start.hash) refuse("the header or a table is damaged (its hash differs)");
  return t;
}

// Whether the parts lie one behind the other from the last cluster down, and the pages from the first part
// up.
void check_pages(const NclTables& t, size_t size) {
  uint64_t end = t.clusters.size();
  uint32_t part = 0;
  for (uint32_t p = 0; p < t.pages.size(); ++p) {
    const PageRecord& page = t.pages[p];
    if (page.bytes > page_bytes || page.offset > size || page.bytes > size - page.offset || page.unused != 0)
      refuse("page " + std::to_string(p) + " lies outside the file");
    if (page.part_begin != part || page.parts < 1 || page.parts > t.parts.size() - part)
      refuse("the page table is damaged (page " + std::to_string(p) + " does not follow the one before)");
    for (uint32_t slot = 0; slot < page.parts; ++slot, ++part) {
      const PartRecord& r = t.parts[part];
      const bool sound = r.page == p && r.slot == slot && r.clusters >= 1 &&
                         r.clusters <= most_part_clusters && r.clusters <= end &&
                         r.cluster_begin == end - r.clusters && r.group < t.groups.size();
      if (!sound)
        refuse("the part table is damaged (part " + std::to_string(part) +
               " does not follow the one before)");
      end = r.cluster_begin;
    }
  }
  if (part != t.parts.size() || end != 0) refuse("the part table is damaged (not every cluster has a part)");
}

void check_groups(const NclTables& t) {
  uint64_t cluster = 0;
  for (uint32_t g = 0; g < t.groups.size(); ++g) {
    const GroupRecord& r = t.groups[g];
    bool sound = r.level < most_levels && r.cluster_begin == cluster && r.clusters >= 1 &&
                 r.clusters <= t.clusters.size() - cluster && r.parts >= 1 && r.part_begin < t.parts.size() &&
                 r.parts <= t.parts.size() - r.part_begin;
    uint64_t held = 0;
    for (uint32_t p = r.part_begin; sound && p < r.part_begin + r.parts; ++p)
      sound = t.parts[p].group == g, held += t.parts[p].clusters;
    if (!sound || held != r.clusters)
      refuse("the group table is damaged (the parts of group " + std::to_string(g) +
             " are not its clusters)");
    cluster += r.clusters;
  }
  if (cluster != t.clusters.size())
    refuse("the groups hold " + std::to_string(cluster) + " clusters, the header says " +
           std::to_string(t.clusters.size()));
  for (const ClusterRecord& c : t.clusters)
    if (c.source_group != none && c.source_group >= t.groups.size())
      refuse("the cluster table is damaged (it names a group that does not exist)");
  std::vector<GroupRecord> groups = t.groups;
  if (ncl_dependencies(t.clusters, groups) != t.dependencies ||
      std::memcmp(groups.data(), t.groups.data(), groups.size() * sizeof(GroupRecord)) != 0)
    refuse("the dependencies are damaged (they are not the groups of what each group made)");
}

// Groups, clusters, bounds and hierarchy, as an asset without geometry.
Asset graph_of(const NclTables& t) {
  Asset a;
  const Header& h = t.header;
  a.step = h.start.step, a.uv_step = h.start.uv_step;
  a.width = static_cast<int>(h.start.width), a.levels = h.start.levels;
  std::copy_n(h.origin, 3, a.origin);
  a.nodes = t.nodes;
  a.groups.reserve(t.groups.size()), a.clusters.reserve(t.clusters.size());
  a.bounds.resize(t.clusters.size());
  uint64_t vertex = 0, triangle = 0;
  size_t leaf = 0;
  for (uint32_t g = 0; g < t.groups.size(); ++g) {
    const GroupRecord& r = t.groups[g];
    a.groups.push_back({{{r.x, r.y, r.z, r.r}, r.error}, r.cluster_begin, r.clusters, r.level});
    for (uint32_t c = r.cluster_begin; c < r.cluster_begin + r.clusters; ++c) {
      const ClusterRecord& from = t.clusters[c];
      a.clusters.push_back({static_cast<uint32_t>(vertex), static_cast<uint32_t>(triangle), from.vertices,
                            from.triangles, g, from.source_group, from.level, from.longest_edge});
      vertex += from.vertices, triangle += from.triangles;
      LodBounds own;
      if (from.source_group != none) {
        const GroupRecord& made = t.groups[from.source_group];
        own = {{made.x, made.y, made.z, made.r}, made.error};
      } else {
        if (leaf == t.leaves.size()) refuse("the spheres are damaged (there are more leaf clusters)");
        const SphereRecord& s = t.leaves[leaf++];
        own.sphere = {s.x, s.y, s.z, s.r};
      }
      ClusterBounds& b = a.bounds;
      for (int i = 0; i < 3; ++i) b.lo[i][c] = from.lo[i], b.hi[i][c] = from.hi[i];
      b.x[c] = own.sphere.x, b.y[c] = own.sphere.y, b.z[c] = own.sphere.z, b.r[c] = own.sphere.r;
      b.error[c] = own.error;
    }
  }
  if (leaf != t.leaves.size() || vertex != h.vertex_refs || triangle != h.triangles || vertex > UINT32_MAX ||
      h.start.vertices > vertex)
    refuse("the header is damaged (impossible counts)");
  return a;
}

// What only the joined asset shows.
void check_whole(const Asset& asset, uint64_t vertices) {
  if (asset.vertex_count() != vertices)
    refuse("the pages hold " + std::to_string(asset.vertex_count()) + " vertices, the header says " +
           std::to_string(vertices));
  const std::vector<std::string> problems = validate(asset, 1);
  if (!problems.empty()) refuse("the content is unsound: " + problems[0]);
}

}  // namespace

uint64_t NclTables::hash() const {
  Header zeroed = header;
  zeroed.start.hash = 0;
  uint64_t h = hash_bytes(reinterpret_cast<const uint8_t*>(&zeroed), sizeof(zeroed), 1);
  each([&](const auto& table) { h = hash_bytes(bytes_of(table), table.size() * sizeof(table[0]), h); });
  return h;
}

std::vector<uint32_t> ncl_dependencies(const std::vector<ClusterRecord>& clusters,
                                       std::vector<GroupRecord>& groups) {
  std::vector<std::vector<uint32_t>> of(groups.size());
  for (uint32_t g = 0; g < groups.size(); ++g)
    for (uint32_t c = groups[g].cluster_begin; c < groups[g].cluster_begin + groups[g].clusters; ++c) {
      const uint32_t source = clusters[c].source_group;
      if (source != none && (of[source].empty() || of[source].back() != g)) of[source].push_back(g);
    }
  std::vector<uint32_t> all;
  for (uint32_t g = 0; g < groups.size(); ++g) {
    groups[g].dependency_begin = static_cast<uint32_t>(all.size());
    groups[g].dependencies = static_cast<uint32_t>(of[g].size());
    all.insert(all.end(), of[g].begin(), of[g].end());
  }
  return all;
}

NclFile::NclFile(NclBytes bytes, const ReadOptions& options)
    : bytes_(std::move(bytes)),
      options_(options),
      tables_(read_tables(bytes_, options.verify_hashes)),
      layout_(tables_.header.start.flags) {
  check_pages(tables_, bytes_.size());
  check_groups(tables_);
  const std::vector<std::string> problems = validate_graph(graph_of(tables_), 1);
  if (!problems.empty()) refuse("the content is unsound: " + problems[0]);
  find_ranges();
}

void NclFile::refuse(const std::string& why) const { nanite_cull::refuse(why + bytes_.where()); }

Asset NclFile::graph() const {
  Asset graph = graph_of(tables_);
  finish_hierarchy(graph);
  return graph;
}

// Pages come from the last cluster down.
void NclFile::find_ranges() {
  const HeaderStart& h = tables_.header.start;
  ranges_.resize(h.pages), page_of_.resize(h.clusters);
  uint32_t vertex = 0, triangle = 0, cluster = 0;
  for (uint32_t p = static_cast<uint32_t>(h.pages); p-- > 0;) {
    const PartRecord& last = tables_.parts[tables_.pages[p].part_begin];
    const uint32_t end = last.cluster_begin + last.clusters;
    ranges_[p] = {vertex, triangle, 0, 0};
    for (; cluster < end; ++cluster) {
      page_of_[cluster] = p;
      vertex += tables_.clusters[cluster].vertices, triangle += tables_.clusters[cluster].triangles;
    }
    ranges_[p].vertices = vertex - ranges_[p].vertex_begin;
    ranges_[p].triangles = triangle - ranges_[p].triangle_begin;
  }
}

void NclFile::decode_page(uint32_t page, std::vector<DecodedPart>& out) const {
  native::demand(page < tables_.pages.size(), [&] {
    return "decode_page: page must be 0 to " + std::to_string(tables_.pages.size() - 1) + ", got " +
           std::to_string(page);
  });
  const PageRecord& record = tables_.pages[page];
  thread_local std::vector<uint8_t> room;
  const uint8_t* data = bytes_.at(record.offset, record.bytes, room);
  const std::string name = "page " + std::to_string(page);
  if (options_.verify_hashes && hash_bytes(data, record.bytes, page) != record.hash)
    refuse(name + " is damaged (its hash differs)");
  PageHead head{};
  if (record.bytes < part_head_at(record.parts)) refuse(name + " is shorter than its head");
  std::memcpy(&head, data, sizeof(head));
  if (head.parts != record.parts) refuse(name + " has another number of parts than its table says");
  out.resize(record.parts);
  for (uint32_t slot = 0; slot < record.parts; ++slot) {
    PartHead part;
    std::memcpy(&part, data + part_head_at(slot), sizeof(part));
    const PartRecord& expected = tables_.parts[record.part_begin + slot];
    if (part.clusters != expected.clusters || part.offset > record.bytes ||
        part.bytes > record.bytes - part.offset)
      refuse(name + " has a part that lies outside it");
    std::string why;
    if (!decode_part(data + part.offset, part.bytes, part.clusters, layout_, out[slot], why))
      refuse("part " + std::to_string(slot) + " of " + name + " " + why);
    for (uint32_t c = 0; c < part.clusters; ++c) {
      const ClusterRecord& cluster = tables_.clusters[expected.cluster_begin + c];
      if (out[slot].vertex_counts[c] != cluster.vertices || out[slot].triangle_counts[c] != cluster.triangles)
        refuse("part " + std::to_string(slot) + " of " + name + " has other clusters than the header says");
    }
  }
}

std::shared_ptr<const Page> NclFile::read_page(uint32_t page) const {
  thread_local std::vector<DecodedPart> parts;
  decode_page(page, parts);
  const PageRange& range = ranges_[page];
  auto out = std::make_shared<Page>();
  out->step = tables_.header.start.step, out->uv_step = tables_.header.start.uv_step;
  out->vertex_begin = range.vertex_begin, out->triangle_begin = range.triangle_begin;
  layout_.reserve(range.vertices, *out);
  out->triangles.reserve(3 * size_t(range.triangles));
  for (uint32_t slot = tables_.pages[page].parts; slot-- > 0;) {  // the first clusters come last
    const DecodedPart& part = parts[slot];
    if (!layout_.append(part.vertices, *out))
      refuse("page " + std::to_string(page) + " has a vertex out of range");
    out->triangles.insert(out->triangles.end(), part.triangles.begin(), part.triangles.end());
  }
  return out;
}

uint64_t NclFile::memory(uint32_t page) const {
  return sizeof(Page) + ranges_[page].vertices * layout_.memory() + 3 * uint64_t(ranges_[page].triangles);
}

std::vector<uint8_t> NclFile::materials() const {
  std::vector<uint8_t> out;
  if (tables_.header.start.version != ncl_version_with_materials) return out;
  MaterialsFoot foot{};
  const size_t before = tables_.bytes(), size = bytes_.size();  // the header is before them
  if (size - before < sizeof(foot)) refuse("the materials are damaged (there are none)");
  bytes_.read(size - sizeof(foot), sizeof(foot), &foot);
  if (foot.bytes > size - before - sizeof(foot)) refuse("the materials are damaged (they exceed the file)");
  out.resize(foot.bytes);
  bytes_.read(size - sizeof(foot) - out.size(), out.size(), out.data());
  if (options_.verify_hashes && hash_bytes(out.data(), out.size(), ncl_version_with_materials) != foot.hash)
    refuse("the materials are damaged (their hash differs)");
  return out;
}

Asset NclFile::load() const {
  Asset asset = graph();
  PartJoin join(asset, layout_, tables_.header.start.vertices);
  std::vector<std::vector<DecodedPart>> pages(std::min<size_t>(pages_at_once, tables_.pages.size()));
  for (size_t end = tables_.pages.size(); end > 0;) {  // the leaves' pages are the last
    const size_t count = std::min(pages.size(), end);
    native::parallel_for(count, 1, options_.threads, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) decode_page(static_cast<uint32_t>(end - 1 - i), pages[i]);
    });
    for (size_t i = 0; i < count; ++i)
      for (size_t slot = pages[i].size(); slot-- > 0;)
        if (!join.add(pages[i][slot]))
          refuse("page " + std::to_string(end - 1 - i) + " has a vertex out of range");
    end -= count;
  }
  check_whole(asset, tables_.header.start.vertices);
  return asset;
}

std::shared_ptr<Asset> streamed_asset(std::shared_ptr<const NclFile> file) {
  auto asset = std::make_shared<Asset>(file->graph());
  asset->file = std::move(file);
  return asset;
}

Asset read_ncl(const NclBytes& bytes, const ReadOptions& options, std::vector<uint8_t>* materials) {
  const HeaderStart start = read_start(bytes);
  if (start.version != 2) {
    const NclFile file(bytes, options);
    if (materials) *materials = file.materials();
    return file.load();
  }
  std::vector<uint8_t> room;
  const uint8_t* data = bytes.at(0, bytes.size(), room);
  Asset asset = decode_version_2(data, bytes.size(), options.verify_hashes, options.threads);
  check_whole(asset, start.vertices);
  return asset;
}

}  // namespace nanite_cull
