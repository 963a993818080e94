// The CUDA sources as host code, for the bindings of a build with CUDA.
#include <native/device.h>

#include "one_device.h"

#include <cull/cull.cu>
#include <raster/raster.cu>
#include <raster/two_pass.cu>
#include <resolve/device_frame.cu>
#include <resolve/planes.cu>
#include <resolve/resolve.cu>
#include <resolve/shade.cu>
#include <scene/device_pages.cu>
#include <scene/device_scene.cu>

#include "sort.h"

// In a module the simulator does not know its program's memory: launches run at once, and pointers are not
// judged. The test programs are for that.
[[maybe_unused]] static const bool at_once = [] {
  cusim::default_device().config.yield_percent = 2;
  return cusim::default_device().config.borrowed_memory = true;
}();
