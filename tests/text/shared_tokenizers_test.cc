// The vocabularies of released checkpoints, where ../shared has them.
#include <gtest/gtest.h>

#include <map>
#include <sstream>

#include "base/mapped_file.h"
#include "text/golden_corpus.h"
#include "text/pre_tokenizer.h"
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

std::string short_name(const testing::TestParamInfo<const char*>& info) {
  return std::string(info.param).substr(std::string("deepseek-").size());
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
                         short_name);

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
                         short_name);

class Corpora : public testing::TestWithParam<const char*> {};

// 3.4 million texts, 32 MB, with hashes of the ids that Hugging Face `tokenizers` gives.
TEST_P(Corpora, GiveTheIdsOfHuggingFace) {
  if (!test::has_shared_tokenizer(GetParam()))
    GTEST_SKIP() << "no ../shared/tokenizers/" << GetParam();
  const auto t = Tokenizer::load(test::shared_tokenizer(GetParam()));
  test::for_each_golden_block([&](const Json& golden, const test::Corpus::Texts& texts) {
    test::CorpusHash hash;
    for (const std::string& text : texts) {
      const Ids ids = t->encode(text);
      for (const TokenId id : ids) hash.add_number(static_cast<uint32_t>(id));
      hash.end_of_text();
      ASSERT_EQ(t->decode(ids), text);
    }
    EXPECT_EQ(hash.finish(), golden.find("ids")->find(GetParam())->as_string())
        << golden.find("name")->as_string() << "; scripts/check_tokenizers.py shows where";
  });
}

// What Hugging Face makes of ids that no text gave.
TEST_P(Corpora, DecodeAnyIds) {
  if (!test::has_shared_tokenizer(GetParam()))
    GTEST_SKIP() << "no ../shared/tokenizers/" << GetParam();
  const auto t = Tokenizer::load(test::shared_tokenizer(GetParam()));
  const Json& golden = *test::goldens().find("decoded")->find(GetParam());
  const auto limit = static_cast<size_t>(golden.find("limit")->as_int());
  test::CorpusRandom random(7);
  test::CorpusHash hash;
  for (int row = 0; row < 20'000; ++row) {
    StreamDecoder decoder(*t);
    std::string text;
    for (size_t n = 1 + random.below(12); n > 0; --n)
      text += decoder.push(static_cast<TokenId>(random.below(limit)));
    hash.add_text(text + decoder.finish());
  }
  EXPECT_EQ(hash.finish(), golden.find("hash")->as_string());
}

INSTANTIATE_TEST_SUITE_P(Shared, Corpora,
                         testing::Values("deepseek-v3", "deepseek-r1", "deepseek-llm",
                                         "deepseek-coder"),
                         short_name);

// Of Qwen2 and Llama 3 only texts and ids are known, not the vocabulary. Whatever it is, a piece
// has the same ids wherever it stands, so that the ids of a text are those of its pieces in a row:
// a wrong border shows as a piece that would need two lists of ids.
class PieceBorders : public testing::TestWithParam<std::pair<const char*, const char*>> {};

class PieceIds {
 public:
  // False if what is known of the pieces contradicts the ids. Learns the ids of the one piece that
  // is not known, if there is only one.
  bool add(const std::vector<std::string>& pieces, Ids ids) {
    size_t begin = 0, end = pieces.size();
    while (begin < end && known_.contains(pieces[begin])) {
      const Ids& first = known_[pieces[begin++]];
      if (!std::equal(first.begin(), first.end(), ids.begin(),
                      ids.begin() + std::min(std::ssize(first), std::ssize(ids))))
        return false;
      ids.erase(ids.begin(), ids.begin() + std::ssize(first));
    }
    while (begin < end && known_.contains(pieces[end - 1])) {
      const Ids& last = known_[pieces[--end]];
      if (last.size() > ids.size() || !std::equal(last.rbegin(), last.rend(), ids.rbegin()))
        return false;
      ids.resize(ids.size() - last.size());
    }
    if (begin == end) return ids.empty();
    const size_t bytes = total(pieces, begin, end);
    if (ids.size() < end - begin || ids.size() > bytes) return false;
    if (end - begin == 1) known_[pieces[begin]] = ids;
    return true;
  }
  size_t size() const { return known_.size(); }

 private:
  static size_t total(const std::vector<std::string>& pieces, size_t begin, size_t end) {
    size_t bytes = 0;
    for (size_t i = begin; i < end; ++i) bytes += pieces[i].size();
    return bytes;
  }
  std::map<std::string, Ids> known_;
};

TEST_P(PieceBorders, FitThePublishedIds) {
  const auto [directory, shape] = GetParam();
  const std::string name = directory == std::string("llama3-base") ? "llama-bpe" : directory;
  const std::string base = test::shared_tokenizer(directory) + "/ggml-vocab-" + name + ".gguf";
  if (!std::filesystem::exists(base + ".inp")) GTEST_SKIP() << "no " << base << ".inp";
  const auto texts = split_at(read_file(base + ".inp", 1 << 20), "\n__ggml_vocab_test__\n");
  const auto lines = split_at(read_file(base + ".out", 1 << 20), "\n");
  ASSERT_GE(lines.size(), texts.size());
  const PreTokenizer splitter(*test::goldens().find("pre_tokenizers")->find(shape), shape);
  PieceIds known;
  for (size_t round = 0, before = 1; known.size() != before; ++round) {
    before = round == 0 ? 1 : known.size();
    for (size_t i = 0; i < texts.size(); ++i) {
      std::vector<std::string> pieces;
      splitter.split(texts[i], [&](std::string_view piece) { pieces.emplace_back(piece); });
      EXPECT_TRUE(known.add(pieces, parse_ids(lines[i]))) << quoted(texts[i]);
    }
    if (round > 100) break;
  }
  EXPECT_GE(known.size(), 20u);
}

INSTANTIATE_TEST_SUITE_P(Shared, PieceBorders,
                         testing::Values(std::pair("llama3-base", "llama3"),
                                         std::pair("qwen2", "qwen2"),
                                         std::pair("deepseek-r1-qwen", "qwen2")),
                         [](const auto& row) {
                           std::string name = row.param.first;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

// Thirteen letters of the 100k vocabulary exist as added tokens only. (models.md 12.3 gives three
// tokens for this word; Hugging Face gives four: no merge makes "hrer".)
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
