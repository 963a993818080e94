// The bindings of the CUDA kernels as a module of its own, over the simulator: what ops.py calls on a GPU,
// with tensors on the CPU in the place of device memory.
#include <nanobind/nanobind.h>

#include <bindings/cuda.h>
#include <native/caster.h>

#include "cusim.h"

NB_MODULE(simulated, m) {
  native::register_errors();
  spconv_lite::bindings::bind_cuda(m);
  cusim::default_device().config.yield_percent = 2;  // these tests look at results; the programs, at races
  cusim::default_device().config.borrowed_memory = true;  // of torch
  m.def("host_waits", [] { return cusim::default_device().statistics.host_waits; });
}
