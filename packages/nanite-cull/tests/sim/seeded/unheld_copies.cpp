// A device draws pages without waiting for their copies. Must be found.
#include <native/device.h>

namespace dev {
struct UnheldEvent : Event {
  void hold_back(Stream) {}
};
}  // namespace dev
#define Event UnheldEvent
#include "../resolve.cpp"
