// Conversations: the first byte picks the format, then NUL-ended messages, each after its role.
#include "deepseek_run/chat.h"
#include "fuzz/fuzz.h"

namespace dsr {
namespace {

const Tokenizer& tiny() {
  static const std::unique_ptr<Tokenizer> tokenizer =
      Tokenizer::load(DSR_SOURCE_DIR "/models/tiny");
  return *tokenizer;
}

std::vector<TokenId> encode(const RenderedPrompt& prompt) {
  return tiny().encode(prompt.text, prompt.literal);
}

void check(const RenderedPrompt& prompt) {
  int64_t at = 0;
  const int64_t first_control = tiny().id_limit() - 17;
  for (const TokenId id : encode(prompt)) {
    const int64_t end = at + std::ssize(tiny().token_bytes(id));
    for (const ByteRange& r : prompt.literal)
      fuzz::require((id >= 3 && id < first_control) || end <= r.begin || at >= r.end,
                    "no control token comes from a message");
    at = end;
  }
  fuzz::require(at == std::ssize(prompt.text), "the ids are the text");
}

}  // namespace
}  // namespace dsr

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dsr;
  fuzz::Input in(data, size);
  const auto names = ChatFormat::names();
  const ChatFormat& format = ChatFormat::by_name(names[in.byte() % names.size()]);
  const auto thinking = static_cast<Thinking>(in.byte() % 3);
  std::vector<ChatMessage> messages;
  while (!in.empty() && messages.size() < 64) {
    const auto role = static_cast<Role>(in.byte() % 3);
    messages.push_back({role, std::string(in.field())});
  }
  fuzz::expect_answer([&] { check(format.render(messages, thinking)); });
  fuzz::expect_answer([&] {
    std::vector<ChatTool> tools;
    if (!messages.empty()) tools = parse_chat_tools(messages.front().content, "fuzz");
    check(format.render(messages, thinking, tools));
  });
  // An answer in pieces is the answer, whatever the pieces.
  ReasoningSplitter whole(thinking == Thinking::kOn), parts(thinking == Thinking::kOn);
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::string a[2], b[2];
  const auto add = [](std::string* out, std::vector<ReasoningSplitter::Piece> pieces) {
    for (auto& piece : pieces) out[piece.reasoning ? 1 : 0] += piece.text;
  };
  add(a, whole.push(std::string(text)));
  add(a, whole.finish());
  for (const char c : text) add(b, parts.push(std::string(1, c)));
  add(b, parts.finish());
  fuzz::require(a[0] == b[0] && a[1] == b[1], "a stream is split as the whole");
  return 0;
}
