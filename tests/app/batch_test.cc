// batch: pieces of a file, the order of the records, and what that order is worth.
#include "deepseek_run/batch.h"

#include <gtest/gtest.h>

#include <fstream>

#include "app/batch_plan.h"
#include "base/error.h"
#include "base/json.h"
#include "support/temp_dir.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

std::vector<std::pair<std::string, int64_t>> pieces(std::string_view file, BatchSplit split) {
  std::vector<std::pair<std::string, int64_t>> out;
  for (const BatchPiece& p : split_batch(file, split)) out.emplace_back(p.text, p.line);
  return out;
}

TEST(BatchInputTest, SplitsLinesAndParagraphs) {
  using Pieces = std::vector<std::pair<std::string, int64_t>>;
  EXPECT_EQ(pieces("", BatchSplit::kJsonl), Pieces{});
  EXPECT_EQ(pieces("\xef\xbb\xbf"
                   "a\r\n\n \t\r\nb",
                   BatchSplit::kJsonl),
            (Pieces{{"a", 1}, {"b", 4}}));
  EXPECT_EQ(pieces("a\nb\n", BatchSplit::kLine), (Pieces{{"a", 1}, {"b", 2}}));
  EXPECT_EQ(pieces("\na\nb\n\n\n  \nc\n", BatchSplit::kBlank), (Pieces{{"a\nb", 2}, {"c", 7}}));
}

TEST(BatchInputTest, SeedsAreFixedAndApart) {
  EXPECT_EQ(seed_of(0, "a"), seed_of(0, "a"));
  EXPECT_NE(seed_of(0, "a"), seed_of(0, "b"));
  EXPECT_NE(seed_of(0, "a"), seed_of(1, "a"));
  EXPECT_LT(seed_of(0, "a"), uint64_t{1} << 53);
}

BatchItem item(int64_t prompt_tokens, int64_t max_new_tokens, uint64_t prefix) {
  BatchItem out;
  out.prompt_tokens = prompt_tokens;
  out.max_new_tokens = max_new_tokens;
  out.prefix = prefix;
  return out;
}

TEST(BatchPlanTest, PrefixesTogetherAndLongOnesFirst) {
  const std::vector<BatchItem> items = {item(10, 10, 1), item(80, 5, 2),  item(10, 500, 3),
                                        item(90, 50, 2), item(10, -1, 4), item(10, 10, 5)};
  std::vector<const BatchItem*> order;
  for (const BatchItem& i : items) order.push_back(&i);
  std::vector<size_t> got;
  for (const BatchItem* i : fastest_order(order, 1000))
    got.push_back(static_cast<size_t>(i - items.data()));
  EXPECT_EQ(got, (std::vector<size_t>{4, 2, 3, 1, 0, 5}));
  EXPECT_EQ(longest_tokens(items), 510);
}

TEST(BatchPlanTest, TimeLeftCountsWhatIsUnderWay) {
  const std::vector<BatchItem> items(4, item(10, 90, 1));
  std::vector<const BatchItem*> all;
  for (const BatchItem& i : items) all.push_back(&i);
  EXPECT_EQ(seconds_left(all, {.seconds = 5}), 0) << "nothing is known";
  // A quarter of all has been done, and none has ended: answers may be 90 tokens long.
  EXPECT_DOUBLE_EQ(seconds_left(all, {.seconds = 5, .running_work = 100}), 15);
  // One has ended after 40 tokens: three of 50 are left, of which 50 tokens are done.
  const std::vector<const BatchItem*> three(all.begin(), all.begin() + 3);
  BatchPace pace = {.seconds = 5, .ended_answers = 1, .ended_tokens = 40, .ended_work = 50};
  pace.running_work = 50;
  EXPECT_DOUBLE_EQ(seconds_left(three, pace), 5);
  // Two answers of a record without a limit, as long as the one that ended.
  BatchItem open = item(10, -1, 1);
  open.n = 2;
  EXPECT_DOUBLE_EQ(seconds_left({&open}, pace), 5.0 * (90 - 50) / 100);
  EXPECT_EQ(seconds_left({&open}, {.seconds = 5, .running_work = 100}), 0) << "how long is unknown";
}

// Twelve questions about each of six long texts, all mixed up, in a cache that holds two texts.
TEST(BatchRunTest, TheOrderSavesComputationAndChangesNoAnswer) {
  const TempDir dir;
  const TinyCheckpoint checkpoint("v3-bf16");
  checkpoint.write(dir.string());
  const std::string input = dir.string() + "/in.jsonl";
  std::ofstream file(input);
  for (int question = 0; question < 12; ++question)
    for (int text = 0; text < 6; ++text) {
      Json ids = Json::array();
      for (int i = 0; i < 100; ++i) ids.push_back(i < 90 ? 1 + (text * 31 + i) % 90 : question + 1);
      file << Json::object().set("prompt", std::move(ids)).set("max_tokens", 4 + question).dump()
           << "\n";
    }
  file.close();
  const auto run = [&](bool in_file_order) {
    BatchOptions o;
    o.input = input;
    o.output = str(dir.string(), "/out", in_file_order ? 1 : 0);
    o.engine.model_dir = dir.string();
    o.engine.max_seqs = 2;
    o.ordered = true;
    o.in_file_order = in_file_order;
    const BatchResult result = run_batch(o);
    EXPECT_EQ(result.progress.done, 72);
    std::ifstream out(o.output);
    return std::pair(std::string(std::istreambuf_iterator<char>(out), {}),
                     result.stats.prompt_tokens_computed);
  };
  const auto [mixed_text, mixed_tokens] = run(true);
  const auto [text, tokens] = run(false);
  EXPECT_EQ(text, mixed_text);
  EXPECT_EQ(tokens, 6 * 100 + 66 * 36) << "each text's first block once";
  EXPECT_GT(mixed_tokens, 2 * tokens);
}

}  // namespace
}  // namespace dsr::test
