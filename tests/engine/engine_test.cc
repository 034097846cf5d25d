// The whole engine on a tiny checkpoint, through its public interface.
#include "deepseek_run/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "device/cuda_context.h"
#include "engine/generation_config.h"
#include "engine/memory_plan.h"
#include "support/temp_dir.h"
#include "support/tiny_checkpoint.h"

namespace dsr {
namespace {

using test::TempDir;
using test::TinyCheckpoint;

class EngineTest : public testing::Test {
 protected:
  EngineTest() : checkpoint_("v3-bf16") { checkpoint_.write(directory_.path()); }

  std::unique_ptr<Engine> engine(int64_t max_seqs, int64_t chunk,
                                 const std::string& cache = "f32") {
    EngineOptions o;
    o.model_dir = directory_.path();
    o.max_seqs = max_seqs;
    o.chunk = chunk;
    o.cache_type = cache;
    return Engine::create(o);
  }

  static Request request(std::vector<TokenId> prompt, int64_t n, uint64_t seed = 0,
                         double temperature = 0) {
    Request r;
    r.prompt = std::move(prompt);
    r.max_new_tokens = n;
    r.ignore_eos = true;
    r.sampling.temperature = temperature;
    r.sampling.seed = seed;
    return r;
  }

  // Runs everything that was submitted to its end.
  static std::map<RequestId, std::vector<TokenId>> run(Engine& engine) {
    std::map<RequestId, std::vector<TokenId>> out;
    while (!engine.idle())
      for (const StepOutput& o : engine.step())
        out[o.request].insert(out[o.request].end(), o.tokens.begin(), o.tokens.end());
    return out;
  }

  std::vector<TokenId> prompt(int64_t n, TokenId salt = 0) const {
    std::vector<TokenId> ids;
    for (int64_t i = 0; i < n; ++i)
      ids.push_back(
          static_cast<TokenId>((i * 37 + salt * 11 + 5) % checkpoint_.config().vocab_size));
    return ids;
  }

