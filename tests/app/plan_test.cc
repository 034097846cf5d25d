// plan: sizes against models.md section 18, the split over GPUs, the report.
#include "deepseek_run/plan.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "app/gpu_plan.h"
#include "model/declared_source.h"
#include "model/weights.h"
#include "support/cards.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

constexpr int64_t kTokens = 8192;

ModelSizes sizes_of(const std::string& name, WeightFormat format) {
  ModelConfig c = with_format(parse_config(card(name), {}), format);
  c.num_nextn_predict_layers = 0;  // the tables are of the main model
  return model_sizes(c, DeclaredSource(c), {.cache_type = CacheType::kBF16, .ctx_size = kTokens});
}

// Within what the table's rounding hides: half of its last digit.
void expect_gb(int64_t bytes, double gb, double digit, const std::string& what) {
  EXPECT_NEAR(static_cast<double>(bytes) * 1e-9, gb, 0.5 * digit + 1e-9) << what;
}

struct Row {
  const char* card;
  double bf16, fp8, digit;                       // GB of weights; the unit of the last digit
  double active_bf16, active_fp8, active_digit;  // GB
  int64_t kv_bytes_per_token;
  // The fewest of 1, 2, 4, 8 GPUs of 40 and 80 GiB that hold it; 0: none.
  std::array<int64_t, 2> bf16_gpus, fp8_gpus;
};

// "Memory arithmetic" and "Which GPUs hold it", for every shape there is.
constexpr std::array kRows = {
    Row{"deepseek-llm-7b", 13.8, 7.8, 0.1, 12.98, 6.91, 0.01, 491520, {1, 1}, {1, 1}},
    Row{"deepseek-llm-67b", 134.9, 69.1, 0.1, 133.2, 67.4, 0.1, 389120, {4, 2}, {2, 1}},
    Row{"deepseek-moe-16b", 32.8, 16.8, 0.1, 5.24, 2.83, 0.01, 229376, {1, 1}, {1, 1}},
    Row{"deepseek-v2-lite", 31.4, 16.1, 0.1, 4.90, 2.67, 0.01, 31104, {1, 1}, {1, 1}},
    Row{"deepseek-v2", 471.5, 236.9, 0.1, 41.7, 21.4, 0.1, 69120, {0, 8}, {8, 4}},
    Row{"deepseek-v3", 1342, 673.2, 1, 73.3, 37.7, 0.1, 70272, {0, 0}, {0, 0}},
    Row{"r1-distill-qwen-1.5b", 3.6, 2.2, 0.1, 3.09, 1.78, 0.01, 28672, {1, 1}, {1, 1}},
    Row{"r1-distill-qwen-7b", 15.2, 8.7, 0.1, 14.1, 7.62, 0.1, 57344, {1, 1}, {1, 1}},
    Row{"r1-distill-qwen-14b", 29.5, 16.3, 0.1, 28.0, 14.8, 0.1, 196608, {1, 1}, {1, 1}},
    Row{"r1-distill-qwen-32b", 65.5, 34.3, 0.1, 64.0, 32.8, 0.1, 262144, {2, 1}, {1, 1}},
    Row{"r1-distill-llama-8b", 16.1, 9.1, 0.1, 15.0, 8.03, 0.1, 131072, {1, 1}, {1, 1}},
    Row{"r1-distill-llama-70b", 141.1, 72.7, 0.1, 139.0, 70.6, 0.1, 327680, {4, 2}, {2, 1}},
    Row{"moonlight-16b-a3b", 31.9, 16.6, 0.1, 5.16, 2.92, 0.01, 31104, {1, 1}, {1, 1}},
    Row{"kimi-k2-instruct", 2053, 1029, 1, 63.4, 33.0, 0.1, 70272, {0, 0}, {0, 0}},
};

std::array<int64_t, 2> fewest(const ModelSizes& sizes) {
  std::array<int64_t, 2> out = {0, 0};
  for (const int64_t n : {8, 4, 2, 1})
    for (const size_t i : {0u, 1u})
      if (plan_gpus(sizes, {parse_gpus(i == 0 ? "A100-40" : "A100-80").gpu, n}, kTokens, 1).fits())
        out[i] = n;
  return out;
}

