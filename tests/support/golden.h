// What transformers says of a tiny checkpoint: tests/data/goldens/NAME.safetensors, written by
// scripts/make_goldens.py.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "device/exec.h"
#include "io/safetensors.h"

namespace dsr::test {

// tests/data/goldens.
inline const std::vector<std::string> kMlaGoldens = {
    "v2",     "v2-lite",       "v2.5",         "kimi",       "v3-bf16",
    "v3-fp8", "v3-fp8-blocks", "v3-fp8-ue8m0", "v3-noqlora", "v3-mtp"};
inline const std::vector<std::string> kGqaGoldens = {"llama-mha",    "llama-gqa",   "llama-linear",
                                                     "llama-llama3", "qwen2",       "qwen2-tied",
                                                     "qwen2-yarn",   "deepseek-moe"};
inline std::vector<std::string> all_goldens() {
  std::vector<std::string> out = kMlaGoldens;
  out.insert(out.end(), kGqaGoldens.begin(), kGqaGoldens.end());
  return out;
}
// A golden's name as a part of a test's.
inline std::string test_name(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  for (char& c : name)
    if (c == '-' || c == '.') c = '_';
  return name;
}

// A golden on a backend: for tests that hold on reference and cpu alike.
struct GoldenOn {
  std::string name;
  Backend backend;
};
inline std::vector<GoldenOn> all_goldens_on_hosts() {
  std::vector<GoldenOn> out;
  for (const std::string& golden : all_goldens())
    for (const Backend backend : {Backend::kReference, Backend::kCpu})
      out.push_back({golden, backend});
  return out;
}
inline std::string host_test_name(const testing::TestParamInfo<GoldenOn>& info) {
  return test_name({info.param.name, 0}) + "_" + name(info.param.backend);
}

struct Golden {
  std::vector<int32_t> input_ids;  // a prompt, then tokens chosen greedily
  int64_t prompt_tokens = 0;
  std::vector<float> logits;      // [input_ids, V], every position
  std::vector<float> mtp_logits;  // [input_ids - 1, V], or empty
  std::string weights_digest;     // of the weights they were made with, in hexadecimal

  static Golden load(const std::string& name) {
    const SafetensorsFile file =
        SafetensorsFile::open(DSR_SOURCE_DIR "/tests/data/goldens/" + name + ".safetensors");
    Golden g;
    for (const StoredTensor& t : file.tensors()) {
      if (t.name == "input_ids") copy(t, g.input_ids);
      if (t.name == "logits") copy(t, g.logits);
      if (t.name == "mtp_logits") copy(t, g.mtp_logits);
    }
    for (const auto& [key, value] : file.metadata()) {
      if (key == "prompt_tokens") g.prompt_tokens = std::stoll(value);
      if (key == "weights_digest") g.weights_digest = value;
    }
    return g;
  }

 private:
  template <typename T>
  static void copy(const StoredTensor& t, std::vector<T>& out) {
    out.resize(static_cast<size_t>(t.size_bytes) / sizeof(T));
    std::memcpy(out.data(), t.tensor.data, static_cast<size_t>(t.size_bytes));
  }
};

// Squared distance over squared size of one row.
inline double nmse(const float* got, const float* want, int64_t n) {
  double error = 0, size = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double w = static_cast<double>(want[i]), d = static_cast<double>(got[i]) - w;
    error += d * d;
    size += w * w;
  }
  return error / size;
}

}  // namespace dsr::test
