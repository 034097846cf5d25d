// The vocabularies of released checkpoints, where ../shared has them.
#include <gtest/gtest.h>

#include <sstream>

#include "base/mapped_file.h"
#include "text/text_fixture.h"

namespace dsr {
namespace {

using Ids = std::vector<TokenId>;

std::vector<std::string> split_at(const std::string& text, const std::string& separator) {
  std::vector<std::string> out;
  size_t begin = 0;
  for (size_t at; (at = text.find(separator, begin)) != text.npos; begin = at + separator.size())
    out.push_back(text.substr(begin, at - begin));
  out.push_back(text.substr(begin));
  return out;
}

Ids parse_ids(const std::string& line) {
  std::istringstream in(line);
  Ids ids;
  for (TokenId id; in >> id;) ids.push_back(id);
  return ids;
}

class VocabularyCases : public testing::TestWithParam<const char*> {};

// 47 texts with their ids, from the project that published the vocabularies.
TEST_P(VocabularyCases, GiveThePublishedIds) {
  if (!test::has_shared_tokenizer(GetParam()))
    GTEST_SKIP() << "no ../shared/tokenizers/" << GetParam();
  const auto t = Tokenizer::load(test::shared_tokenizer(GetParam()));
  const std::string base =
      test::shared_tokenizer(GetParam()) + "/ggml-vocab-" + GetParam() + ".gguf";
  const auto texts = split_at(read_file(base + ".inp", 1 << 20), "\n__ggml_vocab_test__\n");
  const auto lines = split_at(read_file(base + ".out", 1 << 20), "\n");
  ASSERT_EQ(texts.size(), 47u);
  ASSERT_GE(lines.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const Ids ids = t->encode(texts[i]);
    EXPECT_EQ(ids, parse_ids(lines[i])) << quoted(texts[i]);
    EXPECT_EQ(t->decode(ids), texts[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(Shared, VocabularyCases, testing::Values("deepseek-llm", "deepseek-coder"),
                         [](const auto& name) {
                           return std::string(name.param) == "deepseek-llm" ? "llm" : "coder";
                         });

class Vectors : public testing::TestWithParam<const char*> {};

TEST_P(Vectors, Hold) {
  if (!test::has_shared_tokenizer(GetParam()))
    GTEST_SKIP() << "no ../shared/tokenizers/" << GetParam();
  const auto t = Tokenizer::load(test::shared_tokenizer(GetParam()));
  const std::string path = test::shared_tokenizer(GetParam()) + "/test_vectors.json";
  const Json json = parse_json(read_file(path, 1 << 20), path);
  int count = 0;
  for (const char* group : {"public", "derived"}) {
    for (const Json& v : json.find(group)->as_array()) {
      Ids expected;
      for (const Json& id : v.find("ids")->as_array())
        expected.push_back(static_cast<TokenId>(id.as_int()));
      const std::string& text = v.find("text")->as_string();
      EXPECT_EQ(t->encode(text), expected) << quoted(text);
      EXPECT_EQ(t->decode(expected), text);
      ++count;
    }
  }
  EXPECT_GE(count, 10);
  EXPECT_TRUE(t->add_bos());
  EXPECT_EQ(t->bos_id(), 0);
  EXPECT_EQ(t->eos_id(), 1);
  EXPECT_EQ(t->id_limit(), 128815);
}

INSTANTIATE_TEST_SUITE_P(Shared, Vectors, testing::Values("deepseek-v3", "deepseek-r1"),
                         [](const auto& name) { return std::string(name.param).substr(9); });

// Thirteen letters of the 100k vocabulary exist as added tokens only (models.md 12.3).
TEST(SharedTokenizers, LettersThatAreAddedTokens) {
  if (!test::has_shared_tokenizer("deepseek-llm"))
    GTEST_SKIP() << "no ../shared/tokenizers/deepseek-llm";
  const auto t = Tokenizer::load(test::shared_tokenizer("deepseek-llm"));
  const std::string text = "F\u00fchrer";
  const Ids ids = t->encode(text);
  EXPECT_EQ(ids, (Ids{37, 100014, 71, 6245}));
  EXPECT_EQ(t->decode(ids), text);
  const ByteRange all[] = {{0, std::ssize(text)}};
  EXPECT_EQ(t->encode(text, all), ids);
  EXPECT_THROW(t->encode_bytes("\xff"), Error);  // such bytes have no token at all
}

}  // namespace
}  // namespace dsr
