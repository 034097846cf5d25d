// What a damaged or foreign tokenizer.json is refused with, word for word.
#include <gtest/gtest.h>

#include "text/text_fixture.h"

namespace dsr {
namespace {

// The message of loading this tokenizer, without the path.
std::string error_of(const std::string& tokenizer_json, const std::string& config_json = "") {
  try {
    test::load_text(tokenizer_json, config_json);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kModel);
    const std::string what = e.what();
    const size_t name = what.find("/tokenizer");
    return name == what.npos ? what : what.substr(name + 1);
  }
  return "no error";
}

std::string error_with(std::string_view from, std::string_view to) {
  return error_of(test::replaced(test::fixture_tokenizer().dump(), from, to));
}

TEST(TokenizerErrors, FileIsNotATokenizer) {
  EXPECT_EQ(error_of("[]"), "tokenizer.json: not a JSON object");
  EXPECT_EQ(error_of("{}"), "tokenizer.json: model is missing");
  EXPECT_EQ(error_of(R"({"model":3})"), "tokenizer.json: model is integer, expected an object");
  EXPECT_EQ(error_of("{").substr(0, 24), "tokenizer.json: not JSON");
  EXPECT_THROW(Tokenizer::load("/nonexistent"), Error);
}

TEST(TokenizerErrors, Model) {
  EXPECT_EQ(error_with(R"("type":"BPE")", R"("type":"Unigram")"),
            "tokenizer.json: model.type \"Unigram\" is not supported (supported: BPE)");
  EXPECT_EQ(error_with(R"("type":"BPE")", R"("type":"BPE","dropout":0.1)"),
            "tokenizer.json: model.dropout is not supported");
  EXPECT_EQ(error_with(R"("type":"BPE")", R"("type":"BPE","byte_fallback":true)"),
            "tokenizer.json: model.byte_fallback is not supported (byte-level BPE has none)");
  EXPECT_EQ(error_with(R"("type":"BPE")", R"("type":"BPE","end_of_word_suffix":"</w>")"),
            "tokenizer.json: model.end_of_word_suffix is not supported (byte-level BPE has none)");
}

TEST(TokenizerErrors, Vocabulary) {
  EXPECT_EQ(error_with(R"("vocab":{)", R"("vocab":{"x1":-1,)"),
            "tokenizer.json: model.vocab: the id of \"x1\" must be an integer from 0 to 2,097,151");
  EXPECT_EQ(error_with(R"("vocab":{)", R"("vocab":{"x1":4294967296,)"),
            "tokenizer.json: model.vocab: the id of \"x1\" must be an integer from 0 to 2,097,151");
  EXPECT_EQ(error_with(R"("vocab":{)", R"("vocab":{"x1":1.5,)"),
            "tokenizer.json: model.vocab: the id of \"x1\" must be an integer from 0 to 2,097,151");
  EXPECT_EQ(error_with(R"("he":256)", R"("he":7)"),
            "tokenizer.json: model.vocab: \"he\" has the id 7 of another entry");
  EXPECT_EQ(error_with(R"("vocab":{)", R"("vocab":{"":400,)"),
            "tokenizer.json: model.vocab: the entry with id 400 is empty");
}

TEST(TokenizerErrors, Merges) {
  EXPECT_EQ(error_with(R"("h e")", R"("h x1")"),
            "tokenizer.json: model.merges[0]: \"x1\" is not in the vocabulary");
  EXPECT_EQ(error_with(R"("h e")", R"("e h")"),
            "tokenizer.json: model.merges[0]: \"eh\" is not in the vocabulary");
  for (const char* bad : {R"("he")", R"("h e l")", R"(["h"])", R"(["h","e","l"])", "7", R"([1,2])"})
    EXPECT_EQ(error_with(R"("h e")", bad),
              "tokenizer.json: model.merges[0]: expected \"a b\" or [\"a\", \"b\"]")
        << bad;
  EXPECT_EQ(error_with(R"("h e")", R"("h ")"),
            "tokenizer.json: model.merges[0]: \"\" is not in the vocabulary");
}

TEST(TokenizerErrors, AddedTokens) {
  EXPECT_EQ(error_with("<thinking>", ""), "tokenizer.json: added_tokens[7].content is empty");
  EXPECT_EQ(error_with("<thinking>", "<think>"),
            "tokenizer.json: added_tokens[7].content \"<think>\" is also that of entry 4");
  EXPECT_EQ(error_with(R"("id":307)", R"("id":304)"),
            "tokenizer.json: added_tokens[7].id 304 is also the id of entry 4");
  EXPECT_EQ(error_with(R"("id":307)", R"("id":256)"),
            "tokenizer.json: added_tokens[7].id 256 of \"<thinking>\" is the id of another entry "
            "of model.vocab");
  EXPECT_EQ(
      error_with("<thinking>", "hello"),
      "tokenizer.json: added_tokens[7].id is 307, but model.vocab gives \"hello\" the id 259");
  EXPECT_EQ(error_with("<thinking>", std::string(257, 'x')),
            "tokenizer.json: added_tokens[7].content has 257 bytes, at most 256 are accepted");
  EXPECT_EQ(error_with(R"("<thinking>","single_word":false)", R"("<t>","single_word":true)"),
            "tokenizer.json: added_tokens[7].single_word is true for \"<t>\": not supported");
}

TEST(TokenizerErrors, OtherParts) {
  EXPECT_EQ(error_with(R"({"added_tokens")", R"({"normalizer":{"type":"NFKC"},"added_tokens")"),
            "tokenizer.json: normalizer.type \"NFKC\" is not supported (supported: NFC)");
  EXPECT_EQ(error_with(R"({"added_tokens")",
                       R"({"normalizer":{"type":"Sequence","normalizers":[]},"added_tokens")"),
            "no error");
  EXPECT_EQ(error_with(R"({"added_tokens")", R"({"decoder":{"type":"WordPiece"},"added_tokens")"),
            "tokenizer.json: decoder.type \"WordPiece\" is not supported (supported: ByteLevel)");
  EXPECT_EQ(error_with(R"({"added_tokens")", R"({"decoder":7,"added_tokens")"),
            "tokenizer.json: decoder.type is missing");
}

TEST(TokenizerErrors, Caps) {
  std::string vocab;
  for (int i = 0; i <= 1 << 20; ++i) vocab += str("\"x", i, "\":", 400 + i, ",");
  EXPECT_EQ(error_with(R"("vocab":{)", R"("vocab":{)" + vocab),
            "tokenizer.json: model.vocab has 1,048,839 entries, at most 1,048,576 are accepted");
  std::string merges;
  for (int i = 0; i <= 1 << 20; ++i) merges += R"("h e",)";
  EXPECT_EQ(error_with(R"("merges":[)", R"("merges":[)" + merges),
            "tokenizer.json: model.merges has 1,048,583 entries, at most 1,048,576 are accepted");
  std::string added;
  for (int i = 0; i <= 1 << 16; ++i)
    added += str(R"({"id":)", 400 + i, R"(,"content":"x)", i, R"("},)");
  EXPECT_EQ(error_with(R"("added_tokens":[)", R"("added_tokens":[)" + added),
            "tokenizer.json: added_tokens has 65,545 entries, at most 65,536 are accepted");
}

TEST(TokenizerErrors, Config) {
  const std::string json = test::fixture_tokenizer().dump();
  EXPECT_EQ(error_of(json, "[]"), "tokenizer_config.json: not a JSON object");
  EXPECT_EQ(error_of(json, R"({"bos_token":"<s>"})"),
            "tokenizer_config.json: bos_token \"<s>\" is not in the tokenizer");
  EXPECT_EQ(error_of(json, R"({"eos_token":7})"), "tokenizer_config.json: eos_token is integer");
  EXPECT_EQ(error_of(json, R"({"add_eos_token":true})"),
            "tokenizer_config.json: add_eos_token true is not supported");
  EXPECT_EQ(error_of(json, R"({"chat_template":7})"),
            "tokenizer_config.json: chat_template is integer");
}

// A merge list cannot make encoding loop: every merge shortens the list of tokens.
TEST(TokenizerErrors, CyclicMergesEnd) {
  std::string json = test::fixture_tokenizer().dump();
  json = test::replaced(json, R"("h e")", R"("h e","a aa","aa a","aa aa","aaa a")");
  json = test::replaced(json, R"("vocab":{)", R"("vocab":{"aaa":400,"aaaa":401,)");
  const auto t = test::load_text(json);
  const std::string text(1000, 'a');
  EXPECT_EQ(t->decode(t->encode(text)), text);
}

TEST(TokenizerErrors, MissingByteIsNamedWhenItIsNeeded) {
  const std::string json =
      test::replaced(test::fixture_tokenizer().dump(), R"("z":122)", R"("zz":122)");
  const auto t = test::load_text(json);
  EXPECT_EQ(t->encode("a").size(), 1u);
  try {
    t->encode("a z");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    EXPECT_STREQ(e.what(),
                 "text: no token for the byte 122 at offset 2; this tokenizer cannot encode it");
  }
}

}  // namespace
}  // namespace dsr
