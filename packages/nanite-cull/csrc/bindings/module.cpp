// Python's door to the core: check, unwrap, call.
#include "bindings/stages.h"
#include "build/meshopt_api.h"
#include "native/dispatch.h"
#include "native/parallel.h"
#ifdef WITH_CUDA
#include "resolve/device_frame.h"
#endif

#include <nanobind/stl/string.h>

namespace nb = nanobind;
using namespace nanite_cull;

NB_MODULE(_C, m) {
  m.doc() = "The core of nanite_cull; private, its functions check little.";
  m.def("open_meshoptimizer", [](const std::string& path) { return open_meshopt(path).path; });
  m.def("instruction_set", [] { return native::name(native::isa()); });
  m.def("max_threads", [] { return native::max_threads(); });
#ifdef WITH_CUDA
  m.attr("cuda_architectures") = NATIVE_CUDA_ARCHITECTURES;
  m.def("cuda_devices", &cuda::device_count);
#else
  m.attr("cuda_architectures") = "";
  m.def("cuda_devices", [] { return 0; });
#endif
  bind_materials(m);
  bind_asset(m);
  bind_scene(m);
  bind_streaming(m);
  bind_shading(m);
  bind_frame(m);
#ifdef WITH_CUDA
  bind_device(m);
#endif
}