  TempDir directory_;
  TinyCheckpoint checkpoint_;
};

TEST_F(EngineTest, AnAnswerDependsNeitherOnChunksNorOnNeighbours) {
  std::vector<std::vector<TokenId>> alone;
  for (TokenId i = 0; i < 3; ++i) {
    const std::unique_ptr<Engine> e = engine(1, 512);
    const RequestId id = e->submit(
        request(prompt(20 + 9 * i, i), 12, 7u + static_cast<uint64_t>(i), i == 0 ? 0.0 : 0.9));
    alone.push_back(run(*e).at(id));
    ASSERT_EQ(alone.back().size(), 12u);
  }
  for (const int64_t chunk : {1, 3, 64}) {
    const std::unique_ptr<Engine> e = engine(2, chunk);  // the third waits for a place
    std::vector<RequestId> ids;
    for (TokenId i = 0; i < 3; ++i)
      ids.push_back(e->submit(
          request(prompt(20 + 9 * i, i), 12, 7u + static_cast<uint64_t>(i), i == 0 ? 0.0 : 0.9)));
    const auto together = run(*e);
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(together.at(ids[i]), alone[i]) << "chunk " << chunk;
  }
}

TEST_F(EngineTest, AKeptSequenceRunsOnlyWhatFollowsTheCommonPrefix) {
  const std::unique_ptr<Engine> e = engine(1, 512);
  const SequenceId kept = e->open_sequence();
  Request first = request(prompt(30), 5);
  first.sequence = kept;
  const RequestId id = e->submit(first);
  const std::vector<TokenId> answer = run(*e).at(id);
  EXPECT_EQ(e->stats().prompt_tokens_computed, 30);

  // The next turn repeats all of it; the answer's last token was never run.
  std::vector<TokenId> turn = first.prompt;
  turn.insert(turn.end(), answer.begin(), answer.end());
  turn.push_back(3);
  Request second = request(turn, 4);
  second.sequence = kept;
  const RequestId second_id = e->submit(second);
  const std::vector<TokenId> continued = run(*e).at(second_id);
  EXPECT_EQ(e->stats().prompt_tokens_reused, 34);
  EXPECT_EQ(e->stats().prompt_tokens_computed, 30 + 2);
  e->close_sequence(kept);

  const std::unique_ptr<Engine> fresh = engine(1, 512);
  const RequestId fresh_id = fresh->submit(request(turn, 4));
  EXPECT_EQ(run(*fresh).at(fresh_id), continued) << "reuse changes no bit";
}

TEST_F(EngineTest, LogitsOfEveryPositionAgreeWithTheGreedyTokens) {
  const std::unique_ptr<Engine> e = engine(1, 512);
  const std::vector<TokenId> ids = prompt(70);
  std::vector<TokenId> best;
  e->logits(ids, [&](int64_t position, std::span<const float> row) {
    EXPECT_EQ(position, static_cast<int64_t>(best.size()));
    best.push_back(static_cast<TokenId>(std::max_element(row.begin(), row.end()) - row.begin()));
  });
  ASSERT_EQ(best.size(), ids.size());
  for (const size_t n : {1u, 17u, 70u}) {
    const RequestId id = e->submit(request({ids.begin(), ids.begin() + static_cast<long>(n)}, 1));
    EXPECT_EQ(run(*e).at(id).at(0), best[n - 1]);
  }
}

TEST_F(EngineTest, EndsAtTheEosOfTheConfigUnlessTold) {
  const std::unique_ptr<Engine> e = engine(1, 512);
  ASSERT_FALSE(e->info().eos_ids.empty());
  const TokenId eos = e->info().eos_ids[0];
  Request r = request(prompt(8), 5);
  r.ignore_eos = false;
  r.sampling.logit_bias = {{eos, 100.0}};
  e->submit(r);
  const std::vector<StepOutput> out = e->step();
  EXPECT_EQ(out.at(0).finish, FinishReason::kStop);
  EXPECT_TRUE(out.at(0).tokens.empty());

  r.ignore_eos = true;
  const RequestId id = e->submit(r);
  EXPECT_EQ(run(*e).at(id), std::vector<TokenId>(5, eos));
}

TEST_F(EngineTest, ThePlanIsWhatIsAllocated) {
  for (const char* cache : {"f32", "bf16", "fp8"}) {
    const std::unique_ptr<Engine> e = engine(3, 64, cache);  // create() compares, or throws
    const MemoryPlan& plan = e->plan();
    EXPECT_TRUE(plan.fits());
    EXPECT_EQ(plan.ctx_size, checkpoint_.config().max_position_embeddings);
    EXPECT_EQ(plan.kv_cache_bytes,
              round_up(3 * blocks_for(plan.ctx_size) * kPageTokens * plan.kv_bytes_per_token,
                       kAlignBytes));
    EXPECT_GT(plan.activation_bytes, 0);
    const RequestId id = e->submit(request(prompt(10), 3));
    EXPECT_EQ(run(*e).at(id).size(), 3u);
  }
}

TEST_F(EngineTest, ANonFiniteLogitEndsItsSequenceAlone) {
  // The embedding row of token 9 is NaN: only prompts that hold it are ruined.
  std::string table = checkpoint_.bytes("model.embed_tokens.weight");
  const auto row_bytes = table.size() / static_cast<size_t>(checkpoint_.config().vocab_size);
  std::fill_n(table.begin() + static_cast<long>(9 * row_bytes), row_bytes, '\xff');
  checkpoint_.set("model.embed_tokens.weight", "BF16",
                  {checkpoint_.config().vocab_size, checkpoint_.config().hidden_size}, table);
  checkpoint_.write(directory_.path());
  const std::unique_ptr<Engine> e = engine(2, 512);
  const RequestId good = e->submit(request({1, 2, 3}, 4));
  const RequestId bad = e->submit(request({1, 9, 3}, 4));
  std::map<RequestId, FinishReason> ends;
  std::map<RequestId, size_t> tokens;
  while (!e->idle())
    for (const StepOutput& o : e->step()) {
      tokens[o.request] += o.tokens.size();
      ends[o.request] = o.finish;
    }
  EXPECT_EQ(ends.at(bad), FinishReason::kError);
  EXPECT_EQ(tokens.at(bad), 0u);
  EXPECT_EQ(ends.at(good), FinishReason::kLength);
  EXPECT_EQ(tokens.at(good), 4u);
}

std::pair<ErrorKind, std::string> error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return {e.kind(), e.what()};
  }
  return {ErrorKind::kInternal, "no error"};
}

