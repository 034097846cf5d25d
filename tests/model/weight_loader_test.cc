// Which tensors a model takes, and in which words it refuses others.
#include "model/weight_loader.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "io/read_source.h"
#include "model/declared_source.h"
#include "support/expect_error.h"
#include "support/json_edit.h"
#include "support/safetensors_writer.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

std::string refusal(const ModelConfig& config, const WeightSource& source) {
  Exec exec(Backend::kReference);
  const std::string text = error_of([&] { const LoadedWeights loaded(exec, config, source); });
  EXPECT_EQ(exec.memory().total_bytes(), 0);
  return text;
}
std::string refusal(const TinyCheckpoint& checkpoint) {
  return refusal(checkpoint.config(), checkpoint);
}

// The checkpoint with one of its tensors under another type and shape, zeros inside.
void misshape(TinyCheckpoint& checkpoint, const std::string& name, const std::string& dtype,
              const std::vector<int64_t>& shape) {
  int64_t n = 8;
  for (const int64_t d : shape) n *= d;
  checkpoint.set(name, dtype, shape, std::string(static_cast<size_t>(n), '\0'));
}

TEST(WeightLoader, NamesWhatIsMissing) {
  TinyCheckpoint one("v3-bf16");
  one.erase("model.norm.weight");
  EXPECT_EQ(refusal(one),
            "checkpoint: missing tensor model.norm.weight (computed from config.json)");

  TinyCheckpoint many("v3-bf16");
  for (const char* part : {"gate_proj", "up_proj", "down_proj"})
    many.erase(str("model.layers.2.mlp.experts.7.", part, ".weight"));
  many.erase("model.layers.3.mlp.gate.e_score_correction_bias");
  EXPECT_EQ(refusal(many),
            "checkpoint: missing tensors model.layers.2.mlp.experts.7.gate_proj.weight, "
            "model.layers.2.mlp.experts.7.up_proj.weight, "
            "model.layers.2.mlp.experts.7.down_proj.weight and 1 more (computed from config.json)");
}

// However many a config asks for, an answer comes at once.
TEST(WeightLoader, StopsCountingWhatIsMissing) {
  const TinyCheckpoint checkpoint("v3-bf16");
  const ModelConfig config =
      parse_config(edited(checkpoint.config_json(), "num_hidden_layers", "1024"), {});
  EXPECT_EQ(refusal(config, checkpoint),
            "checkpoint: missing tensors model.layers.4.input_layernorm.weight, "
            "model.layers.4.self_attn.q_a_proj.weight, "
            "model.layers.4.self_attn.q_a_layernorm.weight and at least 9997 more (computed from "
            "config.json)");
}

// The parts of one bias in their places; a tied head is the embedding.
TEST(WeightLoader, BiasesOfQKAndVAreOneVector) {
  const TinyCheckpoint checkpoint("qwen2-tied");  // 4 heads of 20, 1 KV head
  Exec exec(Backend::kReference);
  const LoadedWeights loaded(exec, checkpoint.config(), checkpoint);
  for (const int64_t layer : {0, 2}) {
    const Tensor& bias = loaded.weights().layers[static_cast<size_t>(layer)].gqa.qkv_bias;
    ASSERT_EQ(bias.shape, (Shape{120}));
    const float* at = bias.ptr<float>();
    for (const char* part : {"q", "k", "v"}) {
      const SourceTensor* t =
          checkpoint.find(str("model.layers.", layer, ".self_attn.", part, "_proj.bias"));
      std::vector<float> want(static_cast<size_t>(t->shape[0]));
      to_f32(*t->dtype, t->data, want.data(), t->shape[0]);
      EXPECT_EQ(std::vector<float>(at, at + t->shape[0]), want) << part;
      at += t->shape[0];
    }
  }
  EXPECT_EQ(loaded.weights().lm_head.segments[0].data.data, loaded.weights().embed_tokens.data);
}

TEST(WeightLoader, NamesBiasesAndHeadsThatDoNotBelong) {
  TinyCheckpoint missing("qwen2");
  missing.erase("model.layers.1.self_attn.k_proj.bias");
  EXPECT_EQ(refusal(missing),
            "checkpoint: missing tensor model.layers.1.self_attn.k_proj.bias (computed from "
            "config.json)");
  TinyCheckpoint extra("llama-mha");
  extra.set("model.layers.0.self_attn.o_proj.bias", "BF16", {96}, std::string(192, '\0'));
  EXPECT_EQ(refusal(extra),
            "checkpoint: tensor \"model.layers.0.self_attn.o_proj.bias\" BF16 [96] does not belong "
            "to the model of config.json (file model.safetensors)");
  TinyCheckpoint shape("llama-gqa");
  misshape(shape, "model.layers.0.self_attn.k_proj.weight", "F16", {120, 120});
  EXPECT_EQ(refusal(shape),
            "model.layers.0.self_attn.k_proj.weight is F16 [120, 120], expected BF16, F16, F32 or "
            "F8_E4M3 [40, 120] (file model.safetensors)");
}

