// What files for hosts without CUDA ask CUDA of its devices: the simulator has one.
#pragma once

#if !defined(__CUDACC__)  // there is one device
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
namespace dev {
inline void check(cudaError_t, const char*) {}
}  // namespace dev
#endif
