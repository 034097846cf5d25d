// A pre-tokenizer pattern, NUL, a text: the pieces are the text.
#include "fuzz/fuzz.h"
#include "text/pre_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dsr::fuzz::Input in(data, size);
  const std::string pattern(in.field());
  const std::string_view text = in.rest();
  dsr::fuzz::expect_answer([&] {
    const dsr::PreTokenizer splitter(
        std::vector<dsr::PreTokenizerStage>{dsr::parse_stage_pattern(pattern, "fuzz")});
    std::string joined;
    splitter.split(text, [&](std::string_view piece) {
      dsr::fuzz::require(!piece.empty(), "no piece is empty");
      joined += piece;
    });
    dsr::fuzz::require(joined == text, "the pieces are the text");
  });
  return 0;
}
