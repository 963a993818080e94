// Memory of a device for what outlives its maker, used again when its last owner has gone: a frame that takes
// the same planes as the one before allocates nothing. In files that a CUDA compiler or the simulator reads.
#pragma once

#include <memory>
#include <mutex>

#include "scene/device_array.h"

namespace nanite_cull::cuda {

class DevicePool {
 public:
  // At least so many bytes of the current device, that nobody reads or writes any more: where others may
  // still, on a stream of theirs, the device is waited for. Throws std::runtime_error for what CUDA refuses.
  std::shared_ptr<void> take(std::size_t bytes) {
    auto block = std::make_unique<Block>(shelf_->take(bytes));
    if (block->size() > 0)
      dev::wait_for_device();
    else
      block->resize(bytes);
    void* const memory = block->data();
    const auto give_back = [shelf = shelf_, raw = block.get()](void*) {
      const std::unique_ptr<Block> owned(raw);
      shelf->put(std::move(*owned));
    };
    (void)block.release();
    return std::shared_ptr<void>(memory, give_back);
  }

 private:
  using Block = DeviceArray<unsigned char>;
  static constexpr std::size_t most_kept = 16;  // more than a frame has planes

  // Blocks that nobody has, the last one last. Any thread may let go of one.
  struct Shelf {
    std::mutex lock;
    std::vector<Block> blocks;

    // One that fits, and is not twice as large; an empty one where there is none.
    Block take(std::size_t bytes) {
      const std::lock_guard held(lock);
      for (auto block = blocks.begin(); block != blocks.end(); ++block) {
        if (block->size() < bytes || block->size() / 2 > bytes) continue;
        Block out = std::move(*block);
        blocks.erase(block);
        return out;
      }
      return Block();
    }
    void put(Block block) {
      const std::lock_guard held(lock);
      if (blocks.size() == most_kept) blocks.erase(blocks.begin());
      blocks.push_back(std::move(block));
    }
  };
  std::shared_ptr<Shelf> shelf_ = std::make_shared<Shelf>();
};

}  // namespace nanite_cull::cuda
