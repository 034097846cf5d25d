#include "deepseek_run/answer.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "app/format.h"
#include "app/text_stream.h"
#include "base/error.h"
#include "base/timer.h"

namespace dsr {
namespace {

// One answer: its request and the text so far.
class Sample {
 public:
  using Sink = std::function<void(AnswerPiece)>;

  Sample(const Tokenizer* tokenizer, const AnswerRequest& request, Sink sink)
      : sink_(std::move(sink)) {
    if (tokenizer != nullptr)
      text_ = std::make_unique<TextStream>(*tokenizer, request,
                                           [this](AnswerPiece piece) { give(std::move(piece)); });
    else if (!request.stop.empty())
      fail_usage("stop strings need a tokenizer, and the model has no tokenizer.json");
    answer_.prompt_tokens = std::ssize(request.request.prompt);
    answer_.seed = request.request.sampling.seed;
  }

  void submit(Engine& engine, const Request& request) { id_ = engine.submit(request); }
  RequestId id() const { return id_; }
  bool ended() const { return answer_.finish != FinishReason::kNone; }
  // Nothing more is wanted of it: a stop string was found.
  bool stopped() const { return text_ && text_->stopped(); }

  void take(const StepOutput& out, double seconds) {
    answer_.finish = out.finish;
    for (size_t i = 0; i < out.tokens.size() && !stopped(); ++i) {
      if (answer_.ids.empty()) answer_.first_token_seconds = seconds;
      answer_.ids.push_back(out.tokens[i]);
      if (!out.log_probs.empty()) answer_.log_probs.push_back(out.log_probs.at(i));
      if (text_) text_->push(out.tokens[i]);
    }
  }

  // Its last step is done: gives out what was held back.
  void finish(double seconds) {
    if (text_) text_->finish();
    if (stopped()) answer_.finish = FinishReason::kStop;
    answer_.total_seconds = seconds;
  }

  Answer take_answer() { return std::move(answer_); }

 private:
  void give(AnswerPiece piece) {
    (piece.reasoning ? answer_.reasoning : answer_.content) += piece.text;
    sink_(std::move(piece));
  }

  Sink sink_;
  RequestId id_ = 0;
  Answer answer_;
  std::unique_ptr<TextStream> text_;  // null without a tokenizer
};

// Several answers to one prompt, and whether the caller still wants them.
class Run {
 public:
  Run(Engine& engine, const Tokenizer* tokenizer, const AnswerRequest& request, int64_t n,
      const std::function<bool(const SamplePiece&)>& on_piece)
      : engine_(engine), on_piece_(on_piece) {
    for (int64_t i = 0; i < n; ++i)
      samples_.push_back(std::make_unique<Sample>(tokenizer, request, [this, i](AnswerPiece piece) {
        give({i, std::move(piece)});
      }));
  }

  std::vector<Answer> to_end(Request request) {
    for (const auto& sample : samples_) {
      sample->submit(engine_, request);
      ++request.sampling.sample_index;
    }
    while (first_running() >= 0) step();
    std::vector<Answer> out;
    for (const auto& sample : samples_) out.push_back(sample->take_answer());
    return out;
  }

  void cancel() {
    for (const auto& sample : samples_) engine_.cancel(sample->id());
  }

 private:
  void step() {
    for (const StepOutput& out : engine_.step())
      for (int64_t i = 0; i < std::ssize(samples_); ++i)
        if (samples_[static_cast<size_t>(i)]->id() == out.request) take(i, out);
    if (wanted_ && first_running() >= 0) give({first_running(), {}});
    if (!wanted_) cancel();
  }

  void take(int64_t i, const StepOutput& out) {
    Sample& sample = *samples_[static_cast<size_t>(i)];
    // A token that was under way when the caller had enough is not part of the answer.
    sample.take(wanted_ ? out : StepOutput{out.request, {}, out.finish}, timer_.seconds());
    if (sample.ended()) {
      sample.finish(timer_.seconds());
      give({i, {}, true});
    } else if (sample.stopped()) {
      engine_.cancel(sample.id());
    }
  }

  void give(const SamplePiece& piece) {
    if (on_piece_ && !on_piece_(piece)) wanted_ = false;
  }

  int64_t first_running() const {
    const auto at = std::find_if(samples_.begin(), samples_.end(),
                                 [](const auto& sample) { return !sample->ended(); });
    return at == samples_.end() ? -1 : at - samples_.begin();
  }

  Engine& engine_;
  const std::function<bool(const SamplePiece&)>& on_piece_;
  Timer timer_;
  std::vector<std::unique_ptr<Sample>> samples_;
  bool wanted_ = true;
};

std::string per_second(int64_t tokens, double seconds) {
  const double rate = seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  if (rate >= 999.95) return with_commas(static_cast<int64_t>(rate + 0.5)) + " tok/s";
  return fixed(rate, 1) + " tok/s";
}

}  // namespace

std::vector<Answer> run_samples(Engine& engine, const Tokenizer* tokenizer,
                                const AnswerRequest& request, int64_t n,
                                const std::function<bool(const SamplePiece&)>& on_piece) {
  if (n < 1) fail_usage("n is ", n, ", expected at least 1");
  Run run(engine, tokenizer, request, n, on_piece);
  try {
    return run.to_end(request.request);
  } catch (...) {
    run.cancel();  // the engine may live on
    throw;
  }
}

Answer run_to_end(Engine& engine, const Tokenizer* tokenizer, const AnswerRequest& request,
                  const std::function<bool(const AnswerPiece&)>& on_piece) {
  const auto of_one = [&](const SamplePiece& p) {
    return p.last || !on_piece || on_piece(p.piece);
  };
  return std::move(run_samples(engine, tokenizer, request, 1, of_one).front());
}

std::string timing_line(const std::vector<Answer>& answers, double load_seconds) {
  DSR_CHECK(!answers.empty());
  const int64_t count = std::ssize(answers);
  int64_t prompt_tokens = 0, tokens = 0, after_first = 0;
  double first_token = 0, total = 0;  // of the answer that took longest
  for (const Answer& a : answers) {
    prompt_tokens += a.prompt_tokens - a.reused_tokens;
    tokens += std::ssize(a.ids);
    // The first token's time is the prompt's.
    after_first += std::max<int64_t>(0, std::ssize(a.ids) - 1);
    first_token = std::max(first_token, a.first_token_seconds);
    total = std::max(total, a.total_seconds);
  }
  std::string out = "prompt ";
  if (count > 1) out += str(count, " x ");
  out += with_commas(answers.front().prompt_tokens) + " tok";
  if (const int64_t reused = answers.front().reused_tokens; reused > 0)
    out += str(" (", with_commas(reused), " reused)");
  if (tokens > 0) out += ", " + per_second(prompt_tokens, first_token);
  out += count > 1 ? str(" | ", count, " answers ") : " | answer ";
  out += with_commas(tokens) + " tok";
  if (after_first > 0) out += ", " + per_second(after_first, total - first_token);
  out += str(" | load ", fixed(load_seconds, 1), " s");
  if (tokens > 0) out += str(" | first token ", fixed(first_token, 2), " s");
  return out;
}

}  // namespace dsr
