// Ranks that are threads of this process and share its memory.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "device/communicator.h"

namespace dsr {

// What the communicators of one group share. Make one, then one ThreadCommunicator per rank.
class ThreadGroup {
 public:
  explicit ThreadGroup(int size) : posted_(static_cast<size_t>(size)) {}
  int size() const { return static_cast<int>(posted_.size()); }

 private:
  friend class ThreadCommunicator;
  // Waits until every rank has come here. Throws after an abort.
  void barrier();
  void abort();

  std::mutex mutex_;
  std::condition_variable all_here_;
  int waiting_ = 0;
  int64_t generation_ = 0;
  bool aborted_ = false;
  std::vector<Tensor> posted_;  // by rank; written before a barrier, read after it
};

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(ThreadGroup& group, int rank) : group_(group), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return group_.size(); }
  void all_reduce_sum(Exec& exec, const Tensor& t) override;
  void all_gather(Exec& exec, const Tensor& out, const Tensor& in) override;
  void all_to_all(Exec& exec, const Tensor& out, const Tensor& in) override;
  void abort() override { group_.abort(); }

 private:
  // Shows `t` to the others; returns when all of theirs can be read.
  void post(const Tensor& t);

  ThreadGroup& group_;
  int rank_;
};

}  // namespace dsr
