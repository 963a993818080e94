// Slots in the order in which clusters were found: ties are decided by who came first. Must be found.
#define SEEDED_UNSORTED
#include "../raster.cpp"