TEST_F(EngineTest, RefusesOptionsAndRequestsByName) {
  const auto with = [&](auto change) {
    return error_of([&] {
      EngineOptions o;
      o.model_dir = directory_.path();
      change(o);
      Engine::create(o);
    });
  };
  if (cuda_devices().empty()) {
    EXPECT_EQ(with([](EngineOptions& o) { o.device = "cuda"; }),
              std::pair(ErrorKind::kDevice, "cuda: " + cuda_absence()));
  }
  for (const std::string device : {"tpu", "cuda:", "cuda:-1", "cuda:1x", "cuda0"})
    EXPECT_EQ(
        with([&](EngineOptions& o) { o.device = device; }),
        std::pair(ErrorKind::kUsage,
                  "device \"" + device + "\", expected auto, cuda, cuda:N, cpu or reference"));
  EXPECT_EQ(
      with([](EngineOptions& o) { o.cpu_level = "mmx"; }),
      std::pair(
          ErrorKind::kUsage,
          std::string("cpu level \"mmx\", expected auto, portable, avx2, avx512 or avx512vbmi")));
  EXPECT_EQ(
      with([](EngineOptions& o) { o.cpu_math = "loose"; }),
      std::pair(ErrorKind::kUsage, std::string("cpu math \"loose\", expected exact or fast")));
  EXPECT_EQ(with([](EngineOptions& o) { o.threads = -1; }),
            std::pair(ErrorKind::kUsage, std::string("threads is -1, expected 0 to 1024")));
  EXPECT_EQ(with([](EngineOptions& o) { o.cache_type = "q4"; }),
            std::pair(ErrorKind::kUsage,
                      std::string("cache type \"q4\", expected auto, f32, bf16 or fp8")));
  EXPECT_EQ(with([](EngineOptions& o) { o.chunk = -1; }),
            std::pair(ErrorKind::kUsage, std::string("chunk is -1, expected 0 to 65536")));
  EXPECT_EQ(with([](EngineOptions& o) { o.ctx_size = 1 << 20; }).first, ErrorKind::kUsage);
  EXPECT_EQ(with([](EngineOptions& o) { o.model_dir += "/no-such"; }).first, ErrorKind::kModel);

  const std::unique_ptr<Engine> e = engine(1, 512);
  EXPECT_EQ(error_of([&] {
              e->submit(request({1, -1}, 1));
            }).second.substr(0, 29),
            "token id -1 is not in the voc");
  EXPECT_EQ(error_of([&] { e->submit(request({}, 1)); }).second, "prompt is empty");
}

// The scale that is NaN is found when weights are loaded, and not before.
TEST(EngineRefusalTest, WhatDoesNotFitIsRefusedBeforeAWeightIsRead) {
  TinyCheckpoint checkpoint("v3-fp8");
  const std::string scale = "model.layers.1.self_attn.kv_a_proj_with_mqa.weight_scale_inv";
  checkpoint.set(scale, "F32", checkpoint.find(scale)->shape,
                 std::string(checkpoint.bytes(scale).size(), '\xff'));
  const TempDir dir;
  checkpoint.write(dir.string());
  const auto refusal = [&](int64_t cache_tokens) {
    return error_of([&] {
      EngineOptions o;
      o.model_dir = dir.string();
      o.cache_tokens = cache_tokens;
      Engine::create(o);
    });
  };
  EXPECT_EQ(refusal(0).first, ErrorKind::kModel);
  const auto [kind, text] = refusal(int64_t{1} << 36);
  EXPECT_EQ(kind, ErrorKind::kDoesNotFit);
  EXPECT_EQ(static_cast<int>(kind), 4) << "the exit code";
  EXPECT_EQ(text.find("not enough memory on "), 0u) << text;
}

