// Logits to a file.
#pragma once

#include <span>
#include <string>

#include "deepseek_run/engine.h"

namespace dsr {

// Writes float32 [ids.size(), vocab_size] in NumPy's .npy format, version 1.0, little-endian: row i
// holds the logits after ids[0..i]. The file appears whole or not at all ("-" is standard output).
// Throws Error(kOutput) if it cannot be written.
void write_logits_npy(Engine& engine, std::span<const TokenId> ids, const std::string& path);

}  // namespace dsr
