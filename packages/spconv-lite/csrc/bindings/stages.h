// What each part of the core shows to Python, one function a file.
#pragma once

#include <nanobind/nanobind.h>

namespace spconv_lite::bindings {

void bind_rulebooks(nanobind::module_& m);
void bind_products(nanobind::module_& m);  // convolutions and pools
void bind_voxels(nanobind::module_& m);    // points to voxels, keys of sites

}  // namespace spconv_lite::bindings
