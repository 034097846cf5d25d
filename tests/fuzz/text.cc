// Any bytes through the tokenizer of models/tiny, and any ids back.
#include <algorithm>

#include "base/utf8.h"
#include "deepseek_run/tokenizer.h"
#include "fuzz/fuzz.h"
#include "text/nfc.h"

namespace dsr {
namespace {

const Tokenizer& tiny() {
  static const std::unique_ptr<Tokenizer> tokenizer =
      Tokenizer::load(DSR_SOURCE_DIR "/models/tiny");
  return *tokenizer;
}

void check_text(std::string_view text, const ByteRange& literal) {
  const std::vector<TokenId> ids = tiny().encode_bytes(text);
  fuzz::require(tiny().decode(ids) == text, "decode(encode(text)) == text");
  const bool valid = find_invalid_utf8(text) < 0;
  fuzz::expect_answer([&] {
    fuzz::require(tiny().encode(text) == ids && valid, "encode is encode_bytes of valid text");
    const ByteRange ranges[] = {literal};
    fuzz::require(tiny().decode(tiny().encode(text, ranges)) == text,
                  "literal ranges lose nothing");
  });
  const NormalizedText once = to_nfc(text, {});
  fuzz::require(to_nfc(once.text, {}).text == once.text, "normal text is normal");
}

void check_ids(std::string_view bytes) {
  std::vector<TokenId> ids;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2)
    ids.push_back(static_cast<TokenId>(static_cast<unsigned char>(bytes[i]) << 8 |
                                       static_cast<unsigned char>(bytes[i + 1])) -
                  256);
  StreamDecoder decoder(tiny());
  std::string streamed;
  for (const TokenId id : ids) streamed += decoder.push(id);
  streamed += decoder.finish();
  fuzz::require(find_invalid_utf8(streamed) < 0, "a stream is UTF-8");
  const std::string whole = tiny().decode(ids);
  if (find_invalid_utf8(whole) < 0) fuzz::require(streamed == whole, "a stream is the whole");
}

}  // namespace
}  // namespace dsr

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dsr::fuzz::Input in(data, size);
  const int64_t begin = in.byte(), length = in.byte();
  const std::string_view text = in.rest();
  const int64_t first = std::min<int64_t>(begin, std::ssize(text));
  dsr::check_text(text, {first, std::min<int64_t>(first + length, std::ssize(text))});
  dsr::check_ids(text);
  return 0;
}
