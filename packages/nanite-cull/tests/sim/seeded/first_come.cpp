// Of two triangles at one depth the one that came first stays. Must be found.
#include <native/device.h>

template <class Word>
Word first_come(Word* pixel, Word word) {
  Word seen = dev::load_relaxed(pixel);
  while (word >> 32 > seen >> 32) {
    const Word before = atomicCAS(pixel, seen, word);
    if (before == seen) break;
    seen = before;
  }
  return seen;
}
#define atomicMax first_come
#include "../raster.cpp"
