#pragma once

#include <nanobind/nanobind.h>

void bind_streaming(nanobind::module_& m);
