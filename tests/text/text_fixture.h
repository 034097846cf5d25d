// A small tokenizer for tests: 256 byte tokens, a few merges, DeepSeek's control tokens.
#pragma once

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "deepseek_run/tokenizer.h"
#include "text/byte_alphabet.h"
#include "text/control_tokens.h"

namespace dsr::test {

// A directory that goes away with the object.
class TempDirectory {
 public:
  TempDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "dsr_text_XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) fail_internal("mkdtemp failed");
    path_ = pattern;
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  ~TempDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << text;
  }

 private:
  std::string path_;
};

inline Json added_token(int64_t id, std::string_view content, bool special, bool normalized) {
  Json t = Json::object();
  t.set("id", id);
  t.set("content", content);
  for (const char* flag : {"single_word", "lstrip", "rstrip"}) t.set(flag, false);
  t.set("normalized", normalized);
  t.set("special", special);
  return t;
}

inline Json split_stage(std::string_view pattern) {
  Json regex = Json::object();
  regex.set("Regex", pattern);
  Json stage = Json::object();
  stage.set("type", "Split");
  stage.set("pattern", std::move(regex));
  stage.set("behavior", "Isolated");
  stage.set("invert", false);
  return stage;
}

// Ids: 0..255 bytes, then 256 "he", 257 "ll", 258 "hell", 259 "hello", 260 " hello", 261 "aa".
inline Json fixture_model() {
  const std::string space = written_byte(' ');
  const std::pair<std::string, std::string> merges[] = {
      {"h", "e"}, {"l", "l"}, {"he", "ll"}, {"hell", "o"}, {space, "hello"}, {"a", "a"}};
  Json vocab = Json::object();
  for (int b = 0; b < 256; ++b) vocab.set(written_byte(static_cast<unsigned char>(b)), b);
  Json list = Json::array();
  int next = 256;
  for (const auto& [left, right] : merges) {
    vocab.set(left + right, next++);
    list.push_back(left + " " + right);
  }
  Json model = Json::object();
  model.set("type", "BPE");
  model.set("vocab", std::move(vocab));
  model.set("merges", std::move(list));
  return model;
}

// Ids 300..306: BOS, EOS (special), User, Assistant, <think>, </think>, one letter. 307:
// <thinking>.
inline Json fixture_tokenizer() {
  Json added = Json::array();
  added.push_back(added_token(300, kBosText, true, false));
  added.push_back(added_token(301, kEosText, true, false));
  added.push_back(added_token(302, kUserText, false, true));
  added.push_back(added_token(303, kAssistantText, false, true));
  added.push_back(added_token(304, kThinkOpen, false, false));
  added.push_back(added_token(305, kThinkClose, false, false));
  added.push_back(added_token(306, "\u0436", false, true));
  added.push_back(added_token(307, "<thinking>", false, false));
  Json stages = Json::array();
  stages.push_back(split_stage("\\p{N}{1,3}"));
  stages.push_back(split_stage("\\s?\\p{L}+"));
  Json bytes = Json::object();
  bytes.set("type", "ByteLevel");
  bytes.set("add_prefix_space", false);
  bytes.set("use_regex", false);
  stages.push_back(std::move(bytes));
  Json sequence = Json::object();
  sequence.set("type", "Sequence");
  sequence.set("pretokenizers", std::move(stages));
  Json out = Json::object();
  out.set("added_tokens", std::move(added));
  out.set("pre_tokenizer", std::move(sequence));
  out.set("model", fixture_model());
  return out;
}

inline std::unique_ptr<Tokenizer> load_text(const std::string& tokenizer_json,
                                            const std::string& config_json = "") {
  const TempDirectory directory;
  directory.write("tokenizer.json", tokenizer_json);
  if (!config_json.empty()) directory.write("tokenizer_config.json", config_json);
  return Tokenizer::load(directory.path());
}

inline std::unique_ptr<Tokenizer> load_fixture() { return load_text(fixture_tokenizer().dump()); }

// Where ../shared keeps the tokenizer of a released checkpoint, if it does.
inline std::string shared_tokenizer(const std::string& name) {
  return DSR_SOURCE_DIR "/../shared/tokenizers/" + name;
}
inline bool has_shared_tokenizer(const std::string& name) {
  std::error_code ignored;
  return std::filesystem::exists(shared_tokenizer(name) + "/tokenizer.json", ignored);
}

// `text` with the one place where it says `from` changed.
inline std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  if (at == text.npos || text.find(from, at + 1) != text.npos)
    fail_internal("not exactly once: ", from);
  return text.replace(at, from.size(), to);
}

}  // namespace dsr::test
