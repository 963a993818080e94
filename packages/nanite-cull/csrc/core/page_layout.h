// A page of an .ncl file, in memory as in the file: PageHead, PartHead[parts], the bytes of the parts. Its
// place in the file, and all around it: store/ncl_format.h.
#pragma once

#include <cstdint>

#include "core/hd.h"

namespace nanite_cull {

constexpr uint32_t page_bytes = 128 * 1024;
constexpr uint32_t most_part_clusters = 128;  // their vertices have numbers of 16 bits

struct PageHead {
  uint32_t parts;
};
struct PartHead {
  uint32_t offset, bytes;  // in the page
  uint32_t clusters;
};
static_assert(sizeof(PageHead) == 4 && sizeof(PartHead) == 12, "records have no padding");

// Where the head of a part lies; where the first part's bytes do, of a page of so many.
HD constexpr uint32_t part_head_at(uint32_t slot) {
  return static_cast<uint32_t>(sizeof(PageHead) + slot * sizeof(PartHead));
}

}  // namespace nanite_cull
