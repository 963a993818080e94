// The CUDA sources as host code.
#include <cuda/conv.cu>
#include <cuda/rulebook.cu>
