// Mistakes of drawing. Each case must be found to be wrong.
#define SEEDED_UNSORTED  // slots in the order in which clusters were found: ties are decided by who came
                         // first
#include "../raster.cpp"
