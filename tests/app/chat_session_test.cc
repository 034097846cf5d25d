#include "deepseek_run/chat_session.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/json.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "text/text_fixture.h"

namespace dsr {
namespace {

constexpr const char* kTiny = DSR_SOURCE_DIR "/models/tiny";

ChatSession example() {
  ChatSession out;
  out.model = "tiny";
  out.fingerprint = "abc";
  out.chat_format = "deepseek-v3";
  out.system = "Be \"brief\".";
  out.settings = {"temp=0", "stop=a\nb"};
  out.turns = {{"line\nbreak \u4e2d", "<think>x</think>y", {{0, 7}, {8, 16}}},
               {"and?", "cut", {}, FinishReason::kCancelled}};
  return out;
}

class ChatSessionTest : public testing::Test {
 protected:
  std::string saved() const {
    save_chat_session(path_, example());
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::string error_with(const std::string& from, const std::string& to) const {
    return error_of_text(test::replaced(saved(), from, to));
  }
  std::string error_of_text(const std::string& text, ErrorKind kind = ErrorKind::kModel) const {
    directory_.write("bad.json", text);
    const std::string path = directory_.file("bad.json");
    const std::string message =
        test::error_of([&] { load_chat_session(path, "tiny", "abc"); }, kind);
    EXPECT_TRUE(message.starts_with(path + ": ")) << message;
    return message.substr(std::min(message.size(), path.size() + 2));
  }

  const test::TempDir directory_;
  const std::string path_ = directory_.file("chat.json");
};

TEST_F(ChatSessionTest, ComesBackAsItWas) {
  save_chat_session(path_, example());
  EXPECT_EQ(load_chat_session(path_, "tiny", "abc"), example());
  ChatSession other = example();
  other.system.clear();
  other.turns.clear();
  save_chat_session(path_, other);  // replaces it
  EXPECT_EQ(load_chat_session(path_, "tiny", "abc"), other);
}

TEST_F(ChatSessionTest, AnotherModelsChatIsRefused) {
  save_chat_session(path_, example());
  EXPECT_EQ(test::error_of([&] { load_chat_session(path_, "R1", "0123456789abcdef"); },
                           ErrorKind::kUsage),
            path_ +
                ": is a chat with another model, \"tiny\" (abc); this one is \"R1\" "
                "(0123456789ab)");
}

TEST_F(ChatSessionTest, OnlySessionsAreReplaced) {
  const std::string text = "my notes";
  directory_.write("notes.txt", text);
  EXPECT_EQ(test::error_of([&] { save_chat_session(directory_.file("notes.txt"), example()); },
                           ErrorKind::kUsage),
            directory_.file("notes.txt") + ": exists and is not a saved chat: left as it is");
  EXPECT_EQ(std::filesystem::file_size(directory_.file("notes.txt")), text.size());
  test::error_of([&] { save_chat_session("/no/such/directory/x", example()); }, ErrorKind::kOutput);
  test::error_of([&] { save_chat_session("/dev/full", example()); }, ErrorKind::kOutput);
}

TEST_F(ChatSessionTest, FilesThatAreNoneAreRefusedInOneLine) {
  EXPECT_TRUE(error_of_text("").starts_with("not JSON: "));
  EXPECT_TRUE(error_of_text("\xff\xfe").starts_with("not JSON: "));
  EXPECT_NE(error_of_text(std::string(100'000, '[')), "");
  EXPECT_EQ(error_of_text("[]"), "is array, expected object");
  EXPECT_EQ(error_of_text("{}"), "is not a saved chat: it has no deepseek_run_session");
  test::error_of([&] { load_chat_session(directory_.file("none"), "tiny", "abc"); });
  test::error_of([&] { load_chat_session(directory_.string(), "tiny", "abc"); });
}

TEST_F(ChatSessionTest, DamagedSessionsAreRefusedByTheirField) {
  EXPECT_EQ(error_with("\"deepseek_run_session\": 1", "\"deepseek_run_session\": 2"),
            "deepseek_run_session is 2, expected 1 to 1");
  EXPECT_EQ(error_with("\"chat_format\": \"deepseek-v3\"", "\"chat_format\": 3"),
            "chat_format is 3, expected a string");
  EXPECT_EQ(error_with("\"temp=0\"", "7"), "settings hold integer, expected string");
  EXPECT_EQ(error_with("\"role\": \"system\"", "\"role\": \"user\""),
            "messages[1]: role is \"user\", expected assistant");
  EXPECT_EQ(error_with("\"finish_reason\": \"cancelled\"", "\"finish_reason\": \"\\u001b[2J\""),
            "messages[4]: finish_reason is \"\\x1b[2J\", expected stop, length, repetition or "
            "cancelled");
  EXPECT_EQ(error_with("\"content\": \"and?\"", "\"contents\": \"and?\""),
            "messages[3]: content is missing");
  EXPECT_EQ(error_with("\"content\": \"and?\"", "\"content\": \"and?\", \"x\": 1"),
            "messages[3]: unknown key \"x\"");
  for (const char* offset : {"-1", "1", "17", "9007199254740993", "1.5", "\"0\"", "null"})
    EXPECT_EQ(error_with("        8\n", std::string("        ") + offset + "\n"),
              std::string("messages[2]: tags: there is no <think> or </think> at ") + offset);
  EXPECT_EQ(error_with("        8\n", "        0\n"), "messages[2]: tags are not in order");
}

TEST_F(ChatSessionTest, AQuestionWithoutAnAnswerIsRefused) {
  const Json json = parse_json(saved(), "saved");
  Json::Array messages = json.find("messages")->as_array();
  messages.pop_back();
  Json cut = Json::object();
  for (const auto& [key, value] : json.as_object().members)
    cut.set(key, key == "messages" ? Json(messages) : value);
  EXPECT_EQ(error_of_text(cut.dump()), "messages end with a question, expected its answer");
}

TEST(ModelFingerprint, IsOfTheConfigAndTheTokenizer) {
  const test::TempDir copy;
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"})
    std::filesystem::copy(std::string(kTiny) + "/" + name, copy.file(name));
  const std::string whole = model_fingerprint(kTiny);
  EXPECT_EQ(whole.size(), 64u);
  EXPECT_EQ(model_fingerprint(copy.string()), whole);
  std::filesystem::remove(copy.file("tokenizer_config.json"));
  EXPECT_NE(model_fingerprint(copy.string()), whole);
}

}  // namespace
}  // namespace dsr
