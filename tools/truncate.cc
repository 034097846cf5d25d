#include "tools/truncate.h"

#include <algorithm>

#include "deepseek_run/error.h"
#include "tools/io.h"
#include "tools/terminal.h"

namespace dsr {
namespace {

// A half-open range of what is left out.
struct Cut {
  int64_t begin, end;
};

Cut cut_of(Truncate mode, int64_t size, int64_t dropped) {
  const int64_t begin = mode == Truncate::kLeft ? 0 : (size - dropped) / 2;
  return {begin, begin + dropped};
}

bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// `text` less `dropped` of its tokens, `ids`, and what is left then of a character.
std::string without(const std::string& text, const Tokenizer& tokenizer,
                    const std::vector<TokenId>& ids, Truncate mode, int64_t dropped) {
  const Cut cut = cut_of(mode, std::ssize(ids), dropped);
  // A tokenizer that normalises the text gives other bytes back; the caller counts again.
  const auto bytes_of = [&](int64_t n) {
    const std::string head = tokenizer.decode(std::span(ids).first(static_cast<size_t>(n)));
    return std::min(head.size(), text.size());
  };
  size_t begin = bytes_of(cut.begin), end = bytes_of(cut.end);
  if (cut.end == std::ssize(ids)) end = text.size();
  while (begin > 0 && begin < text.size() && continues(text[begin])) --begin;
  while (end < text.size() && continues(text[end])) ++end;
  return text.substr(0, begin) + text.substr(end);
}

std::string grouped(int64_t n) {
  std::string out = std::to_string(n);
  for (size_t at = out.size(); at > 3;) out.insert(at -= 3, 1, ',');
  return out;
}

class Truncation {
 public:
  Truncation(const Options& options, const std::string& model_dir, const Tokenizer* tokenizer,
             int64_t room)
      : options_(options), model_dir_(model_dir), tokenizer_(tokenizer), room_(room) {
    options_.quiet = true;  // what there is to say of the prompt was said
  }

  Prompt of_text(const std::string& text, Prompt prompt) const {
    const std::vector<TokenId> ids = text_ids(text);
    // Tokens may join where the text was cut, so the count is known only afterwards.
    for (int64_t dropped = 0; std::ssize(prompt.ids) > room_;) {
      if (dropped == std::ssize(ids)) fail(prompt);
      dropped = std::min(dropped + std::ssize(prompt.ids) - room_, std::ssize(ids));
      const std::string rest = without(text, *tokenizer_, ids, options_.truncate, dropped);
      prompt = make_prompt(options_, model_dir_, tokenizer_, {rest, {}});
    }
    return prompt;
  }

  Prompt of_ids(Prompt prompt) const {
    const bool has_bos = tokenizer_ != nullptr && tokenizer_->bos_id() &&
                         prompt.ids.front() == *tokenizer_->bos_id();
    const int64_t kept = has_bos ? 1 : 0, size = std::ssize(prompt.ids) - kept;
    const int64_t dropped = std::ssize(prompt.ids) - room_;
    if (dropped >= size) fail(prompt);
    const Cut cut = cut_of(options_.truncate, size, dropped);
    const auto first = prompt.ids.begin() + kept;
    prompt.ids.erase(first + cut.begin, first + cut.end);
    if (tokenizer_ != nullptr) prompt.text = tokenizer_->decode(prompt.ids);
    return prompt;
  }

 private:
  std::vector<TokenId> text_ids(const std::string& text) const {
    const std::vector<ByteRange> all = {{0, std::ssize(text)}};
    const bool specials = options_.raw || options_.allow_special;
    return tokenizer_->encode(text, specials ? std::span<const ByteRange>() : all);
  }

  [[noreturn]] void fail(const Prompt& prompt) const {
    throw Error(ErrorKind::kUsage, "the prompt is " + grouped(std::ssize(prompt.ids)) +
                                       " tokens without the text that --truncate may cut, room " +
                                       "is for " + grouped(room_));
  }

  Options options_;
  const std::string& model_dir_;
  const Tokenizer* tokenizer_;
  int64_t room_;
};

// Tokens of the answer that a cut leaves room for.
int64_t answer_room(const Options& options, int64_t ctx_size) {
  return options.predict > 0 ? options.predict : (ctx_size + 3) / 4;
}

}  // namespace

std::string overflow_hint(const Options& options, int64_t prompt_tokens, const ModelInfo& model) {
  const int64_t needed = prompt_tokens + std::max<int64_t>(options.predict, 1);
  if (needed <= model.ctx_size) return "";
  std::string out;
  if (needed <= model.max_position_embeddings) out = "-c " + std::to_string(needed);
  if (options.truncate == Truncate::kNone && answer_room(options, model.ctx_size) < model.ctx_size)
    out += std::string(out.empty() ? "" : ", or ") + "--truncate left|middle";
  return out.empty() ? "" : "\n  try: " + out;
}

Prompt truncated(const Options& options, const std::string& model_dir, const Tokenizer* tokenizer,
                 const PromptInput& input, Prompt prompt, int64_t ctx_size) {
  const int64_t before = std::ssize(prompt.ids);
  if (before + std::max<int64_t>(options.predict, 1) <= ctx_size) return prompt;
  const int64_t answer = answer_room(options, ctx_size);
  if (answer >= ctx_size) return prompt;  // no cut makes that fit: the engine says so
  const Truncation truncation(options, model_dir, tokenizer, ctx_size - answer);
  Prompt out = input.ids || options.bytes ? truncation.of_ids(std::move(prompt))
                                          : truncation.of_text(input.text, std::move(prompt));
  notes(options.quiet)("--truncate left out " + grouped(before - std::ssize(out.ids)) + " of " +
                       grouped(before) + " tokens of the prompt");
  return out;
}

}  // namespace dsr
