// tokenizer.model, with models that the test trains.
#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include "base/mapped_file.h"
#include "text/text_fixture.h"

namespace dsr {
namespace {

using Ids = std::vector<TokenId>;

const char* const kSentences[] = {
    "the fox said to the cat that it was hungry",     "the cat said nothing to the fox",
    "a hungry fox and a quiet cat went to the river", "nothing was said by the river",
    "the quiet river went by the hungry cat",         "L'\u00e9t\u00e9 \u00e9tait l\u00e0"};

// Trains a model of `type` into `directory`.
void train(const test::TempDirectory& directory, const std::string& type) {
  std::string corpus;
  for (int i = 0; i < 30; ++i)
    for (const char* s : kSentences) corpus += std::string(s) + "\n";
  directory.write("corpus.txt", corpus);
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      "--input=" + directory.path() + "/corpus.txt --model_prefix=" + directory.path() +
      "/tokenizer --model_type=" + type +
      " --vocab_size=340 --hard_vocab_limit=false --byte_fallback=true "
      "--user_defined_symbols=<tool> --minloglevel=4");
  ASSERT_TRUE(status.ok()) << status.ToString();
}

class SentencePiece : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    train(directory_, GetParam());
    ASSERT_TRUE(library_.Load(directory_.path() + "/tokenizer.model").ok());
  }
  Ids expected(const std::string& text) {
    std::vector<int> ids;
    EXPECT_TRUE(library_.Encode(text, &ids).ok());
    return {ids.begin(), ids.end()};
  }
  test::TempDirectory directory_;
  sentencepiece::SentencePieceProcessor library_;
};

TEST_P(SentencePiece, GivesTheIdsOfTheLibrary) {
  EXPECT_TRUE(Tokenizer::is_in(directory_.path()));
  const auto t = Tokenizer::load(directory_.path());
  for (const std::string& text : std::initializer_list<std::string>{
           "", "the fox", " the fox", "hungry hungry cat", "\u4f60\u597d \U0001f642", "a\nb\tc",
           "L'\u00e9t\u00e9", "x <tool> y<tool>"}) {
    const Ids ids = t->encode(text);
    EXPECT_EQ(ids, expected(text)) << text;
    EXPECT_EQ(t->decode(ids), library_.DecodeIds({ids.begin(), ids.end()})) << text;
  }
  EXPECT_EQ(t->id_limit(), library_.GetPieceSize());
  EXPECT_EQ(t->bos_id(), library_.bos_id());
  EXPECT_EQ(t->eos_id(), library_.eos_id());
  const Ids fox = t->encode("the fox");
  EXPECT_EQ(t->find(t->token_bytes(fox[0])), fox[0]);
  EXPECT_TRUE(t->token_bytes(fox[0]).starts_with(" "));
  EXPECT_EQ(t->find("no such piece"), std::nullopt);
  EXPECT_TRUE(t->is_special(library_.bos_id()));
}

TEST_P(SentencePiece, BytesComeBack) {
  const auto t = Tokenizer::load(directory_.path());
  const std::string text = "\u4f60 \u0416\u0301 \U0001f642 fox";
  EXPECT_EQ(t->decode(t->encode(text)), text);
  StreamDecoder stream(*t);
  std::string streamed;
  for (const TokenId id : t->encode(text)) streamed += stream.push(id);
  EXPECT_EQ(streamed + stream.finish(), " " + text);  // a continuation keeps its space
}

TEST_P(SentencePiece, ControlTokensAreCutOutUnlessTyped) {
  const auto t = Tokenizer::load(directory_.path());
  Ids ids = {library_.bos_id()};
  for (const TokenId id : expected("the fox")) ids.push_back(id);
  ids.push_back(library_.eos_id());
  EXPECT_EQ(t->encode("<s>the fox</s>"), ids);
  const ByteRange all[] = {{0, 14}};
  EXPECT_EQ(t->encode("<s>the fox</s>", all), expected("<s>the fox</s>"));
  // The library finds user-defined symbols itself, so what was typed is refused, not let through.
  const ByteRange tail[] = {{6, 8}};
  EXPECT_EQ(t->encode("<tool>ab", tail), expected("<tool>ab"));
  const ByteRange part[] = {{5, 8}};
  EXPECT_THROW(t->encode("<tool>ab", part), Error);
}

TEST_P(SentencePiece, ConfigAddsTokens) {
  const int next = library_.GetPieceSize();
  directory_.write(
      "tokenizer_config.json",
      R"({"tokenizer_class":"LlamaTokenizer","bos_token":"<s>","eos_token":"<|im_end|>",)"
      R"("added_tokens_decoder":{"0":{"content":"<unk>","special":true},)"
      R"("1":{"content":"<s>","special":true},")" +
          std::to_string(next) + R"(":{"content":"<|im_end|>","special":true}}})");
  const auto t = Tokenizer::load(directory_.path());
  EXPECT_EQ(t->eos_id(), next);
  EXPECT_EQ(t->bos_id(), library_.bos_id());
  EXPECT_TRUE(t->add_bos());
  EXPECT_EQ(t->encode("<|im_end|>"), Ids{next});
  EXPECT_EQ(t->decode(Ids{next}), "<|im_end|>");
  directory_.write("tokenizer_config.json",
                   R"({"added_tokens_decoder":{"1":{"content":"<other>"}}})");
  EXPECT_THROW(Tokenizer::load(directory_.path()), Error);
  directory_.write("tokenizer_config.json", R"({"added_tokens_decoder":{"x":{"content":"y"}}})");
  EXPECT_THROW(Tokenizer::load(directory_.path()), Error);
}

INSTANTIATE_TEST_SUITE_P(Models, SentencePiece, testing::Values("bpe", "unigram"),
                         [](const auto& type) { return std::string(type.param); });

TEST(SentencePieceErrors, DamagedFile) {
  const test::TempDirectory directory;
  for (const std::string& text :
       {std::string(), std::string("no model"), std::string(1000, '\xff')}) {
    directory.write("tokenizer.model", text);
    EXPECT_THROW(Tokenizer::load(directory.path()), Error);
  }
}

}  // namespace
}  // namespace dsr
