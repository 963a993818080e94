#include <sys/mman.h>

#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include <cpu/scratch.h>

namespace spconv_lite {

namespace {

constexpr size_t kept_bytes = size_t{128} << 20;
constexpr size_t huge_page = size_t{2} << 20;

struct Block {
  void* memory;
  size_t capacity;
};

// Never destroyed: a thread may give memory back while the process ends.
struct Pool {
  std::mutex mutex;
  std::vector<Block> blocks;
  size_t bytes = 0;
};

Pool& pool() {
  static Pool* const one = new Pool;
  return *one;
}

void* allocate(size_t capacity, size_t unit) {
  void* memory = std::aligned_alloc(unit, capacity);
  if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  // read at random: huge pages save most of the address translations
  if (unit == huge_page) madvise(memory, capacity, MADV_HUGEPAGE);
#endif
  return memory;
}

}  // namespace

void* take_scratch(size_t bytes, size_t* capacity) {
  {
    Pool& kept = pool();
    std::lock_guard<std::mutex> lock(kept.mutex);
    size_t best = kept.blocks.size();
    for (size_t i = 0; i < kept.blocks.size(); ++i) {
      const size_t size = kept.blocks[i].capacity;
      if (size >= bytes && size <= 4 * bytes + huge_page &&
          (best == kept.blocks.size() || size < kept.blocks[best].capacity))
        best = i;
    }
    if (best < kept.blocks.size()) {
      const Block found = kept.blocks[best];
      kept.blocks.erase(kept.blocks.begin() + static_cast<std::ptrdiff_t>(best));
      kept.bytes -= found.capacity;
      *capacity = found.capacity;
      return found.memory;
    }
  }
  const size_t unit = bytes >= 2 * huge_page ? huge_page : 4096;
  *capacity = (bytes / unit + 1) * unit;
  return allocate(*capacity, unit);
}

void give_scratch(void* memory, size_t capacity) noexcept {
  {
    Pool& kept = pool();
    std::lock_guard<std::mutex> lock(kept.mutex);
    if (kept.bytes + capacity <= kept_bytes) {
      try {
        kept.blocks.push_back({memory, capacity});
        kept.bytes += capacity;
        return;
      } catch (const std::bad_alloc&) {  // no room for the note: give the memory back instead
      }
    }
  }
  std::free(memory);
}

}  // namespace spconv_lite
