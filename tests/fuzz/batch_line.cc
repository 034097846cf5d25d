// A batch file: the first byte picks how it is split, the second whether there is a chat format.
#include "app/batch_input.h"
#include "fuzz/fuzz.h"

namespace dsr {
namespace {

const Tokenizer& tiny() {
  static const std::unique_ptr<Tokenizer> tokenizer =
      Tokenizer::load(DSR_SOURCE_DIR "/models/tiny");
  return *tokenizer;
}

void check(const BatchContext& context, const BatchPiece& piece, const BatchRecord& record) {
  const Request& request = record.request.request;
  fuzz::require(piece.line > 0 && !piece.text.empty(), "a record has a place");
  fuzz::require(record.n >= 1, "a record wants an answer");
  fuzz::require(request.max_new_tokens == -1 || request.max_new_tokens >= 1, "of some length");
  check_sampling_params(request.sampling, context.vocab_size);
}

}  // namespace
}  // namespace dsr

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dsr;
  fuzz::Input in(data, size);
  const auto split = static_cast<BatchSplit>(in.byte() % 3);
  const ChatFormat* format = in.byte() % 2 == 0 ? &ChatFormat::by_name("deepseek-v3") : nullptr;
  const BatchContext context = {
      .tokenizer = &tiny(), .format = format, .vocab_size = tiny().id_limit()};
  BatchParser parser(context, split, [](const std::string&) {});
  for (const BatchPiece& piece : split_batch(in.rest(), split))
    fuzz::expect_answer([&] {
      const std::optional<std::string> id = parser.custom_id(piece);
      const BatchRecord record = parser.parse(piece);
      fuzz::require(record.custom_id == id, "the id is known before the record is");
      check(context, piece, record);
    });
  return 0;
}
