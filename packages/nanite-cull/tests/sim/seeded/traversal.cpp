// Mistakes that queues of persistent kernels are made with. Each case must be found to be wrong.
#include "../walk.h"

namespace {

using nanite_cull::QueueState;
using nanite_cull::cuda::DeviceQueue;

// What is published without a release may be seen before what it stands for.
struct RelaxedPublish : DeviceQueue {
  DEV_FN void publish(uint32_t slot, uint64_t word) const { dev::store_relaxed(nodes + slot, word); }
  DEV_FN uint32_t retire(uint32_t n) const { return atomicSub(&state->pending_nodes, n); }
};

// A reserved slot is read as if it were written.
struct MissingCommit : DeviceQueue {
  static constexpr uint32_t batch = 4;
  DEV_FN uint32_t committed(uint32_t number) const {
    const int64_t reserved = int64_t(tail()) - int64_t(number) * batch;
    return reserved < 0 ? 0 : reserved < batch ? static_cast<uint32_t>(reserved) : batch;
  }
};

// Children that are not counted in time: the end is seen too early.
struct LostPending : DeviceQueue {
  DEV_FN uint32_t add(uint32_t QueueState::* counter, uint32_t n) const {
    return DeviceQueue::add(counter, counter == &QueueState::pending_nodes ? n - 1 : n);
  }
};

// What was dropped stays pending: nobody stops.
struct NoOverflowExit : DeviceQueue {
  DEV_FN uint32_t retire(uint32_t n) const {
    return DeviceQueue::retire(dev::load_relaxed(&state->dropped_nodes) > 0 ? n - 1 : n);
  }
};

template <class Queue>
Queue broken(const DeviceQueue& memory) {
  Queue out;
  static_cast<DeviceQueue&>(out) = memory;
  return out;
}

}  // namespace

CUSIM_CASE(relaxed_publish) { walk::check(device, 0, 4, broken<RelaxedPublish>); }
CUSIM_CASE(missing_commit) { walk::check(device, 0, MissingCommit::batch, broken<MissingCommit>); }
CUSIM_CASE(lost_pending) { walk::check(device, 0, 4, broken<LostPending>); }
CUSIM_CASE(no_overflow_exit) { walk::check(device, 5, 2, broken<NoOverflowExit>); }
CUSIM_CASE(stale_commits) {
  walk::check(device, 0, 4, [](DeviceQueue queue) { return queue; }, true);
}

CUSIM_MAIN