TEST_F(EngineTest, MappedAndReadWeightsAnswerAlike) {
  EngineOptions o;
  o.model_dir = directory_.path();
  std::vector<std::vector<TokenId>> answers;
  for (const char* mode : {"auto", "mmap", "read"}) {
    o.load_mode = mode;
    const std::unique_ptr<Engine> e = Engine::create(o);
    EXPECT_EQ(e->info().load_mode, std::string(mode) == "read" ? "read" : "mmap");
    const RequestId id = e->submit(request(prompt(30), 12));
    answers.push_back(run(*e).at(id));
  }
  EXPECT_EQ(answers[0].size(), 12u);
  EXPECT_EQ(answers[1], answers[0]);
  EXPECT_EQ(answers[2], answers[0]);
  o.load_mode = "fast";
  EXPECT_EQ(error_of([&] { Engine::create(o); }).second,
            "load mode \"fast\", expected auto, mmap or read");
}

TEST(MemoryPlanTest, WeightsLargerThanMemoryMayBeMapped) {
  MemoryPlan p{.device = "cpu",
               .ctx_size = 64,
               .max_seqs = 1,
               .mapped_weight_bytes = 9'000'000,
               .weights_on_disk = true,
               .kv_bytes_per_token = 1000,
               .kv_cache_bytes = 64'000,
               .available_bytes = 3'000'000};
  EXPECT_EQ(error_of([&] { require_fit(p); }).second,
            "not enough memory on cpu with -c 64\n"
            "  weights 9.0 MB + kv cache 64.0 kB + activations 0 B = 9.1 MB of 3.0 MB available\n"
            "  try: --load-mode mmap, which reads from the disk again what does not fit");
  p.weights_may_exceed = true;
  EXPECT_EQ(error_of([&] { require_fit(p); }).second, "no error");
  p.kv_cache_bytes = 3'000'001;
  EXPECT_EQ(error_of([&] { require_fit(p); }).first, ErrorKind::kDoesNotFit);
  p.weights_may_exceed = p.weights_on_disk = false;  // random weights are in memory or nowhere
  p.kv_cache_bytes = 64'000;
  EXPECT_NE(error_of([&] { require_fit(p); }).second.find("\n  try: deepseek-run plan, which says"),
            std::string::npos);
}

TEST(MemoryPlanTest, WhatDoesNotFitSaysWhatWould) {
  MemoryPlan p{.device = "reference",
               .ctx_size = 4096,
               .max_seqs = 1,
               .mapped_weight_bytes = 1'000'000,
               .kv_bytes_per_token = 1000,
               .kv_cache_bytes = 4'096'000,
               .available_bytes = 3'000'000};
  const auto [kind, text] = error_of([&] { require_fit(p); });
  EXPECT_EQ(kind, ErrorKind::kDoesNotFit);
  EXPECT_EQ(text,
            "not enough memory on reference with -c 4096\n"
            "  weights 1.0 MB + kv cache 4.1 MB + activations 0 B = 5.1 MB of 3.0 MB available\n"
            "  try: -c 1984");
  p.available_bytes = 1'010'000;  // not even one page
  EXPECT_NE(error_of([&] { require_fit(p); }).second.find("\n  try: deepseek-run plan, which says"),
            std::string::npos);
  p.available_bytes = p.total_bytes();
  EXPECT_EQ(error_of([&] { require_fit(p); }).second, "no error");
}

