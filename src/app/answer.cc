#include "deepseek_run/answer.h"

#include <memory>
#include <utility>

#include "app/format.h"
#include "app/text_stream.h"
#include "base/error.h"
#include "base/timer.h"

namespace dsr {
namespace {

// One run: the answer so far, and whether the caller still wants more of it.
class Run {
 public:
  Run(Engine& engine, const Tokenizer* tokenizer, const AnswerRequest& request,
      const std::function<bool(const AnswerPiece&)>& on_piece)
      : engine_(engine), on_piece_(on_piece) {
    if (tokenizer != nullptr)
      text_ = std::make_unique<TextStream>(*tokenizer, request,
                                           [this](AnswerPiece piece) { give(std::move(piece)); });
    else if (!request.stop.empty())
      fail_usage("stop strings need a tokenizer, and the model has no tokenizer.json");
    answer_.prompt_tokens = std::ssize(request.request.prompt);
    answer_.seed = request.request.sampling.seed;
    id_ = engine_.submit(request.request);
  }

  Answer to_end() {
    while (answer_.finish == FinishReason::kNone) {
      for (const StepOutput& out : engine_.step())
        if (out.request == id_) take(out);
      if (wanted_ && answer_.finish == FinishReason::kNone) give({});
      if (!wanted_) engine_.cancel(id_);
    }
    if (text_) text_->finish();
    if (text_ && text_->stopped()) answer_.finish = FinishReason::kStop;
    answer_.total_seconds = timer_.seconds();
    return std::move(answer_);
  }

  void cancel() { engine_.cancel(id_); }

 private:
  void take(const StepOutput& out) {
    answer_.finish = out.finish;
    if (!wanted_) return;  // a token that was under way when the caller had enough
    for (const TokenId id : out.tokens) {
      if (answer_.ids.empty()) answer_.first_token_seconds = timer_.seconds();
      answer_.ids.push_back(id);
      if (!text_) continue;
      text_->push(id);
      if (text_->stopped()) {
        wanted_ = false;
        return;
      }
    }
  }

  void give(AnswerPiece piece) {
    (piece.reasoning ? answer_.reasoning : answer_.content) += piece.text;
    if (on_piece_ && !on_piece_(piece)) wanted_ = false;
  }

  Engine& engine_;
  const std::function<bool(const AnswerPiece&)>& on_piece_;
  Timer timer_;
  RequestId id_ = 0;
  Answer answer_;
  std::unique_ptr<TextStream> text_;  // null without a tokenizer
  bool wanted_ = true;
};

std::string per_second(int64_t tokens, double seconds) {
  const double rate = seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  if (rate >= 999.95) return with_commas(static_cast<int64_t>(rate + 0.5)) + " tok/s";
  return fixed(rate, 1) + " tok/s";
}

}  // namespace

Answer run_to_end(Engine& engine, const Tokenizer* tokenizer, const AnswerRequest& request,
                  const std::function<bool(const AnswerPiece&)>& on_piece) {
  Run run(engine, tokenizer, request, on_piece);
  try {
    return run.to_end();
  } catch (...) {
    run.cancel();  // the engine may live on
    throw;
  }
}

std::string timing_line(const Answer& a, double load_seconds) {
  const auto n = static_cast<int64_t>(a.ids.size());
  std::string out = str("prompt ", with_commas(a.prompt_tokens), " tok");
  if (a.reused_tokens > 0) out += str(" (", with_commas(a.reused_tokens), " reused)");
  if (n > 0) out += ", " + per_second(a.prompt_tokens - a.reused_tokens, a.first_token_seconds);
  out += str(" | answer ", with_commas(n), " tok");
  // The first token's time is the prompt's.
  if (n > 1) out += ", " + per_second(n - 1, a.total_seconds - a.first_token_seconds);
  out += str(" | load ", fixed(load_seconds, 1), " s");
  if (n > 0) out += str(" | first token ", fixed(a.first_token_seconds, 2), " s");
  return out;
}

}  // namespace dsr
