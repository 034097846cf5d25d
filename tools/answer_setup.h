// What the commands that run a model start with alike.
#pragma once

#include <cstdint>
#include <string>

#include "deepseek_run/engine.h"
#include "tools/options.h"

namespace dsr {

// What the flags say of the engine; `tokenizer` may be null.
EngineOptions engine_options(const Options& options, const std::string& model_dir,
                             const Tokenizer* tokenizer);

uint64_t random_bits();
// Below 2^53: every reader of JSON takes it exactly.
uint64_t random_seed();

// Throws Error(kUsage) for sampling that is out of range, before a model is looked at.
void check_sampling(const Options& options);

}  // namespace dsr
