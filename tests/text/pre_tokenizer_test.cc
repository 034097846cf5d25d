#include "text/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <ctime>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/utf8.h"
#include "text/golden_corpus.h"

namespace dsr {
namespace {

using test::goldens;

PreTokenizer golden_shape(const std::string& name) {
  return PreTokenizer(*goldens().find("pre_tokenizers")->find(name), name);
}

std::vector<std::string> pieces_of(const PreTokenizer& p, std::string_view text) {
  std::vector<std::string> out;
  p.split(text, [&](std::string_view piece) { out.emplace_back(piece); });
  return out;
}

std::string error_of(const std::string& json) {
  try {
    PreTokenizer(parse_json(json, "test"), "pre_tokenizer");
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kModel);
    return e.what();
  }
  return "no error";
}

std::vector<std::string> shape_names() {
  std::vector<std::string> out;
  for (const auto& [name, shape] : goldens().find("pre_tokenizers")->as_object().members)
    out.push_back(name);
  return out;
}

// Those that have no matcher of their own.
bool runs_on_pcre2(const std::string& shape) {
  return shape == "gpt2" || shape == "o200k" || shape == "words";
}

bool has_pcre2() {
  try {
    Pcre2Pattern("a", "here");
    return true;
  } catch (const Error&) {
    return false;
  }
}

class Shapes : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (runs_on_pcre2(GetParam()) && !has_pcre2()) GTEST_SKIP() << "this build has no PCRE2";
  }
};

// Every block of texts of the corpus, or some of them where a sanitizer makes that slow.
TEST_P(Shapes, CutsTextsAsHuggingFaceDoes) {
  const PreTokenizer p = golden_shape(GetParam());
  int n_blocks = 0;
  test::for_each_golden_block([&](const Json& golden, const test::Corpus::Texts& texts) {
    const Json* expected = golden.find("pieces")->find(GetParam());
    if (expected == nullptr) return;
    test::CorpusHash hash;
    for (const std::string& text : texts) {
      p.split(text, [&](std::string_view piece) {
        hash.add_number(static_cast<uint32_t>(piece.size()));
      });
      hash.end_of_text();
    }
    EXPECT_EQ(hash.finish(), expected->as_string())
        << golden.find("name")->as_string() << "; scripts/check_tokenizers.py shows where";
    ++n_blocks;
  });
  EXPECT_GE(n_blocks, test::kEveryNthBlock == 1 ? 5 : 3);
}

TEST_P(Shapes, PiecesTogetherAreTheTextWhateverTheBytes) {
  const PreTokenizer p = golden_shape(GetParam());
  std::string text = "ab \xff\xff c\xc3";
  for (int b = 0; b < 256; ++b) text += std::string("x ") + static_cast<char>(b) + " 1";
  std::string joined;
  p.split(text, [&](std::string_view piece) {
    EXPECT_FALSE(piece.empty());
    joined += piece;
  });
  EXPECT_EQ(joined, text);
}

