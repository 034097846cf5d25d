#include "device/memory.h"

#include <cstring>

#include "device/exec.h"
#include "support/close.h"
#include "support/expect_error.h"

// Under a sanitizer an allocation that is too large would end the program instead of failing.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }
extern "C" const char* __tsan_default_options() { return "allocator_may_return_null=1"; }

namespace dsr::test {
namespace {

int64_t activations(Exec& exec) { return exec.memory().bytes(MemoryKind::kActivations); }

TEST(BufferTest, IsCountedWhileItLives) {
  Exec exec(Backend::kReference);
  {
    const Buffer a(exec, MemoryKind::kWeights, 1000);
    const Buffer b(exec, MemoryKind::kKvCache, 256);
    const Buffer empty(exec, MemoryKind::kBatch, 0);
    EXPECT_EQ(a.size_bytes(), 1024);  // the next multiple of kAlignBytes
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data()) % kAlignBytes, 0u);
    EXPECT_EQ(exec.memory().bytes(MemoryKind::kWeights), 1024);
    EXPECT_EQ(exec.memory().bytes(MemoryKind::kKvCache), 256);
    EXPECT_EQ(exec.memory().total_bytes(), 1280);
    std::memset(a.data(), 1, 1024);
  }
  EXPECT_EQ(exec.memory().total_bytes(), 0);
}

TEST(BufferTest, MovesWithoutCountingTwice) {
  Exec exec(Backend::kReference);
  {
    Buffer a(exec, MemoryKind::kWeights, 512);
    std::byte* data = a.data();
    Buffer b(std::move(a));
    EXPECT_EQ(b.data(), data);
    Buffer c(exec, MemoryKind::kActivations, 256);
    c = std::move(b);
    EXPECT_EQ(c.data(), data);
    EXPECT_EQ(c.size_bytes(), 512);
    EXPECT_EQ(exec.memory().bytes(MemoryKind::kWeights), 512);
    b = Buffer();  // what c held is gone with it
    EXPECT_EQ(activations(exec), 0);
    Buffer& self = c;
    c = std::move(self);
    EXPECT_EQ(c.data(), data);
  }
  EXPECT_EQ(exec.memory().total_bytes(), 0);
}

TEST(BufferTest, ADryRunCountsTheSameAndHoldsNothing) {
  Exec real(Backend::kReference), dry(Backend::kReference, /*dry_run=*/true);
  const Buffer a(real, MemoryKind::kWeights, 12345), b(dry, MemoryKind::kWeights, 12345);
  EXPECT_NE(a.data(), nullptr);
  EXPECT_EQ(b.data(), nullptr);
  EXPECT_EQ(a.size_bytes(), b.size_bytes());
  EXPECT_EQ(real.memory().total_bytes(), dry.memory().total_bytes());
  const Buffer terabytes(dry, MemoryKind::kKvCache, int64_t{1} << 45);
  EXPECT_EQ(dry.memory().bytes(MemoryKind::kKvCache), int64_t{1} << 45);
}

TEST(BufferTest, WhatCannotBeHadIsAnError) {
  Exec exec(Backend::kReference);
  const auto too_much = [&] { const Buffer b(exec, MemoryKind::kKvCache, int64_t{1} << 60); };
  EXPECT_EQ(error_of(too_much, ErrorKind::kDoesNotFit),
            "memory: 1,152,921,504,606,846,976 bytes for kv cache cannot be allocated");
  EXPECT_EQ(exec.memory().total_bytes(), 0);
}

TEST(ArenaTest, ScopesReleaseAndThePeakStays) {
  Exec exec(Backend::kReference);
  Arena& arena = exec.scratch();
  arena.reserve(Buffer(exec, MemoryKind::kActivations, 4096));
  EXPECT_EQ(arena.capacity_bytes(), 4096);
  EXPECT_EQ(activations(exec), 4096);
  {
    const Arena::Scope outer(arena);
    const Tensor a = arena.activation({3, 5});
    EXPECT_EQ(a.dtype, DType::kF32);
    EXPECT_TRUE(a.contiguous());
    EXPECT_EQ(arena.used_bytes(), 256);
    void* second = nullptr;
    {
      const Arena::Scope inner(arena);
      const Tensor b = arena.tensor(DType::kBF16, {1000});
      second = b.data;
      EXPECT_EQ(arena.used_bytes(), 256 + 2048);
    }
    EXPECT_EQ(arena.used_bytes(), 256);
    const Tensor c = arena.tensor(DType::kU8, {1});
    EXPECT_EQ(c.data, second);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(c.data) % kAlignBytes, 0u);
    EXPECT_EQ(static_cast<std::byte*>(c.data) - static_cast<std::byte*>(a.data), 256);
    arena.tensor(DType::kF32, {0, 7});  // takes nothing
    EXPECT_EQ(arena.used_bytes(), 512);
  }
  EXPECT_EQ(arena.used_bytes(), 0);
  EXPECT_EQ(arena.peak_bytes(), 256 + 2048);
}

TEST(ArenaTest, ADryRunFindsThePeakOfARealRun) {
  const auto step = [](Exec& exec) {
    Arena& arena = exec.scratch();
    const Arena::Scope scope(arena);
    const Tensor x = arena.activation({7, 100});
    for (const int64_t width : {30, 500, 200}) {
      const Arena::Scope layer(arena);
      const Tensor h = arena.tensor(DType::kF32, {7, width});
      EXPECT_EQ(h.data == nullptr, exec.dry_run());
      EXPECT_EQ(h.shape, (Shape{7, width}));
    }
    EXPECT_EQ(x.data == nullptr, exec.dry_run());
  };
  Exec dry(Backend::kReference, /*dry_run=*/true), real(Backend::kReference);
  step(dry);
  const int64_t peak = dry.scratch().peak_bytes();
  EXPECT_EQ(peak, 2816 + 14080);  // 7 x 100 and 7 x 500 floats, each to a multiple of 256
  real.scratch().reserve(Buffer(real, MemoryKind::kActivations, peak));
  step(real);  // fits exactly
  EXPECT_EQ(real.scratch().peak_bytes(), peak);
}

TEST(ArenaTest, APlanThatWasTooSmallIsOurBug) {
  Exec exec(Backend::kReference);
  exec.scratch().reserve(Buffer(exec, MemoryKind::kActivations, 256));
  const std::string error =
      error_of([&] { exec.scratch().activation({65}); }, ErrorKind::kInternal);
  EXPECT_NE(error.find("512 > 256"), std::string::npos) << error;
}

TEST(ArenaTest, PoisonIsNaNInEveryType) {
  Exec exec = Exec::reference_with(DType::kBF16);
  exec.scratch().reserve(Buffer(exec, MemoryKind::kActivations, 4096));
  exec.scratch().set_poison(true);
  EXPECT_EQ(exec.scratch().activation({1}).dtype, DType::kBF16);
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3, DType::kF8E8M0})
    for (const double v : values_of(exec.scratch().tensor(type, {5})))
      EXPECT_NE(v, v) << name(type);
}

}  // namespace
}  // namespace dsr::test
