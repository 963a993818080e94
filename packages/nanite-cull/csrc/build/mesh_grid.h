// The grid that a mesh is snapped to: checked input, extent, step and origin.
#pragma once

#include <string>
#include <vector>

#include "build/mesh_input.h"

namespace nanite_cull {

constexpr int64_t run_faces = 1024;  // faces that lie side by side in the input: one part, or one place

// The lattice that positions are snapped to: integers of at most 24 bits times `step`, from `origin`.
struct Grid {
  double origin[3] = {0, 0, 0};  // multiples of step; zero where 24 bits reach the mesh from there
  float step = 1;                // a power of two
};

// How the grid is chosen. All zero: automatic.
struct GridOptions {
  int bits = 0;                    // across the mesh
  double step = 0;                 // a power of two, by hand
  const double* origin = nullptr;  // (3), by hand
};

// The grid of a mesh: fine enough for 16 bits across what its faces use and for a sixteenth of the short
// edges, of the whole mesh and of its densest part, and for no triangle to vanish; no finer than 24 bits
// allow. The origin moves from zero only where 24 bits from there do not reach that step.
// Throws native::ValueError for an empty mesh, an index out of range, a coordinate in use that is not
// finite and for a step or an origin that does not suit the mesh.
Grid choose_grid(const MeshInput& mesh, const GridOptions& options, int threads);

// The coarsest step, no coarser than that of `grid`, on which no triangle vanishes; 0 when 24 bits do not
// suffice. `origin` may be null.
double step_that_keeps(const MeshInput& mesh, const Grid& grid, const double* origin, int threads);

// The integer of a coordinate on a grid; `inverse`: 1 / step.
int32_t snap(double coordinate, double origin, double inverse);

// Whether the face has an area as it was given.
bool source_has_area(const MeshInput& mesh, int64_t face);

double power_of_two_below(double x);

// A number for a message.
std::string text_of(double x);

}  // namespace nanite_cull
