// A saved chat. What can be read is written and read again as it was.
#include "deepseek_run/chat_session.h"

#include "base/mapped_file.h"
#include "fuzz/fuzz.h"

namespace dsr {
namespace {

// The fingerprint is a hash that no input hits by chance: it is taken from the input.
std::string fingerprint_in(std::string_view text) {
  constexpr std::string_view kKey = "\"fingerprint\": \"";
  const size_t at = text.find(kKey);
  if (at == text.npos) return "";
  const std::string_view rest = text.substr(at + kKey.size());
  return std::string(rest.substr(0, rest.find('"')));
}

void check(const ChatSession& session) {
  for (const ChatTurn& turn : session.turns)
    for (const ByteRange& tag : turn.control)
      fuzz::require(tag.begin >= 0 && tag.begin < tag.end && tag.end <= std::ssize(turn.answer),
                    "tags are within the answer");
  const std::string path = "/tmp/fuzz-session-" + std::to_string(getpid());
  save_chat_session(path, session);
  const std::string first = read_file(path, int64_t{1} << 26);
  save_chat_session(path, load_chat_session(path, session.model, session.fingerprint));
  fuzz::require(first == read_file(path, int64_t{1} << 26), "what is loaded is saved as it was");
  unlink(path.c_str());
}

}  // namespace
}  // namespace dsr

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dsr;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  fuzz::expect_answer([&] {
    const fuzz::MemoryFile file(text);
    check(load_chat_session(file.path(), "m", fingerprint_in(text)));
  });
  return 0;
}