TEST(PlanTest, TheTablesOfTheFamily) {
  for (const Row& row : kRows) {
    const ModelSizes bf16 = sizes_of(row.card, WeightFormat::kBF16);
    const ModelSizes fp8 = sizes_of(row.card, WeightFormat::kFP8);
    const std::string name = row.card;
    expect_gb(bf16.weights().total(), row.bf16, row.digit, name + " bf16");
    expect_gb(fp8.weights().total(), row.fp8, row.digit, name + " fp8");
    expect_gb(bf16.active.total(), row.active_bf16, row.active_digit, name + " active bf16");
    expect_gb(fp8.active.total(), row.active_fp8, row.active_digit, name + " active fp8");
    EXPECT_EQ(bf16.kv_bytes_per_token, row.kv_bytes_per_token) << name;
    EXPECT_EQ(fewest(bf16), row.bf16_gpus) << name;
    EXPECT_EQ(fewest(fp8), row.fp8_gpus) << name;
  }
}

TEST(PlanTest, TheOthersHaveTheSameShapes) {
  for (const auto& [name, like] : std::vector<std::pair<const char*, const char*>>{
           {"deepseek-math-7b", "deepseek-llm-7b"},
           {"deepseek-prover-v1.5-7b", "deepseek-llm-7b"},
           {"deepseek-coder-v2-lite", "deepseek-v2-lite"},
           {"deepseek-coder-v2", "deepseek-v2"},
           {"deepseek-v2.5", "deepseek-v2"},
           {"deepseek-v3-0324", "deepseek-v3"},
           {"deepseek-r1", "deepseek-v3"},
           {"deepseek-v3.1", "deepseek-v3"},
       }) {
    EXPECT_EQ(DeclaredSource(parse_config(card(name), {})).names(),
              DeclaredSource(parse_config(card(like), {})).names())
        << name;
    EXPECT_EQ(card(name).find("_card")->find("parameters")->as_int(),
              card(like).find("_card")->find("parameters")->as_int())
        << name;
  }
}

// Attention of Distill-Qwen 7B: 28 layers of 28 query and 4 key heads of 128, width 3584.
TEST(PlanTest, WeightsAreDividedByTheirShard) {
  const ModelSizes s = sizes_of("r1-distill-qwen-7b", WeightFormat::kBF16);
  const int64_t matrices = int64_t{28} * 2 * 3584 * (2 * 28 + 2 * 4) * 128;
  const int64_t biases = int64_t{28} * 4 * (28 + 2 * 4) * 128;
  EXPECT_EQ(s.part(Part::kAttention).divided, matrices + biases);
  EXPECT_EQ(s.part(Part::kAttention).replicated, 0);
  EXPECT_EQ(s.part(Part::kHead).divided, int64_t{152064} * 3584 * 2);
  EXPECT_EQ(s.part(Part::kHead).replicated, 0);
  EXPECT_EQ(s.part(Part::kAttention).on_each_of(4), (matrices + biases) / 4);
}

TEST(PlanTest, TheCacheIsDividedByKeyHeads) {
  const GpuModel* gpu = parse_gpus("H100").gpu;
  const ModelSizes gqa = sizes_of("r1-distill-qwen-7b", WeightFormat::kBF16);
  const int64_t all = kTokens * gqa.kv_bytes_per_token;
  EXPECT_EQ(plan_gpus(gqa, {gpu, 1}, kTokens, 1).kv_cache_bytes, all);
  EXPECT_EQ(plan_gpus(gqa, {gpu, 3}, kTokens, 1).kv_cache_bytes, all / 2);  // 2 of 4 heads
  EXPECT_EQ(plan_gpus(gqa, {gpu, 8}, kTokens, 1).kv_cache_bytes, all / 4);  // one head each
  EXPECT_EQ(plan_gpus(gqa, {gpu, 8}, kTokens, 3).kv_cache_bytes, 3 * all / 4);
  const ModelSizes mla = sizes_of("moonlight-16b-a3b", WeightFormat::kBF16);
  EXPECT_EQ(plan_gpus(mla, {gpu, 8}, kTokens, 1).kv_cache_bytes, kTokens * mla.kv_bytes_per_token);
}

