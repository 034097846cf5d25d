// bench --memory-table: what is planned, what is measured beside it, and the layout.
#include "app/bench_memory.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "support/cards.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

BenchOptions of_card(const char* card, const char* gpus) {
  BenchOptions o;
  o.engine.random = RandomModel{.card = card_path(card), .weights = ""};
  o.memory_table = o.planned_only = true;
  o.gpus = gpus;
  return o;
}

// LLM 7B: 491,520 bytes of keys and values per token in bf16; weights and allowance are the same in
// every cell.
TEST(BenchMemoryTest, CellsOfACardDifferByTheirKeys) {
  const MemoryTable t = *memory_table(of_card("deepseek-llm-7b", "A100-40"));
  EXPECT_EQ(t.device, "1 x A100-40");
  EXPECT_EQ(t.cache_type, "bf16");
  ASSERT_EQ(t.cells.size(), 5u);
  const int64_t fixed = t.cells[0][0]->planned_bytes - 256 * 491520;
  EXPECT_GT(fixed, int64_t{13'820'000'000});  // the weights are 13.8 GB
  for (size_t b = 0; b < 5; ++b)
    for (size_t l = 0; l < 5; ++l) {
      const MemoryCell& cell = *t.cells[b][l];
      EXPECT_EQ(cell.planned_bytes, fixed + t.batches[b] * t.lengths[l] * 491520);
      EXPECT_EQ(cell.fits, cell.planned_bytes <= (int64_t{40} << 30) / 20 * 19);
      EXPECT_FALSE(cell.measured_bytes);
    }
  EXPECT_FALSE(t.cells[4][4]->fits);
  EXPECT_TRUE(t.cells[3][4]->fits);
}

TEST(BenchMemoryTest, TheLayoutIsThatOfTheReadme) {
  MemoryTable t{.model = "m",
                .architecture = "A",
                .weights = "bf16",
                .cache_type = "f32",
                .device = "cpu",
                .limit_bytes = 40'000'000'000,
                .batches = {1, 16},
                .lengths = {256, 4096}};
  t.cells = {
      {MemoryCell{.planned_bytes = 13'290'000'000, .fits = true, .measured_bytes = 99'000'000},
       std::nullopt},
      {MemoryCell{.planned_bytes = 1'234'000, .fits = true},
       MemoryCell{.planned_bytes = 50'000'000'000}}};
  EXPECT_EQ(memory_table_text(t, BenchFormat::kMarkdown),
            "m, A, bf16 weights, cache f32; device cpu, 40.00 GB available\n"
            "Peak memory by batch size and sequence length, planned / resident of the whole "
            "process\n\n"
            "| batch size | 256 | 4096 |\n"
            "|---|---:|---:|\n"
            "| 1 | 13.29 GB / 99.00 MB | - |\n"
            "| 16 | 1.23 MB | OOM |\n");
  EXPECT_EQ(memory_table_text(t, BenchFormat::kCsv),
            "batch,sequence length,planned,measured,fits\n"
            "1,256,13290000000,99000000,true\n"
            "16,256,1234000,,true\n"
            "16,4096,50000000000,,false\n");
  const Json json = parse_json(memory_table_text(t, BenchFormat::kJson), "table");
  ASSERT_EQ(json.find("cells")->as_array().size(), 3u);
  EXPECT_EQ(json.find("cells")->as_array()[2].find("sequence_length")->as_int(), 4096);
  EXPECT_EQ(json.find("limit_bytes")->as_int(), 40'000'000'000);
}

TEST(BenchMemoryTest, MeasuresWhatItPlanned) {
  const TempDir dir;
  const TinyCheckpoint tiny("v3-fp8");
  tiny.write(dir.string());
  BenchOptions o;
  o.engine.model_dir = dir.string();
  o.engine.device = "cpu";
  o.engine.cache_type = "bf16";
  o.memory_table = true;
  o.batches = {1, 3};
  const MemoryTable t = *memory_table(o);
  ASSERT_EQ(t.cells.size(), 2u);
  for (size_t b = 0; b < 2; ++b)
    for (size_t l = 0; l < t.lengths.size(); ++l) {
      const std::optional<MemoryCell>& cell = t.cells[b][l];
      ASSERT_EQ(cell.has_value(), t.lengths[l] <= tiny.config().max_position_embeddings);
      if (!cell) continue;
      EngineOptions e = o.engine;
      e.max_seqs = t.batches[b];
      e.ctx_size = t.lengths[l];
      EXPECT_EQ(cell->planned_bytes, Engine::create(e)->plan().total_bytes());
      ASSERT_TRUE(cell->measured_bytes);
      EXPECT_GT(*cell->measured_bytes, cell->planned_bytes / 2);
    }
  int cells = 0;
  o.keep_going = [&] { return ++cells < 2; };
  EXPECT_FALSE(memory_table(o));
  o.keep_going = {};
  o.compare = "x";
  EXPECT_EQ(error_of([&] { run_bench(o); }, ErrorKind::kUsage),
            "--memory-table has nothing to --compare");
}

}  // namespace
}  // namespace dsr::test
