// An answer is the same bit for bit alone or in company, in whatever order, chunks and slots, with
// keys that it found in the cache, and after it lost its place: on reference and on the cpu.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "deepseek_run/engine.h"
#include "support/temp_dir.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

struct Setting {
  const char* device;
  const char* checkpoint;
  const char* cache_type;
};

class EngineInvariance : public testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
    const TinyCheckpoint checkpoint(GetParam().checkpoint);
    vocab_size_ = checkpoint.config().vocab_size;
    checkpoint.write(dir_.string());
    for (size_t i = 0; i < 5; ++i) requests_.push_back(request(i));
    for (const Request& r : requests_) {
      const auto e = engine({.max_seqs = 1, .chunk = 512});
      alone_.push_back(run(*e, {r}).at(0));
    }
    EXPECT_NE(alone_[0], alone_[1]);
  }

  struct Shape {
    int64_t max_seqs, chunk, cache_tokens = 0;
  };
  std::unique_ptr<Engine> engine(const Shape& s) const {
    EngineOptions o;
    o.max_seqs = s.max_seqs;
    o.chunk = s.chunk;
    o.cache_tokens = s.cache_tokens;
    o.model_dir = dir_.string();
    o.device = GetParam().device;
    o.threads = 2;
    o.cache_type = GetParam().cache_type;
    o.ctx_size = 160;
    return Engine::create(o);
  }

  // Requests 0 to 2 begin with the same 80 tokens, 3 and 4 are the same but for the seed.
  Request request(size_t i) const {
    Request r;
    const auto id = [&](size_t n) {
      return static_cast<TokenId>(n % static_cast<size_t>(vocab_size_));
    };
    if (i < 3)
      for (size_t t = 0; t < 80; ++t) r.prompt.push_back(id(t * 37 + 5));
    for (size_t t = 0; t < 10 + 7 * i; ++t) r.prompt.push_back(id(t * 13 + (i < 3 ? i : 3)));
    if (i == 4) r.prompt = request(3).prompt;
    r.max_new_tokens = 40;
    r.ignore_eos = true;
    r.sampling.temperature = i == 0 ? 0 : 0.9;
    r.sampling.seed = 100 + i;
    return r;
  }

  static std::vector<std::vector<TokenId>> run(Engine& e, const std::vector<Request>& requests) {
    std::map<RequestId, size_t> index;
    for (const Request& r : requests) index.emplace(e.submit(r), index.size());
    std::vector<std::vector<TokenId>> out(requests.size());
    while (!e.idle())
      for (const StepOutput& o : e.step()) {
        std::vector<TokenId>& ids = out[index.at(o.request)];
        ids.insert(ids.end(), o.tokens.begin(), o.tokens.end());
      }
    return out;
  }

  TempDir dir_;
  int64_t vocab_size_ = 0;
  std::vector<Request> requests_;
  std::vector<std::vector<TokenId>> alone_;
};

TEST_P(EngineInvariance, OfNeighboursOrderSlotsAndChunks) {
  for (const Shape& shape : {Shape{2, 1}, Shape{5, 7}, Shape{3, 64}, Shape{5, 512}}) {
    const auto e = engine(shape);
    EXPECT_EQ(run(*e, requests_), alone_) << shape.max_seqs << " sequences, chunk " << shape.chunk;
    EXPECT_GE(e->stats().prompt_tokens_reused, 2 * 64) << "the shared prefix";
    if (shape.chunk != 7) continue;
    std::vector<Request> reversed(requests_.rbegin(), requests_.rend());
    std::vector<std::vector<TokenId>> got = run(*e, reversed);
    std::reverse(got.begin(), got.end());
    EXPECT_EQ(got, alone_) << "in the opposite order, with what the first run left in the cache";
  }
}

TEST_P(EngineInvariance, OfLateArrivals) {
  const auto e = engine({.max_seqs = 3, .chunk = 16});
  std::map<RequestId, size_t> index;
  std::vector<std::vector<TokenId>> got(requests_.size());
  for (size_t next = 0; next < requests_.size() || !e->idle();) {
    if (next < requests_.size() && e->stats().steps >= static_cast<int64_t>(9 * next))
      index[e->submit(requests_[next])] = next, ++next;
    for (const StepOutput& o : e->step()) {
      std::vector<TokenId>& ids = got[index.at(o.request)];
      ids.insert(ids.end(), o.tokens.begin(), o.tokens.end());
    }
  }
  EXPECT_EQ(got, alone_);
}

TEST_P(EngineInvariance, OfPreemption) {
  // Three blocks, where the five would like eleven.
  const auto e = engine({.max_seqs = 5, .chunk = 32, .cache_tokens = 160});
  EXPECT_EQ(e->plan().cache_tokens, 192);
  EXPECT_EQ(run(*e, requests_), alone_);
  EXPECT_GT(e->stats().preemptions, 0);
}

TEST_P(EngineInvariance, OfCancelledNeighbours) {
  const auto e = engine({.max_seqs = 5, .chunk = 32});
  std::vector<RequestId> doomed;
  for (const size_t i : {0u, 3u}) doomed.push_back(e->submit(requests_[i]));
  for (int i = 0; i < 6; ++i) e->step();
  const RequestId id = e->submit(requests_[1]);
  std::vector<TokenId> got;
  while (!e->idle()) {
    for (const StepOutput& o : e->step())
      if (o.request == id) got.insert(got.end(), o.tokens.begin(), o.tokens.end());
    for (const RequestId r : doomed) e->cancel(r);
  }
  EXPECT_EQ(got, alone_[1]);
}

INSTANTIATE_TEST_SUITE_P(Devices, EngineInvariance,
                         testing::Values(Setting{"reference", "v3-fp8", "f32"},
                                         Setting{"reference", "llama-gqa", "fp8"},
                                         Setting{"cpu", "v3-fp8", "f32"},
                                         Setting{"cpu", "v3-bf16", "fp8"},
                                         Setting{"cpu", "llama-gqa", "bf16"}),
                         [](const auto& i) {
                           std::string out = i.param.device + std::string("_") +
                                             i.param.checkpoint + "_" + i.param.cache_type;
                           std::replace(out.begin(), out.end(), '-', '_');
                           return out;
                         });

}  // namespace
}  // namespace dsr::test
