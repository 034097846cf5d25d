// A tokenizer.json: refused, or what it encodes decodes.
#include "base/json.h"
#include "fuzz/fuzz.h"
#include "text/tokenizer_impl.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  dsr::fuzz::expect_answer([&] {
    const auto t = dsr::make_bpe_tokenizer(dsr::parse_json(text, "fuzz"), "fuzz", {});
    std::vector<dsr::TokenId> ids;
    t->encode("hello <think> 123\n aaa \u4f60", {}, ids);
    for (const dsr::TokenId id : ids) dsr::fuzz::require(t->bytes().has(id), "an id has an entry");
  });
  return 0;
}
