// .ncl files: opened by their header, read page by page or whole. The layout: ncl_format.h. A page is decoded
// into memory of its reader's, who frees it; none is mapped or kept here.
#pragma once

#include <string>

#include "build/asset.h"
#include "store/ncl_bytes.h"
#include "store/ncl_format.h"
#include "store/page.h"
#include "store/part_codec.h"

namespace nanite_cull {

// Everything in a file but its pages.
struct NclTables {
  Header header;
  std::vector<Node> nodes;
  std::vector<GroupRecord> groups;
  std::vector<PartRecord> parts;
  std::vector<ClusterRecord> clusters;
  std::vector<SphereRecord> leaves;
  std::vector<uint32_t> dependencies;
  std::vector<PageRecord> pages;

  // Calls body for each table, in the order of the file.
  template <class Body>
  void each(Body&& body) const {
    body(nodes), body(groups), body(parts), body(clusters), body(leaves), body(dependencies), body(pages);
  }
  size_t bytes() const {
    size_t sum = sizeof(Header);
    each([&](const auto& table) { sum += table.size() * sizeof(table[0]); });
    return sum;
  }
  uint64_t hash() const;
};

// For each group the groups of the clusters that it made, ascending; sets dependency_begin, dependencies.
std::vector<uint32_t> ncl_dependencies(const std::vector<ClusterRecord>& clusters,
                                       std::vector<GroupRecord>& groups);

// The asset as the bytes of a file. `most_page_bytes`: at least 4096, at most page_bytes; a single cluster
// may exceed less. `materials`: kept as they are. Throws native::ValueError for another value.
std::vector<uint8_t> encode_ncl(const Asset& asset, int threads, size_t most_page_bytes = page_bytes,
                                const std::vector<uint8_t>& materials = {});

struct ReadOptions {
  bool verify_hashes = true;  // false: for fuzzing, so that damage reaches the decoders
  int threads = 0;
};

// A file of version 3 or 4, opened: its header is read and checked, no page is touched. Never reads outside
// the bytes; throws native::ValueError with the reason for anything that is not sound. May be read by many
// threads.
class NclFile {
 public:
  NclFile(NclBytes bytes, const ReadOptions& options);

  const NclTables& tables() const { return tables_; }
  // Groups, clusters, their bounds and the hierarchy, without vertices and triangles.
  Asset graph() const;
  uint32_t page_of(uint32_t cluster) const { return page_of_[cluster]; }

  // A page's vertices and triangles.
  std::shared_ptr<const Page> read_page(uint32_t page) const;
  // What they take in memory, known before they are read.
  uint64_t memory(uint32_t page) const;

  // The parts of a page, in their slots. `out` may hold those of an earlier page: its memory is used again.
  void decode_page(uint32_t page, std::vector<DecodedPart>& out) const;

  // The bytes that were stored with it; empty in version 3.
  std::vector<uint8_t> materials() const;

  // All pages joined: what was written, bit for bit, but for the source map, which is not stored.
  Asset load() const;

 private:
  // What a page holds, in the order of the asset.
  struct PageRange {
    uint32_t vertex_begin, triangle_begin, vertices, triangles;
  };
  void find_ranges();
  [[noreturn]] void refuse(const std::string& why) const;  // and where

  NclBytes bytes_;
  ReadOptions options_;
  NclTables tables_;
  VertexLayout layout_;
  std::vector<PageRange> ranges_;
  std::vector<uint32_t> page_of_;  // of each cluster
};

// An asset that is drawn from the file's pages as they are asked for (store/streamer.h).
std::shared_ptr<Asset> streamed_asset(std::shared_ptr<const NclFile> file);

// Reads a whole file of version 2 to 4. `materials`: gets those of version 4; may be null.
Asset read_ncl(const NclBytes& bytes, const ReadOptions& options, std::vector<uint8_t>* materials = nullptr);

}  // namespace nanite_cull
