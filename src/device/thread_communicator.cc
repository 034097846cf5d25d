#include "device/thread_communicator.h"

#include <cstring>

namespace dsr {

void ThreadGroup::barrier() {
  std::unique_lock lock(mutex_);
  if (!aborted_) {
    const int64_t mine = generation_;
    if (++waiting_ == size()) {
      waiting_ = 0;
      ++generation_;
      all_here_.notify_all();
      return;
    }
    all_here_.wait(lock, [&] { return generation_ != mine || aborted_; });
    if (generation_ != mine) return;
  }
  fail(ErrorKind::kDevice, "communicator: another rank has failed");
}

void ThreadGroup::abort() {
  const std::lock_guard lock(mutex_);
  aborted_ = true;
  all_here_.notify_all();
}

void ThreadCommunicator::post(const Tensor& t) {
  group_.posted_[static_cast<size_t>(rank_)] = t;
  group_.barrier();
}

void ThreadCommunicator::all_reduce_sum(Exec& exec, const Tensor& t) {
  DSR_CHECK(t.dtype == DType::kF32 && t.contiguous(), t.text());
  const Arena::Scope scope(exec.scratch());
  const int64_t n = t.shape.elements();
  const Tensor sum = exec.scratch().tensor(DType::kF32, {n});
  if (exec.dry_run()) return;
  post(t);
  for (int64_t i = 0; i < n; ++i) {
    float total = 0;
    for (const Tensor& theirs : group_.posted_) total += static_cast<float*>(theirs.data)[i];
    sum.ptr<float>()[i] = total;
  }
  group_.barrier();  // everyone has read before anyone writes
  std::memcpy(t.data, sum.data, static_cast<size_t>(n) * sizeof(float));
}

void ThreadCommunicator::all_gather(Exec& exec, const Tensor& out, const Tensor& in) {
  DSR_CHECK(in.contiguous() && out.contiguous() && out.size_bytes() == size() * in.size_bytes(),
            out.text(), in.text());
  if (exec.dry_run()) return;
  post(in);
  const auto bytes = static_cast<size_t>(in.size_bytes());
  for (int r = 0; r < size(); ++r)
    std::memcpy(out.at(r), group_.posted_[static_cast<size_t>(r)].data, bytes);
  group_.barrier();
}

void ThreadCommunicator::all_to_all(Exec& exec, const Tensor& out, const Tensor& in) {
  DSR_CHECK(in.contiguous() && out.contiguous() && out.shape == in.shape && in.shape[0] == size(),
            out.text(), in.text());
  if (exec.dry_run()) return;
  post(in);
  const auto bytes = static_cast<size_t>(in.size_bytes() / size());
  for (int r = 0; r < size(); ++r)
    std::memcpy(out.at(r), group_.posted_[static_cast<size_t>(r)].at(rank_), bytes);
  group_.barrier();
}

}  // namespace dsr
