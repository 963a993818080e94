// libFuzzer target: no bytes may make the reader of .ncl files crash, hang or read out of bounds.
// Hashes are not verified, so that damage reaches the
// header's checks, the decoders of pages and parts, and the reader of version 2. NCL_MESHOPTIMIZER names the
// library and NCL_PYTHON, when set, a libpython to load before it (the wheel's module refers to its data).
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "build/meshopt_api.h"
#include "store/ncl_file.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  if (const char* python = std::getenv("NCL_PYTHON")) dlopen(python, RTLD_NOW | RTLD_GLOBAL);
  const char* library = std::getenv("NCL_MESHOPTIMIZER");
  if (library == nullptr) return std::fprintf(stderr, "set NCL_MESHOPTIMIZER\n"), std::exit(2), 1;
  nanite_cull::open_meshopt(library);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  nanite_cull::ReadOptions options;
  options.verify_hashes = false;
  options.threads = 1;
  try {  // page by page: a damaged one does not keep the others from being read
    const nanite_cull::NclFile file({data, size}, options);
    for (uint32_t page = 0; page < file.tables().pages.size(); ++page) try {
        file.read_page(page);
      } catch (const std::invalid_argument&) {}
  } catch (const std::invalid_argument&) {  // refused with a reason: what must happen
  }
  try {
    nanite_cull::read_ncl({data, size}, options);
  } catch (const std::invalid_argument&) {}
  return 0;
}