// Some files of a model whose head is its embedding carry the head all the same.
TEST(WeightLoader, ATiedHeadMayBeStoredAgain) {
  TinyCheckpoint copy("qwen2-tied");
  const SourceTensor embedding = *copy.find("model.embed_tokens.weight");
  copy.set("lm_head.weight", embedding.dtype_name, embedding.shape,
           std::string(static_cast<size_t>(tensor_bytes(embedding)), '\0'));
  Exec exec(Backend::kReference);
  EXPECT_EQ(LoadedWeights(exec, copy.config(), copy).weights().lm_head.segments.size(), 1u);
  misshape(copy, "lm_head.weight", embedding.dtype_name, {3, 5});
  EXPECT_EQ(refusal(copy).find("lm_head.weight is"), 0u) << refusal(copy);
}

TEST(WeightLoader, VectorsAreFinite) {
  TinyCheckpoint nan("v3-bf16");
  const std::string name = "model.layers.1.mlp.gate.e_score_correction_bias";
  const SourceTensor bias = *nan.find(name);
  ASSERT_EQ(bias.dtype_name, "F32");
  std::string bytes(static_cast<size_t>(tensor_bytes(bias)), '\0');
  bytes.replace(4, 4, std::string("\x00\x00\xc0\x7f", 4));
  nan.set(name, "F32", bias.shape, bytes);
  EXPECT_EQ(refusal(nan), name + "[1] is nan, expected a finite number (file model.safetensors)");
}

TEST(WeightLoader, NamesWhatDoesNotBelong) {
  TinyCheckpoint extra("v3-bf16");
  extra.set("model.layers.1.self_attn.q_proj.bias", "F32", {2}, std::string(8, '\0'));
  EXPECT_EQ(
      refusal(extra),
      "checkpoint: tensor \"model.layers.1.self_attn.q_proj.bias\" F32 [2] does not belong to "
      "the model of config.json (file model.safetensors)");

  // A scale beside a weight that is not FP8.
  TinyCheckpoint scale("v3-bf16");
  scale.set("lm_head.weight_scale_inv", "F32", {1, 1}, std::string(4, '\0'));
  EXPECT_EQ(refusal(scale),
            "checkpoint: tensor \"lm_head.weight_scale_inv\" F32 [1, 1] does not belong to the "
            "model of config.json (file model.safetensors)");
}

TEST(WeightLoader, IgnoresOldInvFreq) {
  TinyCheckpoint old("v3-bf16");
  old.set("model.layers.1.self_attn.rotary_emb.inv_freq", "F32", {1}, std::string(4, '\0'));
  Exec exec(Backend::kReference);
  const LoadedWeights loaded(exec, old.config(), old);
  EXPECT_EQ(loaded.weights().layers.size(), 4u);
}

TEST(WeightLoader, NamesWrongShapesAndTypes) {
  const struct {
    const char* name;
    const char* dtype;
    std::vector<int64_t> shape;
    const char* error;
  } cases[] = {
      {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
       "BF16",
       {55, 96},
       "model.layers.0.self_attn.kv_a_proj_with_mqa.weight is BF16 [55, 96], expected BF16, F16, "
       "F32 or F8_E4M3 [56, 96] (file model.safetensors)"},
      {"model.layers.0.self_attn.o_proj.weight",
       "BF16",
       {96 * 80},
       "model.layers.0.self_attn.o_proj.weight is BF16 [7680], expected BF16, F16, F32 or F8_E4M3 "
       "[96, 80] (file model.safetensors)"},
      {"model.norm.weight",
       "F8_E4M3",
       {96},
       "model.norm.weight is F8_E4M3 [96], expected BF16, F16 or F32 [96] (file "
       "model.safetensors)"},
      {"model.embed_tokens.weight",
       "F8_E4M3",
       {224, 96},
       "model.embed_tokens.weight is F8_E4M3 [224, 96], expected BF16, F16 or F32 [224, 96] (file "
       "model.safetensors)"},
      {"lm_head.weight",
       "F8_E8M0",
       {224, 96},
       "lm_head.weight is F8_E8M0 [224, 96], expected BF16, F16, F32 or F8_E4M3 [224, 96] (file "
       "model.safetensors)"},
      {"model.layers.1.mlp.experts.3.up_proj.weight",
       "F8_E4M3",
       {40, 96},
       "model.layers.1.mlp.experts.3.up_proj.weight is F8_E4M3 [40, 96] but config.json has no "
       "quantization_config"},
  };
  for (const auto& c : cases) {
    TinyCheckpoint checkpoint("v3-bf16");
    misshape(checkpoint, c.name, c.dtype, c.shape);
    EXPECT_EQ(refusal(checkpoint), c.error);
  }
}

