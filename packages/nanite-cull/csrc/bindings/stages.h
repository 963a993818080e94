// What each part of the core shows to Python, one function a file.
#pragma once

#include <nanobind/nanobind.h>

namespace nanite_cull {

void bind_materials(nanobind::module_& m);  // surfaces, textures
void bind_asset(nanobind::module_& m);      // building, files
void bind_scene(nanobind::module_& m);      // views, options, instances
void bind_streaming(nanobind::module_& m);  // pages under a budget
void bind_shading(nanobind::module_& m);    // lenses, lights
void bind_frame(nanobind::module_& m);      // culling, drawing, planes
void bind_device(nanobind::module_& m);     // the same on a device; in a build with CUDA

}  // namespace nanite_cull
