#include "deepseek_run/tokenizer.h"

#include <filesystem>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "base/utf8.h"
#include "text/tokenizer_impl.h"

namespace dsr {
namespace {

constexpr int64_t kMaxTokenizerBytes = 64 << 20;
constexpr int64_t kMaxConfigBytes = 16 << 20;
constexpr int64_t kMaxTemplateBytes = 1 << 20;

bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

Json read_json(const std::string& path, int64_t max_bytes) {
  return parse_json(read_file(path, max_bytes), escaped(path));
}

void check_literal(std::span<const ByteRange> literal, std::string_view text) {
  int64_t last = 0;
  for (const ByteRange& r : literal) {
    DSR_CHECK(r.begin >= last && r.end >= r.begin && r.end <= std::ssize(text), r.begin, " ", r.end,
              " of ", text.size());
    last = r.end;
  }
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

bool Tokenizer::is_in(const std::string& directory) {
  return exists(directory + "/tokenizer.json") || exists(directory + "/tokenizer.model");
}

std::unique_ptr<Tokenizer> Tokenizer::load(const std::string& directory, const WarningSink& warn) {
  const std::string path = directory + "/tokenizer.json",
                    model_path = directory + "/tokenizer.model";
  const std::string config_path = directory + "/tokenizer_config.json";
  std::optional<Json> config;
  if (exists(config_path)) config = read_json(config_path, kMaxConfigBytes);
  std::unique_ptr<Impl> impl;
  if (!exists(path) && exists(model_path)) {
    impl = make_sentencepiece_tokenizer(read_file(model_path, kMaxTokenizerBytes),
                                        escaped(model_path), config ? &*config : nullptr);
  } else {
    impl = make_bpe_tokenizer(read_json(path, kMaxTokenizerBytes), escaped(path), warn);
  }
  if (config) impl->read_config(*config, escaped(config_path));
  const std::string template_path = directory + "/chat_template.jinja";
  if (exists(template_path)) impl->chat_template = read_file(template_path, kMaxTemplateBytes);
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
}

std::vector<TokenId> Tokenizer::encode(std::string_view text,
                                       std::span<const ByteRange> literal) const {
  if (const int64_t at = find_invalid_utf8(text); at >= 0)
    fail_usage("text: not valid UTF-8 at byte offset ", at);
  check_literal(literal, text);
  std::vector<TokenId> ids;
  impl_->encode(text, literal, ids);
  return ids;
}

std::vector<TokenId> Tokenizer::encode_bytes(std::string_view bytes) const {
  std::vector<TokenId> ids;
  impl_->encode(bytes, {}, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string out;
  for (const TokenId id : ids) {
    if (!skip_special || !is_special(id)) out += token_bytes(id);
  }
  if (impl_->puts_space_in_front() && out.starts_with(' ')) out.erase(0, 1);
  return out;
}

std::string_view Tokenizer::token_bytes(TokenId id) const { return impl_->bytes().of(id); }
std::optional<TokenId> Tokenizer::find(std::string_view bytes) const { return impl_->find(bytes); }
bool Tokenizer::has_entry(TokenId id) const { return impl_->bytes().has(id); }
bool Tokenizer::is_special(TokenId id) const { return impl_->is_special(id); }
int64_t Tokenizer::id_limit() const { return impl_->bytes().limit(); }
std::optional<TokenId> Tokenizer::bos_id() const { return impl_->bos_id; }
std::optional<TokenId> Tokenizer::eos_id() const { return impl_->eos_id; }
bool Tokenizer::add_bos() const { return impl_->add_bos; }
const std::string& Tokenizer::chat_template() const { return impl_->chat_template; }

}  // namespace dsr
