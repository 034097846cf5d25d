#include "device/thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <chrono>
#include <utility>

#include "base/error.h"

namespace dsr {
namespace {

constexpr std::chrono::microseconds kSpin{50};

// Looks at the value for a short while: whether `done` said so of it.
template <typename Done>
bool spin(const std::atomic<int>& value, const Done& done) {
  const auto begin = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < 64; ++i) {
      if (done(value.load(std::memory_order_acquire))) return true;
      __builtin_ia32_pause();
    }
  } while (std::chrono::steady_clock::now() - begin < kSpin);
  return false;
}

template <typename Done>
void sleep_until(std::atomic<int>& value, const Done& done) {
  for (int now = value.load(std::memory_order_acquire); !done(now);
       now = value.load(std::memory_order_acquire))
    value.wait(now, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int size) : size_(size) {
  DSR_CHECK(size >= 1, size);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // threads inherit it
  for (int i = 1; i < size; ++i) threads_.emplace_back([this, i] { work(i); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  started_.fetch_add(1, std::memory_order_release);
  started_.notify_all();
  for (std::thread& t : threads_) t.join();
}

void ThreadPool::do_share(int worker) {
  try {
    call_(job_, worker);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    error_ = std::current_exception();
  }
}

void ThreadPool::work(int worker) {
  for (int seen = 0;; ++seen) {
    const auto begun = [&](int now) { return now != seen; };
    if (!spin(started_, begun)) {
      asleep_.fetch_add(1, std::memory_order_relaxed);
      sleep_until(started_, begun);
      asleep_.fetch_sub(1, std::memory_order_relaxed);
    }
    if (stop_.load(std::memory_order_relaxed)) return;
    do_share(worker);
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
  }
}

void ThreadPool::run(const void* job, Call call) {
  job_ = job;
  call_ = call;
  if (size_ > 1) {
    pending_.store(size_ - 1, std::memory_order_relaxed);
    started_.fetch_add(1, std::memory_order_release);
    started_.notify_all();
  }
  do_share(0);
  const auto finished = [](int now) { return now == 0; };
  if (!spin(pending_, finished)) sleep_until(pending_, finished);
  if (error_ != nullptr) std::rethrow_exception(std::exchange(error_, nullptr));
}

}  // namespace dsr
