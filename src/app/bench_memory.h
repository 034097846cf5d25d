// Memory by batch size and sequence length, in the layout of the DeepSeek LLM README.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "deepseek_run/bench.h"

namespace dsr {

struct MemoryCell {
  int64_t planned_bytes = 0;
  bool fits = false;
  // Taken while every sequence was at its length: of a GPU's memory; on the host the most that was
  // resident of the process, program and touched weights included.
  std::optional<int64_t> measured_bytes = {};
};

struct MemoryTable {
  std::string model, architecture, weights, cache_type;
  std::string device;       // "cpu", or "1 x A100-40" where it is only planned
  int64_t limit_bytes = 0;  // what is available; of a GPU that was named 95 % of its memory
  std::vector<int64_t> batches, lengths;
  // [batch][length]; none: longer than the model's context.
  std::vector<std::vector<std::optional<MemoryCell>>> cells = {};
};

inline const std::vector<int64_t> kTableBatches = {1, 2, 4, 8, 16};
inline const std::vector<int64_t> kTableLengths = {256, 512, 1024, 2048, 4096};

// nullopt where keep_going ended it.
std::optional<MemoryTable> memory_table(const BenchOptions& options);
std::string memory_table_text(const MemoryTable& table, BenchFormat format);

}  // namespace dsr
