#include "deepseek_run/perplexity.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "app/format.h"
#include "base/error.h"
#include "base/json.h"
#include "base/math.h"
#include "io/checkpoint.h"
#include "model/config.h"
#include "tensor/kv_format.h"

namespace dsr {
namespace {

constexpr int64_t kWindow = 4096;  // tokens

// log softmax(row)[id], the sum in double.
double log_prob_of(std::span<const float> row, TokenId id, int64_t position) {
  const double most = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float x : row) sum += std::exp(double{x} - most);
  const double out = double{row[static_cast<size_t>(id)]} - most - std::log(sum);
  if (!std::isfinite(out))
    fail(ErrorKind::kNonFinite, "perplexity: a logit at position ", position, " was not finite");
  return out;
}

// Mean and squared deviations of a stream (Welford 1962).
class Moments {
 public:
  void add(double x) {
    ++n_;
    const double before = x - mean_;
    mean_ += before / static_cast<double>(n_);
    squares_ += before * (x - mean_);
  }
  int64_t n() const { return n_; }
  double mean() const { return mean_; }
  double standard_error() const {
    if (n_ < 2) return std::numeric_limits<double>::quiet_NaN();
    return std::sqrt(squares_ / static_cast<double>(n_ - 1) / static_cast<double>(n_));
  }

 private:
  int64_t n_ = 0;
  double mean_ = 0, squares_ = 0;
};

int64_t window_of(const PerplexityOptions& o, int64_t n_ids) {
  if (o.engine.ctx_size > 0) return std::min(o.engine.ctx_size, std::max<int64_t>(n_ids, 2));
  const Checkpoint checkpoint = Checkpoint::open(o.engine.model_dir, {});
  const int64_t model = parse_config(checkpoint.config(), {}).max_position_embeddings;
  return std::min({model, kWindow, n_ids});
}

}  // namespace

double Perplexity::value() const { return std::exp(-log_prob); }
double Perplexity::standard_error() const { return value() * deviation; }
double Perplexity::bits_per_token() const { return -log_prob / std::log(2.0); }

Perplexity perplexity(const PerplexityOptions& o, std::span<const TokenId> ids) {
  const auto n = static_cast<int64_t>(ids.size());
  if (n < 2) fail_usage("perplexity needs at least 2 tokens, the text has ", n);
  EngineOptions options = o.engine;
  options.ctx_size = window_of(o, n);
  if (options.ctx_size < 2) fail_usage("perplexity needs a window of at least 2 tokens");
  const int64_t window = options.ctx_size;
  const int64_t stride = o.stride > 0 ? o.stride : std::max<int64_t>(window / 2, 1);
  if (stride >= window)
    fail_usage("stride is ", stride, ", expected less than the window of ", window, " tokens");
  const auto engine = Engine::create(options);

  Moments moments;
  int64_t predicted = 1;  // the next one to be predicted; nothing is known before the first
  Perplexity out;
  for (int64_t first = 0; predicted < n; first += stride) {
    if (o.keep_going && !o.keep_going()) return out;
    const int64_t count = std::min(window, n - first);
    const auto part = ids.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
    engine->logits(part, [&](int64_t position, std::span<const float> row) {
      const int64_t next = first + position + 1;
      if (next != predicted || next >= first + count) return;
      const TokenId id = ids[static_cast<size_t>(next)];
      const PredictedToken token{next, id, log_prob_of(row, id, next)};
      moments.add(token.log_prob);
      if (o.on_token) o.on_token(token);
      ++predicted;
    });
  }
  out.tokens = moments.n();
  out.log_prob = moments.mean();
  out.deviation = moments.standard_error();
  out.complete = true;
  return out;
}

std::string perplexity_text(const Perplexity& p, int64_t text_bytes) {
  std::string out = str("perplexity ", fixed(p.value(), 4), " +- ",
                        std::isnan(p.deviation) ? "unknown" : fixed(p.standard_error(), 4), " | ",
                        with_commas(p.tokens), p.tokens == 1 ? " token | " : " tokens | ",
                        fixed(p.bits_per_token(), 4), " bits per token");
  if (text_bytes > 0)
    out += str(
        " | ",
        fixed(p.bits_per_token() * static_cast<double>(p.tokens) / static_cast<double>(text_bytes),
              4),
        " bits per byte");
  return out + "\n";
}

std::string perplexity_json(const Perplexity& p, int64_t text_bytes) {
  Json out = Json::object();
  const auto known = [&](double v) { return std::isnan(v) ? Json() : Json(v); };
  out.set("perplexity", p.value()).set("standard_error", known(p.standard_error()));
  out.set("tokens", p.tokens).set("log_prob", p.log_prob);
  out.set("log_prob_standard_error", known(p.deviation)).set("bits_per_token", p.bits_per_token());
  if (text_bytes > 0)
    out.set("bits_per_byte",
            p.bits_per_token() * static_cast<double>(p.tokens) / static_cast<double>(text_bytes));
  return out.dump() + "\n";
}

std::string predicted_token_json(const PredictedToken& t, const Tokenizer* tokenizer) {
  Json out = Json::object();
  out.set("position", t.position).set("id", int64_t{t.id});
  if (tokenizer != nullptr) out.set("text", tokenizer->token_bytes(t.id));
  return out.set("log_prob", t.log_prob).dump() + "\n";
}

}  // namespace dsr
