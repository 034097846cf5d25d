#include "deepseek_run/answer.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "app/answer_builder.h"
#include "app/format.h"
#include "base/error.h"
#include "base/timer.h"

namespace dsr {
namespace {

struct Sample {
  RequestId id = 0;
  AnswerBuilder builder;
};

// Several answers to one prompt, and whether the caller still wants them.
class Run {
 public:
  Run(Engine& engine, const Tokenizer* tokenizer, const AnswerRequest& request, int64_t n,
      const std::function<bool(const SamplePiece&)>& on_piece)
      : engine_(engine), on_piece_(on_piece) {
    for (int64_t i = 0; i < n; ++i)
      samples_.push_back(std::unique_ptr<Sample>(
          new Sample{0, {tokenizer, request, [this, i](const AnswerPiece& piece) {
                           give({i, piece});
                         }}}));
  }

  std::vector<Answer> to_end(Request request) {
    for (const auto& sample : samples_) {
      sample->id = engine_.submit(request);
      ++request.sampling.sample_index;
    }
    while (first_running() >= 0) step();
    std::vector<Answer> out;
    for (const auto& sample : samples_) out.push_back(std::move(sample->builder.answer()));
    return out;
  }

  void cancel() {
    for (const auto& sample : samples_) engine_.cancel(sample->id);
  }

 private:
  void step() {
    for (const StepOutput& out : engine_.step())
      for (int64_t i = 0; i < std::ssize(samples_); ++i)
        if (samples_[static_cast<size_t>(i)]->id == out.request) take(i, out);
    if (wanted_ && first_running() >= 0) give({first_running(), {}});
    if (!wanted_) cancel();
  }

  void take(int64_t i, const StepOutput& out) {
    Sample& sample = *samples_[static_cast<size_t>(i)];
    // A token that was under way when the caller had enough is not part of the answer.
    sample.builder.take(wanted_ ? out : StepOutput{out.request, {}, out.finish}, timer_.seconds());
    if (sample.builder.ended())
      give({i, {}, true});
    else if (sample.builder.stopped())
      engine_.cancel(sample.id);
  }

  void give(const SamplePiece& piece) {
    if (on_piece_ && !on_piece_(piece)) wanted_ = false;
  }

  int64_t first_running() const {
    const auto at = std::find_if(samples_.begin(), samples_.end(),
                                 [](const auto& sample) { return !sample->builder.ended(); });
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
