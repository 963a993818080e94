#include "store/residency.h"

#include <algorithm>
#include <cmath>

#include "core/requests.h"
#include "store/ncl_file.h"

namespace nanite_cull {

namespace {

const GroupRecord& record_of(const NclFile& file, uint32_t group) { return file.tables().groups[group]; }

// Calls body(page) for each page that holds a part of the group.
template <class Body>
void each_page(const NclFile& file, uint32_t group, Body&& body) {
  const GroupRecord& r = record_of(file, group);
  uint32_t before = none;
  for (uint32_t p = r.part_begin; p < r.part_begin + r.parts; ++p) {
    const uint32_t page = file.tables().parts[p].page;
    if (page != before) body(page);
    before = page;
  }
}

template <class Body>
void each_dependency(const NclFile& file, uint32_t group, Body&& body) {
  const GroupRecord& r = record_of(file, group);
  for (uint32_t i = 0; i < r.dependencies; ++i) body(file.tables().dependencies[r.dependency_begin + i]);
}

// Calls body(group) for each group that has a part in the page.
template <class Body>
void each_group(const NclFile& file, uint32_t page, Body&& body) {
  const PageRecord& r = file.tables().pages[page];
  uint32_t before = none;
  for (uint32_t p = r.part_begin; p < r.part_begin + r.parts; ++p) {
    const uint32_t group = file.tables().parts[p].group;
    if (group != before) body(group);
    before = group;
  }
}

}  // namespace

void Requests::ask(uint32_t group, float pixels) { raise(group, request_word(frame, pixels)); }

void Requests::raise(uint32_t group, uint32_t word) {
  uint32_t old = words[group].load(std::memory_order_relaxed);
  while (old < word && !words[group].compare_exchange_weak(old, word, std::memory_order_relaxed)) {}
}

Residency::Residency(std::shared_ptr<const Asset> asset)
    : source_(std::move(asset)),
      resident_(*source_),
      pages_(source_->file->tables().pages.size()),
      pinned_(pages_.size()),
      waiting_(resident_.groups.size()),
      dependents_begin_(resident_.groups.size() + 1),
      slot_of_group_(resident_.groups.size()),
      slot_of_node_(resident_.nodes.size()),
      promises_(8 * resident_.nodes.size()),
      requests_(std::make_unique<Requests>(resident_.groups.size())) {
  const NclFile& file = *source_->file;
  const uint32_t groups = static_cast<uint32_t>(resident_.groups.size());
  resident_.requests = requests_.get();
  for (uint32_t p = 0; p < pages_.size(); ++p) bytes_.push_back(file.memory(p));
  find_slots(0);
  for (uint32_t g = 0; g < groups; ++g)
    each_dependency(file, g, [&](uint32_t d) { ++dependents_begin_[d + 1]; });
  for (uint32_t g = 0; g < groups; ++g) dependents_begin_[g + 1] += dependents_begin_[g];
  dependents_.resize(dependents_begin_.back());
  std::vector<uint32_t> next(dependents_begin_.begin(), dependents_begin_.end() - 1);
  for (uint32_t g = 0; g < groups; ++g) {
    each_dependency(file, g, [&](uint32_t d) { dependents_[next[d]++] = g; });
    waiting_[g] = record_of(file, g).dependencies;
    each_page(file, g, [&](uint32_t page) {
      ++waiting_[g];
      if (resident_.groups[g].bounds.error == infinite_error) pinned_[page] = 1;
    });
    show(g, false);
  }
  for (uint32_t p = 0; p < pages_.size(); ++p)
    if (pinned_[p]) install(p, file.read_page(p));
}

void Residency::find_slots(uint32_t node) {
  for (int lane = 0; lane < 8; ++lane) {
    const uint32_t child = resident_.nodes[node].child[lane];
    if (child == none) continue;
    if (child & leaf_bit) {
      slot_of_group_[child & ~leaf_bit] = {node, lane};
    } else {
      slot_of_node_[child] = {node, lane};
      find_slots(child);
    }
  }
}

void Residency::install(uint32_t page, std::shared_ptr<const Page> data) {
  pages_[page] = std::move(data);
  tell_groups_of(page, -1);
}

void Residency::evict(uint32_t page) {
  pages_[page] = nullptr;
  tell_groups_of(page, +1);
}

void Residency::tell_groups_of(uint32_t page, int change) {
  ++version_;
  each_group(*source_->file, page, [&](uint32_t group) { set_waiting(group, change); });
}

// Counts what a group waits for, and tells those that wait for it when it comes or goes.
void Residency::set_waiting(uint32_t group, int change) {
  std::vector<uint32_t> told{group};
  while (!told.empty()) {
    const uint32_t g = told.back();
    told.pop_back();
    const bool was = there(g);
    waiting_[g] += change;
    if (was == there(g)) continue;
    show(g, there(g));
    told.insert(told.end(), dependents_.begin() + dependents_begin_[g],
                dependents_.begin() + dependents_begin_[g + 1]);
  }
}

void Residency::show(uint32_t group, bool there) {
  auto set = [&](float& error) { error = there ? std::fabs(error) : -std::fabs(error); };
  set(resident_.groups[group].bounds.error);
  each_dependency(*source_->file, group, [&](uint32_t d) {
    const Group& holder = resident_.groups[d];
    for (uint32_t c = holder.cluster_begin; c < holder.cluster_begin + holder.cluster_count; ++c)
      if (resident_.clusters[c].source_group == group) set(resident_.bounds.error[c]);
    for (Slot slot = slot_of_group_[d]; slot.node != none; slot = slot_of_node_[slot.node]) {
      uint32_t& promises = promises_[8 * size_t(slot.node) + slot.lane];
      promises += there ? -1 : 1;
      resident_.nodes[slot.node].min_own_error[slot.lane] =
          promises ? 0 : source_->nodes[slot.node].min_own_error[slot.lane];
    }
  });
}

void Residency::wanted_pages(uint32_t frame, std::vector<float>& out) const {
  const NclFile& file = *source_->file;
  std::vector<float> wanted(waiting_.size());
  out.assign(pages_.size(), 0);
  for (uint32_t g = 0; g < wanted.size(); ++g) {  // what a group depends on has a larger number
    const uint32_t word = requests_->words[g].load(std::memory_order_relaxed);
    if (request_frame(word) == frame) wanted[g] = std::max(wanted[g], request_pixels(word));
    if (!(wanted[g] > 0)) continue;
    each_dependency(file, g, [&](uint32_t d) { wanted[d] = std::max(wanted[d], wanted[g]); });
    each_page(file, g, [&](uint32_t page) { out[page] = std::max(out[page], wanted[g]); });
  }
}

}  // namespace nanite_cull
