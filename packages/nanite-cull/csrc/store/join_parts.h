// Decoded parts to one asset: clusters that store a vertex each for itself share it again.
#pragma once

#include "build/asset.h"
#include "build/key_table.h"
#include "store/part_codec.h"

namespace nanite_cull {

class PartJoin {
 public:
  // `asset` has its clusters; `vertices`: how many different ones will come.
  PartJoin(Asset& asset, const VertexLayout& layout, uint64_t vertices);
  // The next part, in the order of the clusters: vertices get their numbers as clusters use them, as in the
  // build. False for a vertex that is out of range or one too many.
  bool add(const DecodedPart& part);

 private:
  Asset& asset_;
  VertexLayout layout_;
  uint64_t vertices_;
  KeyTable table_;
  std::vector<uint32_t> keys_;
};

}  // namespace nanite_cull