// models.md section 18: bandwidth over active bytes.
TEST(PlanTest, SpeedThatBandwidthAllows) {
  const auto speed = [](const char* name, const char* gpus) {
    const ModelSizes s = sizes_of(name, WeightFormat::kBF16);
    const GpuSet set = parse_gpus(gpus);
    return std::floor(decode_floors(s, static_cast<double>(set.gpu->gb_per_s) * 1e9, kTokens, 1)
                          .rows[0]
                          .tok_per_s);
  };
  EXPECT_EQ(speed("deepseek-llm-7b", "A100-40"), 119);
  EXPECT_EQ(speed("deepseek-v2-lite", "a100-40"), 317);
}

// kernels.md, "What the floor is": ms per step with 1,024 tokens of context at 4.54 TB/s.
TEST(PlanTest, FloorsOfDecodingByBatch) {
  const auto ms = [](const char* name, WeightFormat format, int64_t batch, double context) {
    return step_bytes(sizes_of(name, format), {.batch = batch, .context = context}) / 4.54e12 * 1e3;
  };
  const auto bf16 = [&](int64_t batch) {
    return ms("deepseek-v2-lite", WeightFormat::kBF16, batch, 1024);
  };
  // What rounding hides: half of the last digit, and half of 4.54's.
  const auto near = [](double got, double want, double digit) {
    EXPECT_NEAR(got, want, 0.5 * digit + want * 0.005 / 4.54);
  };
  near(bf16(1), 1.087, 0.001);
  near(bf16(8), 4.00, 0.01);
  near(bf16(32), 6.78, 0.01);
  near(bf16(128), 7.73, 0.01);
  near(ms("deepseek-v2-lite", WeightFormat::kFP8, 8, 1024), 2.07, 0.01);
  near(ms("deepseek-v2-lite", WeightFormat::kFP8, 1, 32768), 0.81, 0.01);
  near(ms("deepseek-llm-7b", WeightFormat::kBF16, 1, 1024), 2.97, 0.01);
  near(ms("deepseek-llm-67b", WeightFormat::kFP8, 1, 1024), 14.9, 0.1);
}

TEST(PlanTest, FloorsOfOneSequenceAndOfMany) {
  const ModelSizes s = sizes_of("deepseek-v3", WeightFormat::kFP8);
  const DecodeFloors floors = decode_floors(s, 4.8e12, 32768, 8);
  ASSERT_EQ(floors.rows.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    const DecodeFloor& r = floors.rows[i];
    EXPECT_EQ(r.batch, (std::array{1, 8, 64}[i]));
    EXPECT_DOUBLE_EQ(r.tok_per_s, static_cast<double>(r.batch) * 4.8e12 / r.bytes);
    // MLA: every GPU reads all keys, 70,272 bytes a token.
    EXPECT_DOUBLE_EQ(r.tok_per_s_at_end,
                     static_cast<double>(r.batch) * 4.8e12 /
                         (r.bytes + static_cast<double>(r.batch) * 32768 * 70272));
  }
  // 8 of 256 experts for one token; 64 tokens want 256 (1 - (31/32)^64) = 222.4 of them. An eighth
  // of them is on each GPU.
  const auto experts = static_cast<double>(s.experts.on_each_of(8));
  EXPECT_NEAR(floors.rows[2].bytes - floors.rows[0].bytes, experts * (222.44 - 8) / 256,
              experts * 1e-4);
}

TEST(PlanTest, RemediesFitAndAreTheSmallest) {
  const ModelSizes s = sizes_of("r1-distill-qwen-32b", WeightFormat::kBF16);
  const GpuPlan plan = plan_gpus(s, parse_gpus("A100-80"), 1 << 17, 1);
  ASSERT_FALSE(plan.fits());
  const Remedies r = remedies(s, plan);
  ASSERT_TRUE(r.ctx_size.has_value());
  EXPECT_TRUE(plan_gpus(s, plan.gpus, *r.ctx_size, 1).fits());
  EXPECT_FALSE(plan_gpus(s, plan.gpus, *r.ctx_size + kPageTokens, 1).fits());
  EXPECT_EQ(r.n_gpus, 2);
  ASSERT_NE(r.gpu, nullptr);
  EXPECT_STREQ(r.gpu->name, "H200");
}

