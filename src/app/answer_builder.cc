#include "app/answer_builder.h"

#include <utility>

#include "base/error.h"

namespace dsr {

AnswerBuilder::AnswerBuilder(const Tokenizer* tokenizer, const AnswerRequest& request, Sink sink)
    : sink_(std::move(sink)) {
  answer_.prompt_tokens = std::ssize(request.request.prompt);
  answer_.seed = request.request.sampling.seed;
  if (tokenizer == nullptr) {
    if (!request.stop.empty())
      fail_usage("stop strings need a tokenizer, and the model has no tokenizer.json");
    return;
  }
  text_ = std::make_unique<TextStream>(*tokenizer, request, [this](const AnswerPiece& piece) {
    (piece.reasoning ? answer_.reasoning : answer_.content) += piece.text;
    if (sink_) sink_(piece);
  });
}

void AnswerBuilder::take(const StepOutput& out, double seconds) {
  answer_.finish = out.finish;
  for (size_t i = 0; i < out.tokens.size() && !stopped(); ++i) {
    if (answer_.ids.empty()) answer_.first_token_seconds = seconds;
    answer_.ids.push_back(out.tokens[i]);
    if (!out.log_probs.empty()) answer_.log_probs.push_back(out.log_probs.at(i));
    if (text_) text_->push(out.tokens[i]);
  }
  if (!ended()) return;
  if (text_) text_->finish();
  if (stopped()) answer_.finish = FinishReason::kStop;
  answer_.total_seconds = seconds;
}

}  // namespace dsr
