#include "deepseek_run/inspect.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/tiny_checkpoint.h"

namespace dsr {
namespace {

class InspectTest : public testing::Test {
 protected:
  Json report(const std::string& name) {
    test::TinyCheckpoint checkpoint(name);
    checkpoint.write(directory_.string());
    names_ = checkpoint.names();
    return parse_json(inspect_json(directory_.string(), {}), "report");
  }
  static int64_t number(const Json& json, std::initializer_list<const char*> path) {
    const Json* at = &json;
    for (const char* key : path) at = at->find(key);
    return at->as_int();
  }

  const test::TempDir directory_;
  std::vector<std::string> names_;
};

TEST_F(InspectTest, EveryTensorHasAPart) {
  for (const char* name : {"v3-bf16", "v3-fp8", "v3-fp8-ue8m0", "v3-mtp", "v3-noqlora"}) {
    const Json json = report(name);
    int64_t tensors = 0, bytes = 0, by_pattern = 0;
    for (const auto& [part, size] : json.find("parts")->as_object().members) {
      tensors += number(size, {"tensors"});
      bytes += number(size, {"bytes"});
    }
    for (const Json& row : json.find("tensors")->as_array()) by_pattern += number(row, {"bytes"});
    EXPECT_EQ(tensors, std::ssize(names_)) << name;
    EXPECT_EQ(tensors, number(json, {"total", "tensors"})) << name;
    EXPECT_EQ(bytes, number(json, {"total", "bytes"})) << name;
    EXPECT_EQ(bytes, by_pattern) << name;
    EXPECT_EQ(json.find("parts")->find("other"), nullptr) << name;
  }
}

TEST_F(InspectTest, PartsOfAKnownShape) {
  const Json json = report("v3-bf16");  // D 96, V 224, 4 layers, 16 experts of width 40
  EXPECT_EQ(number(json, {"parts", "embedding", "parameters"}), 224 * 96);
  EXPECT_EQ(number(json, {"parts", "head", "parameters"}), 224 * 96);
  EXPECT_EQ(number(json, {"parts", "dense", "parameters"}), 3 * 160 * 96);
  const int64_t experts = 3 * 16 * 3 * 40 * 96;
  EXPECT_EQ(number(json, {"parts", "experts", "parameters"}), experts);
  EXPECT_EQ(number(json, {"parts", "shared experts", "parameters"}), experts / 16);
  EXPECT_EQ(number(json, {"parts", "router", "parameters"}), 3 * (16 * 96 + 16));
  EXPECT_EQ(number(json, {"active_parameters"}),
            number(json, {"total", "parameters"}) - 224 * 96 - experts + experts / 16 * 4);
  EXPECT_EQ(number(json, {"kv_bytes_per_token", "f32"}), 4 * 4 * (40 + 16));
  EXPECT_TRUE(json.find("quantisation")->is_null());
}

TEST_F(InspectTest, ScalesAreNoParameters) {
  const Json json = report("v3-fp8");
  EXPECT_EQ(number(json, {"parts", "scales", "parameters"}), 0);
  EXPECT_GT(number(json, {"parts", "scales", "bytes"}), 0);
  EXPECT_EQ(json.find("quantisation")->find("format")->as_string(), "f8_e4m3");
}

TEST_F(InspectTest, TheMtpLayerIsApart) {
  const Json json = report("v3-mtp");
  EXPECT_GT(number(json, {"parts", "mtp", "parameters"}), 0);
  EXPECT_EQ(number(json, {"num_nextn_predict_layers"}), 1);
  const std::string text = inspect_text(directory_.string(), {});
  EXPECT_NE(text.find("+ 1 for multi-token prediction\n"), text.npos) << text;
}

TEST_F(InspectTest, DamageIsRefusedAsLoadingRefusesIt) {
  test::TinyCheckpoint checkpoint("v3-bf16");
  checkpoint.erase("model.norm.weight");
  checkpoint.write(directory_.string());
  EXPECT_EQ(test::error_of([&] { inspect_text(directory_.string(), {}); }),
            "checkpoint: missing tensor model.norm.weight (computed from config.json)");
}

TEST_F(InspectTest, SamplingDefaults) {
  std::string warned;
  const auto sampling = [&](const std::string& text) {
    if (!text.empty()) directory_.write("generation_config.json", text);
    warned.clear();
    return checkpoint_sampling(directory_.string(),
                               [&](const std::string& line) { warned = line; });
  };
  using Keys = std::vector<std::string>;
  EXPECT_EQ(sampling("").params, SamplingParams());
  SamplingDefaults found =
      sampling(R"({"temperature": 0.25, "top_k": 5, "do_sample": true, "eos_token_id": 1})");
  EXPECT_EQ(found.params.temperature, 0.25);
  EXPECT_EQ(found.params.top_k, 5);
  EXPECT_EQ(found.keys, (Keys{"temperature", "top_k"}));
  found = sampling(R"({"do_sample": false, "top_p": null})");
  EXPECT_EQ(found.params.temperature, 0);
  EXPECT_EQ(found.keys, Keys{"do_sample"});
  EXPECT_EQ(warned, "");
  for (const char* bad : {"[]", "{", R"({"temperature": -1, "top_k": 5})"}) {
    found = sampling(bad);
    EXPECT_EQ(found.params, SamplingParams()) << bad;
    EXPECT_EQ(found.keys, Keys{}) << bad;
    EXPECT_NE(warned, "") << bad;
  }
}

TEST_F(InspectTest, Architecture) {
  report("v3-bf16");
  EXPECT_EQ(checkpoint_architecture(directory_.string()), "DeepseekV3ForCausalLM");
  const auto error = [&] {
    return test::error_of([&] { checkpoint_architecture(directory_.string()); });
  };
  test::write_file(directory_.file("config.json"), "[]");
  EXPECT_EQ(error(), "config.json: expected a JSON object, found array");
  test::write_file(directory_.file("config.json"), "{}");
  EXPECT_NE(error().find("architectures"), std::string::npos);
  std::filesystem::remove(directory_.file("config.json"));
  EXPECT_EQ(error(), directory_.string() + ": has no config.json, expected a model directory");
}

}  // namespace
}  // namespace dsr
