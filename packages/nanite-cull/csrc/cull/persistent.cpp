#include "cull/persistent.h"

#include <atomic>
#include <thread>

#include "native/parallel.h"

namespace nanite_cull {

void traverse_persistent(AtomicQueue& queue, const std::vector<uint64_t>& roots, int threads,
                         const CullContext::Worker& fresh, std::vector<CullContext::Worker>& workers) {
  workers.resize(threads > 0 ? threads : native::max_threads(), fresh);
  queue.begin(roots);
  std::atomic<bool> failed{false};  // a worker that throws leaves its node pending: nobody waits for that
  native::parallel_for(static_cast<int64_t>(workers.size()), 1, threads, [&](int64_t i, int64_t) {
    auto worker = queue.worker<AtomicQueue, CullContext::Worker>();
    try {
      for (bool waited; worker.step(queue, workers[i], waited);) {
        if (!waited) continue;
        if (failed.load(std::memory_order_relaxed)) return;
        std::this_thread::yield();
      }
    } catch (...) {
      failed.store(true, std::memory_order_relaxed);
      throw;
    }
  });
}

}  // namespace nanite_cull