TEST(PlanTest, TheSmallestSetOfGpus) {
  const ModelSizes s = sizes_of("kimi-k2-instruct", WeightFormat::kFP8);
  const std::optional<GpuSet> set = smallest_gpus(s, kTokens, 1);
  ASSERT_TRUE(set);
  EXPECT_TRUE(plan_gpus(s, *set, kTokens, 1).fits());
  const auto memory = [](const GpuSet& g) { return g.count * g.gpu->memory_bytes; };
  for (const GpuModel& gpu : gpu_models())
    for (int64_t n = 1; n <= 64; n *= 2)
      if (memory({&gpu, n}) < memory(*set)) {
        EXPECT_FALSE(plan_gpus(s, {&gpu, n}, kTokens, 1).fits());
      }
  // bf16 of it is 2 TB: neither more of an A10 nor one of another kind would do.
  const ModelSizes bf16 = sizes_of("kimi-k2-instruct", WeightFormat::kBF16);
  const Remedies r = remedies(bf16, plan_gpus(bf16, parse_gpus("1xA10"), kTokens, 1));
  EXPECT_FALSE(r.ctx_size || r.n_gpus || r.gpu != nullptr);
  ASSERT_TRUE(r.set);
  EXPECT_TRUE(plan_gpus(bf16, *r.set, kTokens, 1).fits());
}

Json report(PlanQuery q) { return parse_json(plan_json(q).text, "report"); }

// What a report says would fit does, and a little more does not.
TEST(PlanTest, RoomForAContextAndForSequences) {
  PlanQuery q;
  q.card = card_path("r1-distill-llama-8b");
  q.gpus = "1xL4";
  q.ctx_size = 4096;
  const Json json = report(q);
  const int64_t ctx_size = json.find("room")->find("ctx_size")->as_int();
  const int64_t max_seqs = json.find("room")->find("max_seqs")->as_int();
  EXPECT_GT(ctx_size, 4096);
  EXPECT_LT(ctx_size, 131072);
  const auto fits = [&](int64_t c, int64_t s) {
    q.ctx_size = c;
    q.max_seqs = s;
    return plan_json(q).fits;
  };
  EXPECT_TRUE(fits(ctx_size, 1));
  EXPECT_FALSE(fits(ctx_size + 64 + ctx_size / 64, 1));
  EXPECT_TRUE(fits(4096, max_seqs));
  EXPECT_FALSE(fits(4096, max_seqs + 1 + max_seqs / 64));
}

// Weights that do not fit here: the change is another format or another machine.
TEST(PlanTest, WhatWouldFitWhereTheWeightsAloneDoNot) {
  PlanQuery q;
  q.card = card_path("kimi-k2-instruct");
  q.ctx_size = 4096;
  const Json json = report(q);
  if (json.find("fits")->as_bool()) GTEST_SKIP() << "a machine with more than a terabyte";
  const Json::Array& changes = json.find("try")->as_array();
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].as_string(), "--gpus 8xH200");
  q.gpus = "8xH200";
  EXPECT_TRUE(plan_json(q).fits);
}

TEST(PlanTest, CheaperChangesComeFirst) {
  PlanQuery q;
  q.card = card_path("deepseek-llm-7b");
  q.gpus = "1xL4";
  q.ctx_size = 4096;
  q.max_seqs = 6;
  const Json json = report(q);
  std::vector<std::string> changes;
  for (const Json& change : json.find("try")->as_array()) changes.push_back(change.as_string());
  ASSERT_EQ(changes.size(), 6u);
  EXPECT_EQ(changes[0], "--max-seqs 4");
  EXPECT_EQ(changes[1].substr(0, 3), "-c ");
  EXPECT_EQ(changes[2], "--cache-type fp8");
  EXPECT_EQ(changes[3], "--weights fp8");
  EXPECT_EQ(changes[4], "--gpus 2xL4");
  EXPECT_EQ(changes[5], "--gpus 1xV100-32");
  q.max_seqs = 4;
  EXPECT_TRUE(plan_json(q).fits);
  q.max_seqs = 6;
  q.cache_type = "fp8";
  EXPECT_TRUE(plan_json(q).fits);
}

