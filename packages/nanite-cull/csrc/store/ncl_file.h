// The file format .ncl, version 3 (2 is read too). Little-endian; everything is checked before it is
// believed.
//
//   header        magic, version, counts, offsets, hash of header and tables
//   group table   LOD bounds, pass, clusters, page and place of each group
//   cluster table source group and pass of each cluster
//   page table    offset, bytes and hash of each page
//   border table  vertices that keep their floats beside the grid (since version 3)
//   pages         at most 128 KB each: whole groups, coarsest first, every page complete in itself
//
// Vertices are stored once for each cluster that uses them and are joined again when read; boxes, edges
// and the hierarchy are recomputed. The source map of the build is not stored.
#pragma once

#include <string>

#include "build/asset.h"

namespace nanite_cull {

constexpr uint32_t ncl_version = 3;  // 2: no origin, no border table; 1: normals of 12 bits a coordinate
constexpr size_t page_bytes = 128 * 1024;

// The asset as the bytes of a file. Throws native::ValueError for a group that fits no page.
std::vector<uint8_t> encode_ncl(const Asset& asset, int threads);

struct ReadOptions {
  bool verify_hashes = true;  // false: for fuzzing, so that damage reaches the decoders
  int threads = 0;
};

// Reads a file from memory. Throws native::ValueError with the reason for anything that is not a whole,
// sound file; never reads outside [data, data + size).
Asset decode_ncl(const uint8_t* data, size_t size, const ReadOptions& options);

// Maps the file and decodes it. Throws native::ValueError, or native::MachineError when it cannot be read.
Asset read_ncl(const std::string& path, const ReadOptions& options);

}  // namespace nanite_cull
