#include "device/communicator.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "device/thread_communicator.h"
#include "support/backends_under_test.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

// Runs body(rank) on `size` threads, each with its own Exec and 64 KiB of scratch.
void on_ranks(int size, ThreadGroup& group, const std::function<void(Rank&)>& body) {
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      Exec exec(Backend::kReference);
      give_scratch(exec, 65536);
      ThreadCommunicator comm(group, r);
      Rank rank{exec, comm};
      body(rank);
    });
  }
  for (std::thread& t : threads) t.join();
}

constexpr char kAborted[] = "communicator: another rank has failed";

class ThreadCommunicatorTest : public testing::TestWithParam<int> {
 protected:
  int size() const { return GetParam(); }
};

TEST_P(ThreadCommunicatorTest, SumsInRankOrderBitForBit) {
  // Magnitudes so far apart that any other order gives other bits.
  std::vector<std::vector<float>> inputs;
  std::vector<float> want(1000, 0.0f);
  for (int r = 0; r < size(); ++r) {
    PhiloxStream random(9, static_cast<uint64_t>(r));
    std::vector<float>& values = inputs.emplace_back();
    for (size_t i = 0; i < want.size(); ++i) {
      values.push_back(random.next_normal() * std::exp2(20 * random.next_normal()));
      want[i] += values.back();
    }
  }
  ThreadGroup group(size());
  on_ranks(size(), group, [&](Rank& rank) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::vector<float> mine = inputs[static_cast<size_t>(rank.comm.rank())];
      const Tensor t = Tensor::of(mine.data(), DType::kF32, {10, 100});
      rank.comm.all_reduce_sum(rank.exec, t);
      EXPECT_TRUE(mine == want) << "rank " << rank.comm.rank();
      EXPECT_EQ(rank.exec.scratch().used_bytes(), 0);
    }
  });
}

TEST_P(ThreadCommunicatorTest, GathersByRank) {
  ThreadGroup group(size());
  on_ranks(size(), group, [&](Rank& rank) {
    EXPECT_EQ(rank.comm.size(), size());
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::vector<int32_t> in = {rank.comm.rank(), repeat, -rank.comm.rank()};
      std::vector<int32_t> out(static_cast<size_t>(size()) * 3, -1);
      rank.comm.all_gather(rank.exec, Tensor::of(out.data(), DType::kI32, {size(), 3}),
                           Tensor::of(in.data(), DType::kI32, {3}));
      for (int r = 0; r < size(); ++r)
        EXPECT_EQ(std::vector<int32_t>(out.begin() + 3 * r, out.begin() + 3 * r + 3),
                  (std::vector<int32_t>{r, repeat, -r}));
    }
  });
}

TEST_P(ThreadCommunicatorTest, ExchangesAllToAll) {
  ThreadGroup group(size());
  on_ranks(size(), group, [&](Rank& rank) {
    for (int32_t repeat = 0; repeat < 20; ++repeat) {
      std::vector<int32_t> in, out(static_cast<size_t>(size()) * 2, -1);
      for (int to = 0; to < size(); ++to) {
        in.push_back(100 * rank.comm.rank() + to);
        in.push_back(repeat);
      }
      rank.comm.all_to_all(rank.exec, Tensor::of(out.data(), DType::kI32, {size(), 2}),
                           Tensor::of(in.data(), DType::kI32, {size(), 2}));
      for (int from = 0; from < size(); ++from) {
        EXPECT_EQ(out[static_cast<size_t>(2 * from)], 100 * from + rank.comm.rank());
        EXPECT_EQ(out[static_cast<size_t>(2 * from + 1)], repeat);
      }
    }
  });
}

// One rank fails while the others wait for it: they wake, and every later call throws.
TEST_P(ThreadCommunicatorTest, AbortWakesThoseWhoWait) {
  ThreadGroup group(size());
  std::atomic<int> woken = 0;
  on_ranks(size(), group, [&](Rank& rank) {
    float value = 1;
    const Tensor t = Tensor::of(&value, DType::kF32, {1});
    rank.comm.all_reduce_sum(rank.exec, t);
    if (rank.comm.rank() == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the others mostly wait by now
      rank.comm.abort();
    } else {
      EXPECT_EQ(error_of([&] { rank.comm.all_reduce_sum(rank.exec, t); }, ErrorKind::kDevice),
                kAborted);
      ++woken;
    }
    const Tensor none = Tensor::of(nullptr, DType::kF32, {rank.comm.size(), 0});
    EXPECT_EQ(error_of([&] { rank.comm.all_to_all(rank.exec, none, none); }, ErrorKind::kDevice),
              kAborted);
    EXPECT_EQ(error_of([&] { rank.comm.all_gather(rank.exec, none, none); }, ErrorKind::kDevice),
              kAborted);
    EXPECT_EQ(rank.exec.scratch().used_bytes(), 0);
  });
  EXPECT_EQ(woken, size() - 1);
}

TEST_P(ThreadCommunicatorTest, ADryRunOnlyCounts) {
  ThreadGroup group(size());
  Exec dry(Backend::kReference, /*dry_run=*/true);
  ThreadCommunicator comm(group, 0);  // alone: nothing waits for the others
  comm.all_reduce_sum(dry, Tensor::of(nullptr, DType::kF32, {100}));
  comm.all_gather(dry, Tensor::of(nullptr, DType::kF32, {size(), 8}),
                  Tensor::of(nullptr, DType::kF32, {8}));
  EXPECT_EQ(dry.scratch().peak_bytes(), 512);  // the sum is made beside the inputs
}

INSTANTIATE_TEST_SUITE_P(Ranks, ThreadCommunicatorTest, testing::Values(1, 2, 4));

TEST(CommunicatorTest, WrongTensorsAreOurBug) {
  ThreadGroup group(2);
  Exec exec(Backend::kReference);
  ThreadCommunicator comm(group, 0);
  std::vector<float> data(8);
  const auto of = [&](const Shape& shape) { return Tensor::of(data.data(), DType::kF32, shape); };
  const auto kind = ErrorKind::kInternal;
  EXPECT_FALSE(error_of(
                   [&] {
                     comm.all_reduce_sum(exec, columns(of({2, 4}), 0, 2));
                   },
                   kind)
                   .empty());
  EXPECT_FALSE(error_of([&] { comm.all_gather(exec, of({4}), of({4})); }, kind).empty());
  EXPECT_FALSE(error_of([&] { comm.all_to_all(exec, of({4, 2}), of({4, 2})); }, kind).empty());
}

TEST(CommunicatorTest, ASingleRankHasNothingToSay) {
  Exec exec(Backend::kReference);
  SelfCommunicator comm;
  EXPECT_EQ(comm.rank(), 0);
  EXPECT_EQ(comm.size(), 1);
  std::vector<float> in = {1, 2}, out = {0, 0};
  const Tensor i = Tensor::of(in.data(), DType::kF32, {1, 2});
  const Tensor o = Tensor::of(out.data(), DType::kF32, {1, 2});
  comm.all_reduce_sum(exec, i);
  EXPECT_EQ(in, (std::vector<float>{1, 2}));
  comm.all_gather(exec, o, i);
  EXPECT_EQ(out, in);
  out = {0, 0};
  comm.all_to_all(exec, o, i);
  EXPECT_EQ(out, in);
}

}  // namespace
}  // namespace dsr::test
