// Attributes of a vertex as integers, and back: what the weld compares and a file holds.
#pragma once

#include <cstdint>

#include "build/mesh_input.h"

namespace nanite_cull {

constexpr float least_step = 0x1p-99f;  // of every grid: a power of two whose inverse is a float too

constexpr int normal_bits = 11;  // of each octahedral coordinate: directions within an eighth of a degree
constexpr uint32_t normal_mask = (1u << normal_bits) - 1;

// A direction as two integers of normal_bits by the octahedral map; a zero vector becomes +z.
uint32_t encode_normal(const float* normal);

// A unit vector from its octahedral code, as weld() stores it.
void decode_normal(uint32_t code, float* normal);

// The grid of texture coordinates in use: a power of two, 16 bits across twice their median size. Throws
// native::ValueError for a coordinate of 1e18 or more.
float uv_step(const MeshInput& mesh);

// A texture coordinate as an integer: multiples of the step up to 2^24 of them, the bits of a float beyond,
// so that a wild coordinate costs the others nothing.
int32_t encode_uv(float value, float step);
float decode_uv(int32_t code, float step);

// A colour, 0 to 1, as four bytes.
uint32_t pack_color(const float* color);
void unpack_color(uint32_t code, float* color);

}  // namespace nanite_cull
