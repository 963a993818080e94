// spconv_lite._C: check, unwrap, call. Private: kernels/ops.py is the door, see native/caster.h.
#include <nanobind/nanobind.h>

#include <bindings/cuda.h>
#include <bindings/stages.h>
#include <native/caster.h>
#include <native/dispatch.h>
#include <native/parallel.h>

using namespace spconv_lite::bindings;

NB_MODULE(_C, m) {
  native::register_errors();
  bind_rulebooks(m);
  bind_products(m);
  bind_voxels(m);
  m.def("isa", [] { return native::name(native::isa()); });
  m.def("max_threads", [] { return native::max_threads(); });
#if WITH_CUDA
  m.attr("cuda_architectures") = NATIVE_CUDA_ARCHITECTURES;
  bind_cuda(m);
#else
  m.attr("cuda_architectures") = "";
#endif
}
