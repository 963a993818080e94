// The device guard and the stream of native/on_device.h, over devices that only remember what was asked.
#include <native/on_device.h>

#include <vector>

#include "testing.h"

using native::Tensor;

namespace {

struct Devices {
  static int& now() {
    static int device = 0;
    return device;
  }
  static std::vector<int>& asked() {
    static std::vector<int> all;
    return all;
  }
  static int current() { return now(); }
  static void use(int device) {
    asked().push_back(device);
    now() = device;
  }
};

using OnDevice = native::BasicOnDevice<Devices>;

Tensor tensor(int32_t type, int32_t id, bool has_stream = true) {
  Tensor t{};
  t.device = {type, id};
  t.has_stream = has_stream;
  t.stream = reinterpret_cast<void*>(0x10);
  return t;
}

template <class Error, class F>
std::string refused(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST("the tensors device is current during the call and the one before after it") {
  const Tensor t = tensor(native::dlpack::cuda, 1);
  {
    const OnDevice on("f", t, std::optional<Tensor>{}, std::optional<Tensor>{t});
    EXPECT(Devices::now() == 1);
    EXPECT(on.stream() == t.stream);
  }
  EXPECT(Devices::now() == 0);
  EXPECT((Devices::asked() == std::vector<int>{1, 0}));
}

TEST("a device that is current already is not set again") {
  Devices::asked().clear();
  { const OnDevice on("f", tensor(native::dlpack::cuda, 0)); }
  EXPECT(Devices::asked().empty());
}

TEST("a call that throws restores the device") {
  refused<std::runtime_error>([] {
    const OnDevice on("f", tensor(native::dlpack::cuda, 3));
    throw std::runtime_error("inside");
  });
  EXPECT(Devices::now() == 0);
}

TEST("tensors on the cpu need neither") {
  const OnDevice on("f", tensor(native::dlpack::cpu, 0, false));
  EXPECT(Devices::now() == 0);
  EXPECT(on.stream() == nullptr);
}

TEST("a torch that does not name its stream is refused") {
  const std::string said = refused<native::MachineError>(
      [] { OnDevice("gates_forward", tensor(native::dlpack::cuda, 0, false)); });
  EXPECT(said.find("gates_forward: this torch does not name its current stream") == 0);
}

TEST("tensors on two devices are refused") {
  const std::string said = refused<native::TypeError>(
      [] { OnDevice("f", tensor(native::dlpack::cuda, 0), tensor(native::dlpack::cuda, 1)); });
  EXPECT(said == "f: the tensors must be on one device, got cuda:0 and cuda:1");
}

RUN_TESTS()