// Steps of a prompt are as large as the device has them, unless that is said.
TEST(PlanTest, PromptsAreCutByTheDevice) {
  const auto activations = [](const char* gpus, const char* device, int64_t chunk) {
    PlanQuery q;
    q.card = card_path("r1-distill-qwen-1.5b");
    q.gpus = gpus;
    q.device = device;
    q.ctx_size = 4096;
    q.chunk = chunk;
    return report(q).find("activation_bytes")->as_int();
  };
  EXPECT_EQ(activations("1xL4", "auto", 0), activations("1xL4", "auto", 2048));
  EXPECT_EQ(activations("", "cpu", 0), activations("", "cpu", 512));
  EXPECT_LT(activations("1xL4", "auto", 512), activations("1xL4", "auto", 2048));
}

TEST(PlanTest, ReportsOfACard) {
  PlanQuery q;
  q.card = card_path("r1-distill-qwen-14b");
  q.gpus = "1xL4";
  q.ctx_size = 4096;
  const PlanReport no = plan_text(q);
  EXPECT_FALSE(no.fits);
  EXPECT_NE(no.text.find("\ndoes not fit: 32.0 GB of 24.5 GB on each GPU\n"
                         "  try: --weights fp8, or --gpus 2xL4, or --gpus 1xV100-32\n"),
            std::string::npos)
      << no.text;
  q.weights = "fp8";
  const PlanReport yes = plan_json(q);
  EXPECT_TRUE(yes.fits);
  const Json json = parse_json(yes.text, "report");
  EXPECT_EQ(json.find("weights")->as_string(), "fp8");
  EXPECT_EQ(json.find("total_bytes")->as_int(),
            json.find("weight_bytes")->as_int() + json.find("kv_cache_bytes")->as_int() +
                json.find("activation_bytes")->as_int() + json.find("reserve_bytes")->as_int());
  int64_t parts = 0;
  for (const auto& [name, part] : json.find("parts")->as_object().members)
    parts += part.find("gpu_bytes")->as_int();
  EXPECT_EQ(parts, json.find("weight_bytes")->as_int());
}

// Without GPUs: what the engine would find of the same checkpoint.
TEST(PlanTest, ReportsOfACheckpoint) {
  const TinyCheckpoint tiny("v3-fp8");
  const TempDir dir;
  tiny.write(dir.string());
  PlanQuery q;
  q.model_dir = dir.string();
  const PlanReport report = plan_json(q);
  EXPECT_TRUE(report.fits);
  const Json json = parse_json(report.text, "report");
  EXPECT_EQ(json.find("weights")->as_string(), "fp8");
  EXPECT_EQ(json.find("ctx_size")->as_int(), tiny.config().max_position_embeddings);
  EXPECT_EQ(json.find("kv_cache_bytes")->as_int(),
            json.find("kv_bytes_per_token")->as_int() * tiny.config().max_position_embeddings);
}

TEST(PlanTest, Errors) {
  const auto error = [](PlanQuery q) {
    return first_line_of(error_of([&] { plan_text(q); }, ErrorKind::kUsage));
  };
  PlanQuery q;
  EXPECT_EQ(error(q), "plan needs a model or a --card, not both");
  q.card = card_path("deepseek-llm-7b");
  q.weights = "4bit";
  EXPECT_EQ(error(q), "4-bit weights are not supported yet (supported: bf16, fp8)");
  q.weights = "int3";
  EXPECT_EQ(error(q), "weights as \"int3\", expected bf16 or fp8");
  q.weights = "";
  q.gpus = "0xH100";
  EXPECT_EQ(error(q), "--gpus \"0xH100\": the number is 0, expected 1 to 1024");
  q.gpus = "2xZ9";
  EXPECT_EQ(error(q).substr(0, 51), "--gpus \"2xZ9\", expected NxNAME, such as 8xA100-80, ");
  q.gpus = "2xH100";
  q.ctx_size = 4097;
  EXPECT_EQ(error(q), "context 4,097 tokens, the model's is 4,096");
}

}  // namespace
}  // namespace dsr::test
