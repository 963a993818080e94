// The sentences that a wrong argument gets, word for word.
#include <native/check.h>

#include "testing.h"

namespace {

struct Owned : native::Tensor {
  std::vector<int64_t> lengths, steps;
  Owned(native::DType type, std::vector<int64_t> shape_, std::vector<int64_t> strides_ = {})
      : lengths(shape_), steps(strides_) {
    data = nullptr;
    device = {native::dlpack::cpu, 0};
    ndim = static_cast<int32_t>(lengths.size());
    dtype = type;
    shape = lengths.data();
    strides = steps.empty() ? nullptr : steps.data();
    byte_offset = 0;
  }
};

}  // namespace

TEST("a letter is bound by its first use and holds for the next argument") {
  native::Dim n("N");
  native::require(Owned(native::int32, {7, 4}), "f", "indices", native::dlpack::cpu, native::int32, n, 4);
  EXPECT(n.length() == 7);
  EXPECT_THROWS(
      native::ValueError, "f: rows must be contiguous int32 of shape (N=7,) on cpu, got int32 (8,) on cpu",
      native::require(Owned(native::int32, {8}), "f", "rows", native::dlpack::cpu, native::int32, n));
}

TEST("a failed check binds nothing") {
  native::Dim n("N");
  EXPECT_THROWS(
      native::ValueError, "f: x must be contiguous float32 of shape (N, 3) on cpu, got float32 (7, 4) on cpu",
      native::require(Owned(native::float32, {7, 4}), "f", "x", native::dlpack::cpu, native::float32, n, 3));
  EXPECT(n.length() == -1);
}

TEST("wrong dtype and wrong device are TypeErrors that tell both sides") {
  native::Dim n("N");
  EXPECT_THROWS(
      native::TypeError, "f: x must be contiguous int32 of shape (N, 4) on cpu, got int64 (5, 3) on cpu",
      native::require(Owned(native::int64, {5, 3}), "f", "x", native::dlpack::cpu, native::int32, n, 4));
  EXPECT_THROWS(
      native::TypeError, "f: x must be contiguous int32 of shape (N, 4) on cuda, got int32 (5, 4) on cpu",
      native::require(Owned(native::int32, {5, 4}), "f", "x", native::dlpack::cuda, native::int32, n, 4));
}

TEST("a strided view is refused, and said to be strided") {
  native::Dim n("N");
  Owned view(native::int32, {5, 4}, {8, 2});
  EXPECT(!view.is_contiguous());
  EXPECT_THROWS(
      native::ValueError,
      "f: x must be contiguous int32 of shape (N, 4) on cpu, got non-contiguous int32 (5, 4) on cpu",
      native::require(view, "f", "x", native::dlpack::cpu, native::int32, n, 4));
}

TEST("an axis of length one may have any stride, an empty tensor is contiguous") {
  EXPECT(Owned(native::int32, {1, 4}, {99, 1}).is_contiguous());
  EXPECT(Owned(native::int32, {0, 4}, {99, 7}).is_contiguous());
}

TEST("dtypes have their usual names") {
  EXPECT(native::name(native::bfloat16) == "bfloat16");
  EXPECT(native::name(native::boolean) == "bool");
  EXPECT(native::name(native::uint8) == "uint8");
  EXPECT(native::name(native::DType{5, 64, 1}) == "type5_64");
}

TEST("demand builds its message only on failure") {
  native::demand(true, []() -> std::string { throw std::runtime_error("built"); });
  EXPECT_THROWS(native::ValueError, "f: x must be positive, got -1",
                native::demand(false, [] { return "f: x must be positive, got -1"; }));
}

RUN_TESTS()