TEST(GenerationConfigTest, DefaultsAndEosIds) {
  std::vector<std::string> warnings;
  const WarningSink warn = [&](const std::string& w) { warnings.push_back(w); };
  EXPECT_EQ(sampling_defaults(nullptr, 100, warn), SamplingParams{});

  const Json good = parse_json(
      R"({"temperature": 0.3, "top_p": 0.5, "top_k": 7, "repetition_penalty": 1.1,
          "eos_token_id": [5, 1, 500], "do_sample": true, "max_length": 9})",
      "test");
  const SamplingParams p = sampling_defaults(&good, 100, warn);
  EXPECT_EQ(p.temperature, 0.3);
  EXPECT_EQ(p.top_p, 0.5);
  EXPECT_EQ(p.top_k, 7);
  EXPECT_EQ(p.repetition_penalty, 1.1);
  EXPECT_EQ(p.penalty_window, -1) << "over the whole text, as transformers applies it";
  EXPECT_EQ(eos_ids({1, 2}, &good, 100), (std::vector<TokenId>{1, 2, 5}));
  EXPECT_TRUE(warnings.empty());

  const Json greedy = parse_json(R"({"temperature": 0.3, "do_sample": false})", "test");
  EXPECT_EQ(sampling_defaults(&greedy, 100, warn).temperature, 0);

  const Json bad = parse_json(R"({"temperature": -3})", "test");
  EXPECT_EQ(sampling_defaults(&bad, 100, warn), SamplingParams{});
  EXPECT_EQ(warnings, std::vector<std::string>{
                          "generation_config.json: temperature is -3, expected 0 or 0.01 to 100; "
                          "using the built-in sampling defaults"});
}

std::vector<std::string> warnings_of(const char* generation_config) {
  std::vector<std::string> out;
  const Json json = parse_json(generation_config, "test");
  sampling_defaults(&json, 100, [&](const std::string& w) { out.push_back(w); });
  return out;
}

// As the released checkpoints have it (V3, R1 and their distills; DeepSeek LLM; Coder; Kimi).
TEST(GenerationConfigTest, ReleasedFilesAreTakenWithoutAWord) {
  for (const char* text :
       {R"({"_from_model_config": true, "bos_token_id": 0, "eos_token_id": 1, "do_sample": true,
            "temperature": 0.6, "top_p": 0.95, "transformers_version": "4.39.3"})",
        R"({"_from_model_config": true, "bos_token_id": 99, "eos_token_id": 98, "pad_token_id": 98,
            "do_sample": true, "temperature": 0.7, "top_p": 0.95, "transformers_version": "4.35.0"})",
        R"({"_from_model_config": true, "bos_token_id": 3, "eos_token_id": 2})",
        R"({"max_length": 131072, "eos_token_id": 7})",
        R"({"temperature": 0.5, "top_k": 50, "min_p": 0.05, "num_beams": 1, "typical_p": 1.0,
            "no_repeat_ngram_size": 0, "bad_words_ids": null, "suppress_tokens": [],
            "forced_eos_token_id": null, "renormalize_logits": false})"})
    EXPECT_EQ(warnings_of(text), std::vector<std::string>{}) << text;
}

TEST(GenerationConfigTest, WhatWouldChangeTheTextAndIsNotDoneIsSaid) {
  EXPECT_EQ(warnings_of(R"({"num_beams": 4, "no_repeat_ngram_size": 3, "bad_words_ids": [[5]],
                            "stop_strings": "END", "watermarking_config": {"bias": 2}})"),
            (std::vector<std::string>{
                "generation_config.json: num_beams is not supported and ignored",
                "generation_config.json: no_repeat_ngram_size is not supported and ignored",
                "generation_config.json: bad_words_ids is not supported and ignored",
                "generation_config.json: stop_strings is not supported and ignored",
                "generation_config.json: watermarking_config is not supported and ignored"}));
}

}  // namespace
}  // namespace dsr
