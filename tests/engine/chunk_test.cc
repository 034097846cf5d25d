// How much of a prompt a step takes where nobody said it.
#include <gtest/gtest.h>

#include "deepseek_run/engine.h"
#include "device/cuda_context.h"
#include "support/json_edit.h"
#include "support/temp_dir.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

struct Setting {
  const char* device;
  int64_t chunk;
};

class DefaultChunk : public testing::TestWithParam<Setting> {};

TEST_P(DefaultChunk, IsTheDevices) {
  const auto& [device, chunk] = GetParam();
  if (std::string(device) == "cuda" && cuda_devices().empty()) GTEST_SKIP() << cuda_absence();
  TinySpec spec = TinySpec::load("llama-mha");
  spec.config = edited(spec.config, "max_position_embeddings", "4096");
  const TempDir dir;
  TinyCheckpoint(spec).write(dir.path());
  for (const int64_t more : {0, 1}) {
    const auto engine = Engine::create({.model_dir = dir.path(), .device = device, .warn = {}});
    Request r;
    r.prompt.assign(static_cast<size_t>(chunk + more), 1);
    r.max_new_tokens = 1;
    engine->submit(r);
    while (!engine->idle()) engine->step();
    EXPECT_EQ(engine->stats().steps, 1 + more);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, DefaultChunk,
                         testing::Values(Setting{"cpu", 512}, Setting{"cuda", 2048}),
                         [](const auto& i) { return std::string(i.param.device); });

}  // namespace
}  // namespace dsr::test
