// The reader of .ncl files of version 2: whole groups in pages, no hierarchy, vertices as Rice codes (Rice
// and Plaunt, 1971) of parallelogram predictions. Files of it are read, not written.
#pragma once

#include "build/asset.h"

namespace nanite_cull {

// The start of the header has been checked; everything else is checked here, but for validate(). Throws
// native::ValueError with the reason; never reads outside [data, data + size).
Asset decode_version_2(const uint8_t* data, size_t size, bool verify_hashes, int threads);

}  // namespace nanite_cull
