// What culling hands to the rasterisers: a cluster of an instance, in a view.
#pragma once

#include <cstdint>

namespace nanite_cull {

struct Visible {
  uint32_t view, instance, cluster;
};

}  // namespace nanite_cull
