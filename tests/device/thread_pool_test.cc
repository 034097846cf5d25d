#include "device/thread_pool.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <stdexcept>

#include "device/cpu_context.h"
#include "device/cpu_topology.h"
#include "device/exec.h"
#include "support/temp_dir.h"

namespace dsr::test {
namespace {

TEST(ThreadPool, EveryWorkerRunsOnceAndSeesWhatWasWritten) {
  for (const int size : {1, 2, 5}) {
    ThreadPool pool(size);
    std::vector<int64_t> sums(static_cast<size_t>(size), 0);
    for (int round = 0; round < 2000; ++round)  // plain memory: a missing fence is a race for tsan
      pool.run([&](int worker) { sums[static_cast<size_t>(worker)] += round; });
    EXPECT_EQ(sums, std::vector<int64_t>(static_cast<size_t>(size), 1999 * 1000));
  }
}

TEST(ThreadPool, WakesFromSleep) {
  ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // 40 times the spin
    std::atomic<int> ran{0};
    pool.run([&](int worker) {
      // The caller finishes first, and has to sleep too.
      if (worker > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ++ran;
    });
    EXPECT_EQ(ran, 3);
  }
}

TEST(ThreadPool, KnowsWhetherItsWorkersSleep) {
  ThreadPool pool(3);
  for (int round = 0; round < 3; ++round) {
    while (pool.awake()) std::this_thread::yield();  // all have nothing to do for long enough
    std::atomic<bool> seen_awake{false};
    pool.run([&](int worker) {
      while (worker == 0 && !pool.awake()) std::this_thread::yield();
      if (worker == 0) seen_awake = true;
      while (!seen_awake) std::this_thread::yield();  // at work: nobody sleeps
    });
  }
}

TEST(CpuContext, WakesNobodyForLittle) {
  CpuContext cpu({.threads = 2, .level = {}}, false);
  const auto parts = [&](int64_t n, int64_t grain) {
    std::atomic<int> n_first{0};  // parts that begin where a share does
    cpu.parallel(n, grain, [&](int64_t begin, int64_t) {
      if (begin % (n / 2) == 0) ++n_first;
    });
    return n_first.load();
  };
  EXPECT_EQ(parts(100, 50), 2);  // asleep or not
  EXPECT_EQ(parts(100, 401), 1);
  // Between the two it depends on whether they sleep: they do after a while.
  while (parts(100, 51) != 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// One of two waits at the beginning of its share until the other has done all else, which is its
// own share and the end of the first.
TEST(CpuContext, WhoIsDoneHelps) {
  CpuContext cpu({.threads = 2, .level = {}}, false);
  constexpr int64_t kN = 1000;
  std::atomic<int64_t> done{0};
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  cpu.parallel(kN, 1, [&](int64_t begin, int64_t end) {
    while (begin == 0 && done < kN - end && std::chrono::steady_clock::now() < give_up)
      std::this_thread::yield();
    if (begin == 0) {
      EXPECT_EQ(done, kN - end);
      EXPECT_LT(end, kN / 2);
    }
    done += end - begin;
  });
  EXPECT_EQ(done, kN);
}

TEST(ThreadPool, WhatAWorkerThrowsIsThrownOnAndThePoolGoesOn) {
  ThreadPool pool(3);
  for (const int thrower : {0, 2}) {
    std::atomic<int> ran{0};
    EXPECT_THROW(pool.run([&](int worker) {
      ++ran;
      if (worker == thrower) throw std::runtime_error("no");
    }),
                 std::runtime_error);
    EXPECT_EQ(ran, 3);
    pool.run([&](int) { ++ran; });
    EXPECT_EQ(ran, 6);
  }
}

TEST(ThreadPool, WorkersLeaveSignalsToOthers) {
  ThreadPool pool(2);
  pool.run([](int worker) {
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    EXPECT_EQ(sigismember(&blocked, SIGINT), worker == 0 ? 0 : 1);
  });
}

TEST(CpuContext, PartsCoverTheRangeOnce) {
  Exec exec(Backend::kCpu, false, {.threads = 4, .level = {}});
  for (const int64_t n : {1, 3, 4, 57, 1001})
    for (const int64_t piece : {1, 4, 100}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
      const auto job = [&](int64_t begin, int64_t end) {
        EXPECT_LT(begin, end);
        EXPECT_LE(end - begin, ceil_div(n, int64_t{4}));
        for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
      };
      exec.cpu().parallel(n, 1, job, piece);
      for (const auto& count : seen) EXPECT_EQ(count, 1);
    }
}

void write(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path) << text;
}

TEST(CpuTopology, QuotaIsTheTightestOfTheGroupAndItsParents) {
  const TempDir dir;
  const std::string root = dir.string() + "/";
  EXPECT_EQ(cpu_quota(root), 0);
  write(root + "proc/self/cgroup", "0::/a/b\n");
  write(root + "sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(cpu_quota(root), 0);
  write(root + "sys/fs/cgroup/a/cpu.max", "250000 100000\n");
  EXPECT_EQ(cpu_quota(root), 2.5);
  write(root + "sys/fs/cgroup/a/b/cpu.max", "150000 100000\n");
  EXPECT_EQ(cpu_quota(root), 1.5);
}

TEST(CpuTopology, QuotaOfTheFirstVersion) {
  const TempDir dir;
  const std::string root = dir.string() + "/";
  write(root + "proc/self/cgroup", "4:cpu,cpuacct:/job\n3:memory:/other\n");
  write(root + "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n");
  write(root + "sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cpu_quota(root), 0);
  write(root + "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "300000\n");
  EXPECT_EQ(cpu_quota(root), 3);
}

TEST(CpuTopology, OneCpuOfEveryCore) {
  const TempDir dir;
  const std::string root = dir.string() + "/";
  const char* siblings[] = {"0,2", "1,3", "0,2", "1,3"};
  for (int cpu = 0; cpu < 4; ++cpu)
    write(root + "sys/devices/system/cpu/cpu" + std::to_string(cpu) +
              "/topology/thread_siblings_list",
          siblings[cpu]);
  EXPECT_EQ(physical_cores({0, 1, 2, 3}, root), (std::vector<int>{0, 1}));
  EXPECT_EQ(physical_cores({2, 3}, root), (std::vector<int>{2, 3}));
  EXPECT_EQ(physical_cores({7, 9}, root), (std::vector<int>{7, 9}));  // nothing is known of them
}

TEST(CpuTopology, TheAffinityMaskIsRespected) {
  const std::vector<int> all = allowed_cpus();
  std::thread([&] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<size_t>(all.back()), &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(allowed_cpus(), std::vector<int>{all.back()});
    EXPECT_EQ(default_threads(), 1);
  }).join();
}

}  // namespace
}  // namespace dsr::test
