// From token ids to the pieces of an answer: bytes to characters, stop strings, reasoning.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "deepseek_run/answer.h"
#include "deepseek_run/chat.h"
#include "sampling/stop_matcher.h"

namespace dsr {

// Whether a token is part of the text of an answer: control tokens are not, but the two that mark
// reasoning are shown, and split at.
bool is_text(const Tokenizer& tokenizer, TokenId id);

// Gives text to the sink as it becomes certain. Stop strings are looked for in all of the text,
// reasoning and its tags included, and before it is split: what follows one is never seen.
class TextStream {
 public:
  // Throws Error(kUsage) for a stop string that cannot be one.
  TextStream(const Tokenizer& tokenizer, const AnswerRequest& request,
             std::function<void(AnswerPiece)> sink);

  void push(TokenId id);
  // No more tokens will come: gives out what was held back.
  void finish();
  // A stop string was found; further tokens change nothing.
  bool stopped() const { return stop_.stopped(); }

 private:
  void give(const std::string& text);

  const Tokenizer& tokenizer_;
  StreamDecoder decoder_;
  StopMatcher stop_;
  std::optional<ReasoningSplitter> splitter_;
  std::function<void(AnswerPiece)> sink_;
};

}  // namespace dsr
