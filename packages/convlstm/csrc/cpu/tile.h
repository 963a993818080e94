// How the products of a convolution are laid out; tiles.h has the method.
#pragma once

#include <cstdint>

namespace convlstm {

// By minimal filtering in tiles of out x out outputs, the kernel cut into parts of part x part taps; {1, 1}
// is by windows of pixels.
struct Tile {
  int64_t out, part;

  bool winograd() const { return out > 1; }
  int64_t side() const { return out + part - 1; }  // of its inputs

  // Those that tiles.h has; of bfloat16 the first two alone.
  bool is_known(bool low) const {
    const bool wide = (out == 4 && (part == 3 || part == 5)) || (out == 2 && part == 7);
    return (out == 1 && part == 1) || (out == 2 && part == 3) || (wide && !low);
  }
};

}  // namespace convlstm
