// Ten thousand tokens of eight sequences: the same tokens every time, by graphs and without, and no
// memory that grows. On a GPU; a short run on the cpu shows that the test itself does.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>

#include "engine/sampled_batch.h"
#include "io/checkpoint.h"
#include "model/card.h"
#include "model/random_source.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

constexpr int64_t kSeqs = 8, kWindow = 64;
// What a plan leaves to CUDA itself (kCudaReserveBytes of engine/runner.cc).
constexpr int64_t kReserveBytes = int64_t{512} << 20;

struct Setting {
  const char* name;
  Backend backend;
  int64_t steps;
};
void PrintTo(const Setting& s, std::ostream* out) { *out << s.name; }

// What the process holds, of its own memory and of the device's.
struct Held {
  int64_t host_bytes = 0, device_bytes_left = 0;
};

struct Result {
  std::vector<TokenId> tokens;
  Held before, early, late;
  int64_t planned_bytes = 0;
};

int64_t resident_bytes() {
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;  // the second number
  return pages * ::sysconf(_SC_PAGESIZE);
}

class Soak : public testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
    if (GetParam().backend == Backend::kCuda && cuda_devices().empty())
      GTEST_SKIP() << cuda_absence();
    const std::string name = GetParam().name;
    if (name == "golden") {
      auto golden = std::make_unique<TinyCheckpoint>("v3-bf16");
      config_ = golden->config();
      source_ = std::move(golden);
    } else if (name == "tiny") {
      const std::string dir = DSR_SOURCE_DIR "/models/tiny";
      if (!std::filesystem::exists(dir + "/model.safetensors"))
        GTEST_SKIP() << "models/tiny is missing";
      auto checkpoint = std::make_unique<Checkpoint>(Checkpoint::open(dir, {}));
      config_ = parse_config(checkpoint->config(), {});
      source_ = std::move(checkpoint);
    } else {
      config_ = card_model(DSR_SOURCE_DIR "/models/deepseek-v2-lite.json", "fp8", 4, {});
      source_ = std::make_unique<RandomSource>(config_, 1);
    }
  }

  Result run(bool graphs) const {
    const int64_t steps = GetParam().steps, context = steps + 16 * kSeqs;
    RunnerOptions o;
    o.backend = GetParam().backend;
    o.cache_type = o.backend == Backend::kCuda ? CacheType::kBF16 : CacheType::kF32;
    o.max_positions = context;
    o.limits = limits_of(kSeqs, context);
    o.decode_graphs = graphs;
    Result out;
    const auto held = [](Runner& r) { return Held{resident_bytes(), r.available_bytes()}; };
    {
      Runner dry(o, config_, *source_, /*dry_run=*/true);
      out.before = held(dry);
      out.planned_bytes = dry.memory().total_bytes();
    }
    Runner runner(o, config_, *source_, /*dry_run=*/false);
    runner.set_allowed(all_allowed(config_.vocab_size));
    BlockPool pool(o.limits.n_blocks);
    std::vector<std::unique_ptr<Sequence>> sequences;
    const auto step = [&](const std::vector<Sequence*>& now) {
      const std::vector<TokenId> tokens = runner.step(sampled_batch(now, context, kWindow)).tokens;
      for (size_t i = 0; i < now.size(); ++i) now[i]->append(tokens.at(i));
      out.tokens.insert(out.tokens.end(), tokens.begin(), tokens.end());
    };
    for (int32_t i = 0; i < kSeqs; ++i) {  // prompts of 1, 16, 31, ... tokens
      std::vector<TokenId> prompt;
      for (int32_t t = 0; t <= 15 * i; ++t) prompt.push_back(7 + (31 * i + 11 * t) % 90);
      sequences.push_back(std::make_unique<Sequence>(pool));
      sequences.back()->start_prompt(prompt);
      step({sequences.back().get()});
    }
    for (int64_t s = 0; s + 1 < steps; ++s) {
      if (s == steps / 10) out.early = held(runner);
      std::vector<Sequence*> now;
      for (int64_t i = 0; i < kSeqs; ++i)  // every fifth step leaves one out
        if (s % 5 != 4 || i != s % kSeqs) now.push_back(sequences[static_cast<size_t>(i)].get());
      step(now);
    }
    out.late = held(runner);
    return out;
  }

  ModelConfig config_;
  std::unique_ptr<WeightSource> source_;
};

// 1,300 steps of 8 sequences, every fifth of 7.
INSTANTIATE_TEST_SUITE_P(Models, Soak,
                         testing::Values(Setting{"golden", Backend::kCpu, 60},
                                         Setting{"tiny", Backend::kCuda, 1300},
                                         Setting{"v2_lite_4_layers", Backend::kCuda, 1300}),
                         [](const auto& p) {
                           return std::string(name(p.param.backend)) + "_" + p.param.name;
                         });

TEST_P(Soak, TheSameTokensAndNoMemoryMore) {
  const Result first = run(true);
  EXPECT_GE(std::ssize(first.tokens), GetParam().steps * 39 / 5);
  EXPECT_EQ(std::count(first.tokens.begin(), first.tokens.end(), -1), 0) << "not finite";
  std::vector<TokenId> different = first.tokens;
  std::sort(different.begin(), different.end());
  EXPECT_GT(std::unique(different.begin(), different.end()) - different.begin(), 20);

  const Result again = run(true), launched = run(false);
  EXPECT_TRUE(again.tokens == first.tokens) << "run to run";
  EXPECT_TRUE(launched.tokens == first.tokens) << "graphs or none";
  for (const Result* r : {&first, &again, &launched}) {
    EXPECT_LT(r->late.host_bytes - r->early.host_bytes, 16 << 20);
    if (GetParam().backend == Backend::kCuda) {
      EXPECT_EQ(r->late.device_bytes_left, r->early.device_bytes_left);
      EXPECT_LE(r->before.device_bytes_left - r->late.device_bytes_left,
                r->planned_bytes + kReserveBytes);
    }
  }
}

}  // namespace
}  // namespace dsr::test
