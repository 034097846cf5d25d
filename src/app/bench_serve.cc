#include "app/bench_serve.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <thread>

#include "app/bench_report.h"
#include "app/format.h"
#include "app/machine.h"
#include "base/error.h"
#include "base/timer.h"

namespace dsr {
namespace {

constexpr double kLongestSleep = 0.02;  // seconds, so that a signal is seen

// Of sorted values.
double quantile(const std::vector<double>& v, double share) {
  const double place = share * static_cast<double>(v.size() - 1);
  const auto below = static_cast<size_t>(place);
  const double above = v[std::min(below + 1, v.size() - 1)];
  return v[below] + (above - v[below]) * (place - static_cast<double>(below));
}

// "4", "0.5", "inf"
std::string rate_text(double rate) {
  if (std::isinf(rate)) return "inf";
  std::string out = fixed(rate, 3);
  out.erase(out.find_last_not_of('0') + 1);
  if (out.ends_with('.')) out.pop_back();
  return out;
}

class Server {
 public:
  Server(Engine& engine, const ServeRun& run) : engine_(engine), run_(run) {
    for (const double t : arrivals(run.serve.rate, run.serve.requests, run.seed))
      requests_.push_back({.arrival = t});
  }

  std::optional<std::vector<ServedRequest>> run() {
    while (next_ < requests_.size() || !running_.empty()) {
      if (run_.keep_going && !run_.keep_going()) return std::nullopt;
      submit_arrived();
      if (running_.empty())
        wait();
      else
        step();
    }
    return std::move(requests_);
  }

 private:
  void submit_arrived() {
    while (next_ < requests_.size() && std::ssize(running_) < run_.serve.batch &&
           requests_[next_].arrival <= timer_.seconds()) {
      const RequestId id = engine_.submit(
          random_request(run_.ids, engine_.info().vocab_size, run_.serve.prompt, run_.serve.n));
      running_[id] = next_++;
    }
  }

  void wait() const {
    const double left = requests_[next_].arrival - timer_.seconds();
    std::this_thread::sleep_for(std::chrono::duration<double>(std::min(left, kLongestSleep)));
  }

  void step() {
    const std::vector<StepOutput> outputs = engine_.step();
    const double now = timer_.seconds();
    for (const StepOutput& out : outputs) {
      if (out.finish == FinishReason::kError)
        fail(ErrorKind::kNonFinite, "bench: a logit was not finite");
      std::vector<double>& tokens = requests_[running_.at(out.request)].tokens;
      tokens.insert(tokens.end(), out.tokens.size(), now);
      if (out.finish != FinishReason::kNone) running_.erase(out.request);
    }
  }

  Engine& engine_;
  const ServeRun& run_;
  std::vector<ServedRequest> requests_;  // in order of arrival
  size_t next_ = 0;                      // the first that was not submitted
  std::map<RequestId, size_t> running_ = {};
  Timer timer_;
};

}  // namespace

Spread spread_of(std::vector<double> v) {
  DSR_CHECK(!v.empty());
  std::sort(v.begin(), v.end());
  return {mean_of(v), quantile(v, 0.5), quantile(v, 0.9), quantile(v, 0.99)};
}

Latencies latencies_of(std::span<const ServedRequest> requests) {
  std::vector<double> ttft, tpot, itl, e2e;
  for (const ServedRequest& r : requests) {
    DSR_CHECK(r.tokens.size() >= 2, r.tokens.size());
    const double first = r.tokens.front(), last = r.tokens.back();
    ttft.push_back(first - r.arrival);
    e2e.push_back(last - r.arrival);
    tpot.push_back((last - first) / static_cast<double>(r.tokens.size() - 1));
    for (size_t i = 1; i < r.tokens.size(); ++i) itl.push_back(r.tokens[i] - r.tokens[i - 1]);
  }
  return {spread_of(std::move(ttft)), spread_of(std::move(tpot)), spread_of(std::move(itl)),
          spread_of(std::move(e2e))};
}

std::vector<double> ServeRow::tok_per_s() const {
  std::vector<double> out;
  for (const std::vector<ServedRequest>& requests : repetitions) {
    double end = 0, tokens = 0;
    for (const ServedRequest& r : requests) {
      end = std::max(end, r.tokens.back());
      tokens += static_cast<double>(r.tokens.size());
    }
    out.push_back(tokens / end);  // the first arrives at 0
  }
  return out;
}

std::vector<double> ServeRow::request_tok_per_s() const {
  std::vector<double> out;
  for (const std::vector<ServedRequest>& requests : repetitions)
    out.push_back(static_cast<double>(serve.n) / latencies_of(requests).e2e.mean);
  return out;
}

std::vector<ServedRequest> ServeRow::all_requests() const {
  std::vector<ServedRequest> out;
  for (const std::vector<ServedRequest>& r : repetitions) out.insert(out.end(), r.begin(), r.end());
  return out;
}

std::string serve_test(const ServeCase& c) {
  return str("serve", c.prompt, "+", c.n, "@", rate_text(c.rate));
}

std::vector<double> arrivals(double rate, int64_t n, uint64_t seed) {
  PhiloxStream random(seed, /*stream=*/0);
  std::vector<double> out;
  for (double t = 0; std::ssize(out) < n;) {
    out.push_back(t);
    t -= std::log(double{random.next_uniform()}) / rate;
  }
  return out;
}

Request random_request(PhiloxStream& ids, int64_t vocab_size, int64_t prompt, int64_t n) {
  Request r;
  const auto vocabulary = static_cast<uint32_t>(vocab_size);
  for (int64_t i = 0; i < prompt; ++i)
    r.prompt.push_back(static_cast<TokenId>(ids.next_u32() % vocabulary));
  r.max_new_tokens = n;
  r.ignore_eos = true;
  r.sampling.loop_guard = false;  // random weights have nothing to say
  r.sampling.temperature = 0;
  return r;
}

int64_t taken_memory_bytes(Engine& engine) {
  const int64_t of_gpu = engine.device_bytes_used();
  return of_gpu > 0 ? of_gpu : peak_memory_bytes() - engine.probe_bytes();
}

std::optional<std::vector<ServedRequest>> serve(Engine& engine, const ServeRun& run) {
  return Server(engine, run).run();
}

}  // namespace dsr
