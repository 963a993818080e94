// The four demonstration kernels in the simulator: every case must be clean under every sanitizer.
#include "cusim_test.h"
#include "kernels.cuh"

#include <algorithm>
#include <numeric>
#include <set>

using cusim::Buffer;
using namespace demo;

namespace {

unsigned long long key_of(int i) {  // 3 of 4 keys are new, far apart, some beyond 32 bits
  return static_cast<unsigned long long>(i - i / 4) * 0x100000001b3ull + 7;
}

std::vector<unsigned long long> some_keys(int n) {
  std::vector<unsigned long long> keys(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) keys[static_cast<std::size_t>(i)] = key_of(i);
  return keys;
}

}  // namespace

CUSIM_CASE(work_queue) {
  const unsigned nodes = 341;  // a complete tree of degree 4
  Buffer<unsigned> counters(std::vector<unsigned>{0, 1, 1}), ready(nodes, 0u), item(nodes, 0u);
  Buffer<unsigned> visits(nodes, 0u);
  const unsigned one = 1;
  cusim::upload(ready.data(), &one, sizeof one);  // the root, node 0, is in slot 0
  const Queue q{counters.data(), counters.data() + 1, counters.data() + 2, ready.data(), item.data(), nodes};
  dev::launch(traverse_tree, 4, 64, 0, &device, q, 4u, nodes, visits.data());
  for (unsigned count : visits.host()) CUSIM_REQUIRE(count == 1);
  CUSIM_REQUIRE(counters.host()[2] == 0);
}

CUSIM_CASE(hash_insert) {
  const int n = 2000;
  const unsigned capacity = 4096;
  const auto keys = some_keys(n);
  Buffer<unsigned long long> in(keys), table(capacity, empty_key);
  Buffer<int> value(capacity, n);
  Buffer<unsigned> failures(1, 0u);
  dev::launch(hash_insert, 5, 128, 0, &device, in.data(), n, table.data(), value.data(), capacity,
              failures.data());
  std::map<unsigned long long, int> expected, found;
  for (int i = n - 1; i >= 0; --i) expected[keys[static_cast<std::size_t>(i)]] = i;
  const auto slots = table.host();
  const auto values = value.host();
  for (unsigned s = 0; s < capacity; ++s)
    if (slots[s] != empty_key) {
      CUSIM_REQUIRE(found.count(slots[s]) == 0);
      found[slots[s]] = values[s];
    }
  CUSIM_REQUIRE(failures.host()[0] == 0);
  CUSIM_REQUIRE(found == expected);
}

CUSIM_CASE(hash_insert_counts_what_does_not_fit) {
  const auto keys = some_keys(100);
  const std::set<unsigned long long> distinct(keys.begin(), keys.end());
  Buffer<unsigned long long> in(keys), table(64, empty_key);
  Buffer<int> value(64, 100);
  Buffer<unsigned> failures(1, 0u);
  dev::launch(hash_insert, 2, 64, 0, &device, in.data(), 100, table.data(), value.data(), 64u,
              failures.data());
  std::map<unsigned long long, int> kept;
  for (unsigned long long key : table.host()) kept[key] = 0;
  CUSIM_REQUIRE(kept.size() == 64 && kept.count(empty_key) == 0);
  unsigned left_out = 0;
  for (unsigned long long key : keys) left_out += kept.count(key) == 0;
  CUSIM_REQUIRE(failures.host()[0] == left_out && left_out >= distinct.size() - 64);
}

CUSIM_CASE(block_reduce) {
  std::vector<int> x(3001);
  std::iota(x.begin(), x.end(), -700);
  Buffer<int> in(x), sum(7, 0);
  dev::launch(block_reduce, 7, 256, 0, &device, in.data(), static_cast<int>(x.size()), sum.data());
  const auto parts = sum.host();
  CUSIM_REQUIRE(std::accumulate(parts.begin(), parts.end(), 0) == std::accumulate(x.begin(), x.end(), 0));
}

// By a stream of its own a copy comes behind the kernel that reads what was there, and before the next one.
CUSIM_CASE(copies_beside_kernels) {
  constexpr int n = 300;
  Buffer<int> in(n, 1), before(3, 0), after(3, 0);
  dev::SideStream side;
  dev::Event read, copied;
  auto* const pinned = static_cast<int*>(dev::allocate_pinned(n * sizeof(int)));
  dev::launch(block_reduce, 3, 64, 0, &device, in.data(), n, before.data());
  read.record(&device), read.hold_back(side.get());
  for (int part = 0; part < 2; ++part) {
    std::fill_n(pinned, n / 2, 2 + part);
    dev::upload_later(in.data() + part * n / 2, pinned, n / 2 * sizeof(int), side.get());
    copied.record(side.get());
    if (part == 0) copied.wait();  // before the memory is filled again
  }
  copied.hold_back(&device);
  dev::launch(block_reduce, 3, 64, 0, &device, in.data(), n, after.data());
  const auto total = [](const std::vector<int>& parts) {
    return std::accumulate(parts.begin(), parts.end(), 0);
  };
  device.wait();
  CUSIM_REQUIRE(total(before.host()) == n);
  CUSIM_REQUIRE(total(after.host()) == n / 2 * (2 + 3));
  dev::release_pinned(pinned);
}

CUSIM_CASE(grid_barrier) {
  const int rounds = 3;
  const unsigned blocks = 4;  // as many as are resident
  std::vector<int> now(blocks), next(blocks);
  std::iota(now.begin(), now.end(), 1);
  std::vector<int> start(now);
  start.resize(2 * blocks);
  Buffer<int> values(start);
  Buffer<unsigned> arrived(1, 0u);
  dev::launch(ring_sum, blocks, 64, 0, &device, values.data(), arrived.data(), rounds);
  for (int r = 0; r < rounds; ++r, now = next)
    for (unsigned b = 0; b < blocks; ++b) next[b] = now[b] + now[(b + 1) % blocks];
  const auto all = values.host();
  CUSIM_REQUIRE(std::equal(now.begin(), now.end(), all.begin() + (rounds % 2) * blocks));
}

CUSIM_MAIN