constexpr char kRaggedScale[] = "model.layers.1.self_attn.kv_a_proj_with_mqa.weight_scale_inv";

TEST(WeightLoader, NamesWrongScales) {
  TinyCheckpoint missing("v3-fp8");
  missing.erase(kRaggedScale);
  EXPECT_EQ(refusal(missing),
            str("checkpoint: missing tensor ", kRaggedScale, " (computed from config.json)"));

  // 152 rows are two blocks, the second one short.
  TinyCheckpoint cut("v3-fp8");
  misshape(cut, kRaggedScale, "F32", {1, 2});
  EXPECT_EQ(refusal(cut), str(kRaggedScale,
                              " is F32 [1, 2], expected F32 or F8_E8M0 [2, 2] (152 x 208 in blocks "
                              "of 128 x 128; file model.safetensors)"));

  TinyCheckpoint type("v3-fp8");
  misshape(type, kRaggedScale, "BF16", {2, 2});
  EXPECT_EQ(refusal(type), str(kRaggedScale,
                               " is BF16 [2, 2], expected F32 or F8_E8M0 [2, 2] (152 x 208 in "
                               "blocks of 128 x 128; file model.safetensors)"));
}

TEST(WeightLoader, RefusesScalesThatAreNotNormalPositiveNumbers) {
  const struct {
    float value;
    const char* text;
  } cases[] = {{std::nanf(""), "nan"},
               {-std::nanf(""), "-nan"},
               {HUGE_VALF, "inf"},
               {-HUGE_VALF, "-inf"},
               {0.0f, "0"},
               {-0.0f, "-0"},
               {-1.5f, "-1.5"},
               {0x1p-127f, "5.87747e-39"}};
  for (const auto& c : cases) {
    TinyCheckpoint checkpoint("v3-fp8");
    std::string bytes = checkpoint.bytes(kRaggedScale);
    std::memcpy(&bytes[12], &c.value, 4);
    checkpoint.set(kRaggedScale, "F32", {2, 2}, bytes);
    EXPECT_EQ(refusal(checkpoint),
              str(kRaggedScale, "[1, 1] is ", c.text,
                  ", expected a normal positive number (file model.safetensors)"));
  }
}

TEST(WeightLoader, E8m0ScalesMayBeAnyPower) {
  const std::string name = "model.layers.0.mlp.up_proj.weight_scale_inv";  // 184 x 120 in 64 x 32
  TinyCheckpoint checkpoint("v3-fp8-ue8m0");
  std::string bytes = checkpoint.bytes(name);
  bytes[5] = 0;  // 2^-127
  checkpoint.set(name, "F8_E8M0", {3, 4}, bytes);
  {
    Exec exec(Backend::kReference);
    const LoadedWeights loaded(exec, checkpoint.config(), checkpoint);
  }
  bytes[5] = '\xff';
  checkpoint.set(name, "F8_E8M0", {3, 4}, bytes);
  EXPECT_EQ(refusal(checkpoint),
            name + "[1, 1] is nan, expected a normal positive number (file model.safetensors)");
}

TEST(WeightLoader, TheMtpLayerIsThereAsAWholeOrNotAtAll) {
  TinyCheckpoint part("v3-mtp");
  part.erase("model.layers.2.eh_proj.weight");
  EXPECT_EQ(refusal(part),
            "checkpoint: missing tensor model.layers.2.eh_proj.weight (computed from config.json)");

  TinyCheckpoint unannounced("v3-mtp");
  const ModelConfig config =
      parse_config(edited(unannounced.config_json(), "num_nextn_predict_layers", "0"), {});
  EXPECT_EQ(refusal(config, unannounced),
            "checkpoint: tensor \"model.layers.2.eh_proj.weight\" F16 [80, 160] does not belong to "
            "the model of config.json (file model.safetensors)");

  TinyCheckpoint none("v3-mtp");
  for (const std::string& name : none.names())
    if (name.starts_with("model.layers.2.")) none.erase(name);
  none.set("model.layers.2.self_attn.rotary_emb.inv_freq", "F32", {1}, std::string(4, '\0'));
  Exec exec(Backend::kReference);
  EXPECT_TRUE(LoadedWeights(exec, none.config(), none).weights().mtp.empty());
}

