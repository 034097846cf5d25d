// One answer as it comes: from the tokens of steps to text.
#pragma once

#include <functional>
#include <memory>

#include "app/text_stream.h"
#include "deepseek_run/answer.h"

namespace dsr {

class AnswerBuilder {
 public:
  using Sink = std::function<void(const AnswerPiece&)>;

  // `sink`, if any, hears of text as it becomes certain. Throws Error(kUsage) for stop strings
  // without a tokenizer.
  AnswerBuilder(const Tokenizer* tokenizer, const AnswerRequest& request, Sink sink = {});
  AnswerBuilder(const AnswerBuilder&) = delete;
  AnswerBuilder& operator=(const AnswerBuilder&) = delete;

  // What a step gave, `seconds` after the submission; with its last one what was held back comes.
  void take(const StepOutput& out, double seconds);
  bool ended() const { return answer_.finish != FinishReason::kNone; }
  // Nothing more is wanted of it: a stop string was found.
  bool stopped() const { return text_ && text_->stopped(); }
  Answer& answer() { return answer_; }

 private:
  Sink sink_;
  Answer answer_;
  std::unique_ptr<TextStream> text_;  // null without a tokenizer
};

}  // namespace dsr