// 1 MiB takes milliseconds; if time were quadratic in the text, it would take many minutes.
TEST_P(Shapes, TimeIsLinearInTheText) {
  if (runs_on_pcre2(GetParam())) GTEST_SKIP() << "PCRE2 has limits instead";
  const PreTokenizer p = golden_shape(GetParam());
  for (const char* unit :
       {"a", " ", "\n", "7", "!", "\xe4\xbd\xa0", "\xcc\x81", "\x01", " \n", "'"}) {
    std::string text;
    while (text.size() < 1 << 20) text += unit;
    const std::clock_t start = std::clock();
    size_t bytes = 0;
    p.split(text, [&](std::string_view piece) { bytes += piece.size(); });
    EXPECT_EQ(bytes, text.size());
    EXPECT_LT((std::clock() - start) / CLOCKS_PER_SEC, 20) << quoted(unit);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Shapes, testing::ValuesIn(shape_names()), [](const auto& shape) {
  std::string name = shape.param;
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
});

TEST(PreTokenizer, CutsTheExamplesOfTheirAuthors) {
  using Pieces = std::vector<std::string>;
  const PreTokenizer v3 = golden_shape("deepseek-v3");
  EXPECT_EQ(pieces_of(v3, "Hello  world"), (Pieces{"Hello", " ", " world"}));
  EXPECT_EQ(pieces_of(v3, "don't 12345"), (Pieces{"don", "'t", " ", "123", "45"}));
  EXPECT_EQ(pieces_of(v3, "a  1"), (Pieces{"a", "  ", "1"}));  // the digits end the piece
  EXPECT_EQ(pieces_of(v3, ""), Pieces{});
  const PreTokenizer llm = golden_shape("deepseek-llm");
  EXPECT_EQ(pieces_of(llm, "Hi there 12\n"), (Pieces{"Hi", " there", " ", "1", "2", "\n"}));
  const PreTokenizer qwen2 = golden_shape("qwen2");
  EXPECT_EQ(pieces_of(qwen2, "I'LL 12"), (Pieces{"I", "'LL", " ", "1", "2"}));
}

TEST(PreTokenizer, SpellingOfAPatternDoesNotMatter) {
  const PreTokenizerStage a = parse_stage_pattern("[\\u4E00-\\u9FA5]+", "test");
  const PreTokenizerStage b = parse_stage_pattern("[\xe4\xb8\x80-\xe9\xbe\xa5]+", "test");
  const UnicodeClasses classes;
  for (const char32_t c : {U'\u4dff', U'\u4e00', U'\u9fa5', U'\u9fa6'}) {
    std::string text;
    append_utf8(text, c);
    const ClassifiedChar character = classes.at(text.data(), text.data() + text.size());
    EXPECT_EQ(a.set.contains(character), c >= 0x4e00 && c <= 0x9fa5);
    EXPECT_EQ(b.set.contains(character), a.set.contains(character));
  }
  EXPECT_EQ(parse_stage_pattern("[\r\n]", "test").max_count, 1);
  EXPECT_EQ(parse_stage_pattern("[\\r\\n]", "test").max_count, 1);
}

TEST(PreTokenizer, RefusesWhatItDoesNotKnow) {
  EXPECT_EQ(error_of("[]"), "pre_tokenizer is array, expected an object");
  EXPECT_EQ(error_of(R"({"type":"Sequence","pretokenizers":[]})"),
            "pre_tokenizer: no ByteLevel stage; only byte-level tokenizers are supported");
  EXPECT_EQ(error_of(R"({"type":"Metaspace"})"),
            "pre_tokenizer.type \"Metaspace\" is not supported (supported: Sequence, Split, "
            "Digits, ByteLevel)");
  EXPECT_EQ(error_of(R"({"type":"ByteLevel","add_prefix_space":true,"use_regex":false})"),
            "pre_tokenizer: ByteLevel with add_prefix_space or use_regex is not supported");
  EXPECT_EQ(error_of(R"({"type":"Sequence","pretokenizers":[{"type":"Split","behavior":"Removed",)"
                     R"("pattern":{"Regex":"a"}}]})"),
            "pre_tokenizer.pretokenizers[0]: a Split with behavior \"Removed\" or invert is not "
            "supported (supported: Isolated)");
  EXPECT_EQ(error_of(R"({"type":"Split","behavior":"Isolated","pattern":{"String":"a"}})"),
            "pre_tokenizer.pattern: expected an object with a string \"Regex\"");
}

TEST(PreTokenizer, RefusesTooManyStages) {
  std::string stages;
  for (int i = 0; i < 33; ++i) stages += R"({"type":"Digits","individual_digits":true},)";
  EXPECT_EQ(error_of(R"({"type":"Sequence","pretokenizers":[)" + stages + R"({"type":"Digits"}]})"),
            "pre_tokenizer.pretokenizers[32]: more than 32 stages");
}

TEST(UnicodeClasses, KnowWhatTheReferenceKnows) {
  const UnicodeClasses classes;
  EXPECT_EQ(classes.of(U'a'), kLetter);
  EXPECT_EQ(classes.of(U'7'), kNumber | kDigit);
  EXPECT_EQ(classes.of(U'$'), kSymbol);
  EXPECT_EQ(classes.of(U'!'), kPunctuation);
  EXPECT_EQ(classes.of(U' '), kSpace);
  EXPECT_EQ(classes.of(0x301), kMark);
  EXPECT_EQ(classes.of(0x3000), kSpace);
  EXPECT_EQ(classes.of(0x200b), 0);                  // zero width space is no white space
  EXPECT_EQ(classes.of(0x180e), 0);                  // nor is the Mongolian vowel separator
  EXPECT_EQ(classes.of(0x1e4f0), kNumber | kDigit);  // Unicode 15
  EXPECT_EQ(classes.of(0x10ffff), 0);
}

}  // namespace
}  // namespace dsr