TEST(WeightLoader, VocabularyCopiesAreCheckedAndNotLoaded) {
  const std::string embed = "model.layers.2.embed_tokens.weight";
  const std::string head = "model.layers.2.shared_head.head.weight";
  const TinyCheckpoint with("v3-mtp");
  TinyCheckpoint without("v3-mtp");
  without.erase(embed);
  without.erase(head);
  Exec exec(Backend::kReference);
  const LoadedWeights a(exec, with.config(), with), b(exec, without.config(), without);
  EXPECT_EQ(a.source_bytes(), b.source_bytes());
  EXPECT_EQ(a.weights().mtp.size(), 1u);

  TinyCheckpoint wrong("v3-mtp");
  misshape(wrong, head, "F16", {191, 80});
  EXPECT_EQ(
      refusal(wrong),
      head + " is F16 [191, 80], expected BF16, F16 or F32 [192, 80] (file model.safetensors)");
}

TEST(WeightLoader, WidensVectorsAndLeavesMatricesInPlace) {
  const TinyCheckpoint checkpoint("v3-noqlora");  // f32 matrices, bf16 correction bias
  Exec exec(Backend::kReference);
  const LoadedWeights loaded(exec, checkpoint.config(), checkpoint);
  const ModelWeights& w = loaded.weights();
  EXPECT_EQ(w.embed_tokens.data, checkpoint.find("model.embed_tokens.weight")->data);
  EXPECT_EQ(w.layers[1].mla.kv_b_proj.segments[0].data.data,
            checkpoint.find("model.layers.1.self_attn.kv_b_proj.weight")->data);
  const std::string& bias = checkpoint.bytes("model.layers.1.mlp.gate.e_score_correction_bias");
  const Tensor& widened = w.layers[1].moe.e_score_correction_bias;
  ASSERT_EQ(widened.dtype, DType::kF32);
  for (int64_t e = 0; e < 8; ++e) {
    uint16_t bits = 0;
    std::memcpy(&bits, &bias[static_cast<size_t>(2 * e)], 2);
    EXPECT_EQ(widened.ptr<float>()[e], bf16_to_f32(bits));
  }
}

TEST(WeightLoader, RowsOfCodesThatNobodyLookedAtAreRemembered) {
  const TinyCheckpoint checkpoint("v3-fp8");
  Exec exec(Backend::kReference);
  const LoadedWeights loaded(exec, checkpoint.config(), checkpoint);
  const WeightSegment& kv_b = loaded.weights().layers[1].mla.kv_b_proj.segments[0];
  EXPECT_FALSE(kv_b.no_nan);
  ASSERT_NE(kv_b.nan_free, nullptr);
  EXPECT_FALSE(kv_b.nan_free->has(0, kv_b.data.shape[0]));
  EXPECT_EQ(loaded.weights().lm_head.segments[0].nan_free, nullptr);  // not of codes
  const ReadSource read(checkpoint);
  const LoadedWeights looked_at(exec, checkpoint.config(), read);
  EXPECT_TRUE(looked_at.weights().layers[1].mla.kv_b_proj.segments[0].no_nan);
  EXPECT_EQ(looked_at.weights().layers[1].mla.kv_b_proj.segments[0].nan_free, nullptr);
}

TEST(WeightLoader, TiedEmbeddingsAreTheHead) {
  TinyCheckpoint checkpoint("v3-bf16");
  checkpoint.erase("lm_head.weight");
  const ModelConfig config =
      parse_config(edited(checkpoint.config_json(), "tie_word_embeddings", "true"), {});
  Exec exec(Backend::kReference);
  const LoadedWeights loaded(exec, config, checkpoint);
  ASSERT_EQ(loaded.weights().lm_head.segments.size(), 1u);
  EXPECT_EQ(loaded.weights().lm_head.segments[0].data.data, loaded.weights().embed_tokens.data);
}

TEST(WeightLoader, DryRunCountsWhatLoadingTakes) {
  const TinyCheckpoint checkpoint("v3-fp8");
  Exec exec(Backend::kReference), dry(Backend::kReference, true);
  const LoadedWeights loaded(exec, checkpoint.config(), checkpoint);
  const LoadedWeights planned(dry, checkpoint.config(), checkpoint);
  EXPECT_GT(exec.memory().bytes(MemoryKind::kWeights), 0);
  EXPECT_EQ(exec.memory().bytes(MemoryKind::kWeights), dry.memory().bytes(MemoryKind::kWeights));
  EXPECT_EQ(loaded.source_bytes(), planned.source_bytes());
}

}  // namespace
}  // namespace dsr::test
