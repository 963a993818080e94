// Seeded bugs: each case is a kernel with one mistake, and test_simulator.py says who must find it.
// They are what the simulator is tested with; nothing there is an example to follow.
#include "bugs/addresses.cuh"
#include "bugs/memory_order.cuh"
#include "bugs/operations.cuh"
#include "bugs/values.cuh"

CUSIM_MAIN
