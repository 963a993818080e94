// The part of spconv_lite._C that a build with CUDA has.
#pragma once

#include <nanobind/nanobind.h>

namespace spconv_lite::bindings {

// Adds the submodule `cuda`.
void bind_cuda(nanobind::module_& module);

}  // namespace spconv_lite::bindings
