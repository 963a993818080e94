// Which groups of a file can be drawn, as its pages come and go.
//
// A group is there when its pages are and, closed under this rule, the groups that it depends on. What is not
// there is written into the errors that culling reads: the group's own, and that of the clusters it made, get
// their sign set, which to every level-of-detail test is fine enough. So the group's clusters are no
// candidates, those it made draw in their place, and since errors are monotone along every path and the
// resident groups are closed, every leaf still has exactly one cluster that stands for it (core/lod.h). The
// nodes above a group that such a cluster waits in promise an own error of zero, so that none is skipped.
#pragma once

#include <atomic>
#include <memory>

#include "store/page.h"

namespace nanite_cull {

// The wishes of traversals (core/requests.h), a word for each group.
struct Requests {
  std::vector<std::atomic<uint32_t>> words;
  uint32_t frame = 1;

  explicit Requests(size_t groups) : words(groups) {}
  void ask(uint32_t group, float pixels);
  void raise(uint32_t group, uint32_t word);  // to a word that was written elsewhere
};

class Residency {
 public:
  // Nothing is there but the pages with a terminal group, which stay: they are read here. `asset` has a file.
  // Throws what reading a page throws.
  explicit Residency(std::shared_ptr<const Asset> asset);

  // The asset with the errors of what is there. Its geometry is in pages().
  const Asset& asset() const { return resident_; }
  const std::shared_ptr<const Asset>& source() const { return source_; }
  // Another owner of the same asset, which may outlive the first.
  void own(std::shared_ptr<const Asset> same) { source_ = std::move(same); }
  const PageTable& pages() const { return pages_; }

  // Bytes of a page in memory, known before it is read.
  uint64_t bytes(uint32_t page) const { return bytes_[page]; }
  bool pinned(uint32_t page) const { return pinned_[page] != 0; }
  bool there(uint32_t group) const { return waiting_[group] == 0; }

  void install(uint32_t page, std::shared_ptr<const Page> data);
  void evict(uint32_t page);

  // For every page the pixels that `frame` wanted it for, zero where not. A group wants what it depends on at
  // least as much as itself is wanted.
  void wanted_pages(uint32_t frame, std::vector<float>& out) const;

  // Another number after every page that came or went; never zero.
  uint64_t version() const { return version_; }

  Requests& requests() const { return *requests_; }

 private:
  // A slot of a node, and so the way up to the root.
  struct Slot {
    uint32_t node = none;
    int lane = 0;
  };
  void find_slots(uint32_t node);
  void tell_groups_of(uint32_t page, int change);
  void set_waiting(uint32_t group, int change);
  void show(uint32_t group, bool there);

  std::shared_ptr<const Asset> source_;
  Asset resident_;
  PageTable pages_;
  std::vector<uint64_t> bytes_;
  std::vector<uint8_t> pinned_;
  std::vector<uint32_t> waiting_;  // of a group: pages and dependencies that are not there
  std::vector<uint32_t> dependents_, dependents_begin_;  // the groups that depend on each group
  std::vector<Slot> slot_of_group_, slot_of_node_;
  std::vector<uint32_t> promises_;  // of a node's slot: clusters below that stand for a group
  std::unique_ptr<Requests> requests_;
  uint64_t version_ = 1;
};

}  // namespace nanite_cull
