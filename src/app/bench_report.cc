#include "app/bench_report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "app/format.h"
#include "base/error.h"
#include "base/json.h"
#include "deepseek_run/version.h"

namespace dsr {
namespace {

struct Rates {
  double ms_per_step = 0;  // a whole prompt is one step here
  double gb_per_s = 0, bandwidth_share = 0, tflops = 0, peak_share = 0;
};

// From the median repetition.
Rates rates_of(const BenchRow& r, const DevicePeaks& peaks) {
  const double seconds = r.median_seconds();
  Rates out;
  if (r.decode) {
    out.ms_per_step = seconds / static_cast<double>(r.n) * 1e3;
    out.gb_per_s = r.gb_per_s(seconds);
    out.bandwidth_share = out.gb_per_s / peaks.gb_per_s;
  } else {
    out.ms_per_step = seconds * 1e3;
    out.tflops = r.flop / seconds * 1e-12;
    out.peak_share = out.tflops / peaks.tflop_per_s;
  }
  return out;
}

Json numbers(const std::vector<double>& v) { return Json(Json::Array(v.begin(), v.end())); }

Json row_json(const BenchRow& r, const DevicePeaks& peaks) {
  const Rates rates = rates_of(r, peaks);
  Json out = Json::object();
  out.set("test", r.test).set("batch", r.batch).set("depth", r.depth).set("n", r.n);
  out.set("tok_per_s", mean_of(r.tok_per_s())).set("tok_per_s_sd", deviation_of(r.tok_per_s()));
  out.set("tok_per_s_median", r.tokens() / r.median_seconds());
  out.set("ms_per_step", rates.ms_per_step);
  const auto only = [](bool wanted, double v) { return wanted ? Json(v) : Json(); };
  out.set("gb_per_s", only(r.decode, rates.gb_per_s));
  out.set("bandwidth_share", only(r.decode, rates.bandwidth_share));
  const std::optional<double> of_read = r.share_of_read();
  out.set("bandwidth_share_then", of_read ? Json(*of_read) : Json());
  out.set("tflops", only(!r.decode, rates.tflops));
  out.set("peak_share", only(!r.decode, rates.peak_share));
  out.set("bytes_per_step", only(r.decode, r.bytes_per_step));
  out.set("peak_memory_bytes", r.peak_memory_bytes);
  return out.set("repetitions", numbers(r.tok_per_s()));
}

struct NamedSpread {
  const char* title;  // in a table
  const char* name;   // in json, with "_ms"
  Spread spread;      // seconds
};
std::array<NamedSpread, 4> named(const Latencies& l) {
  return {{{"TTFT", "ttft_ms", l.ttft},
           {"TPOT", "tpot_ms", l.tpot},
           {"ITL", "itl_ms", l.itl},
           {"E2E", "e2e_ms", l.e2e}}};
}
constexpr std::array kSpreadNames = {"mean", "median", "p90", "p99"};
std::array<double, 4> milliseconds(const Spread& s) {
  return {s.mean * 1e3, s.median * 1e3, s.p90 * 1e3, s.p99 * 1e3};
}

void set_latencies(Json& out, const Latencies& l) {
  for (const NamedSpread& s : named(l)) {
    Json spread = Json::object();
    for (size_t i = 0; i < kSpreadNames.size(); ++i)
      spread.set(kSpreadNames[i], milliseconds(s.spread)[i]);
    out.set(s.name, std::move(spread));
  }
}

Json serve_json(const ServeRow& r) {
  const ServeCase& c = r.serve;
  const std::vector<double> speeds = r.tok_per_s(), of_one = r.request_tok_per_s();
  Json out = Json::object();
  out.set("test", r.test).set("batch", c.batch).set("depth", int64_t{0}).set("n", c.n);
  out.set("prompt", c.prompt).set("requests", c.requests);
  out.set("rate", std::isinf(c.rate) ? Json() : Json(c.rate));  // JSON has no infinity
  out.set("tok_per_s", mean_of(speeds)).set("tok_per_s_sd", deviation_of(speeds));
  out.set("request_tok_per_s", mean_of(of_one));
  set_latencies(out, latencies_of(r.all_requests()));
  out.set("peak_memory_bytes", r.peak_memory_bytes);
  Json repetitions = Json::array();
  for (size_t i = 0; i < r.repetitions.size(); ++i) {
    Json one = Json::object();
    one.set("tok_per_s", speeds[i]).set("request_tok_per_s", of_one[i]);
    set_latencies(one, latencies_of(r.repetitions[i]));
    repetitions.push_back(std::move(one));
  }
  return out.set("repetitions", std::move(repetitions));
}

std::string processor(const BenchFindings& f) {
  return f.peaks.threads > 0 ? str(f.processor, ", threads: ", f.peaks.threads) : f.processor;
}

std::string percent(double share) { return fixed(share * 100, 1) + " %"; }

std::vector<std::vector<std::string>> cells(const BenchFindings& f, bool units) {
  std::vector<std::vector<std::string>> out = {{"test", "batch", "depth", "tok/s", "+-",
                                                "ms per step", "GB/s", "of bandwidth", "of it then",
                                                "TFLOP/s", "of peak", "peak memory"}};
  for (const BenchRow& r : f.rows) {
    const Rates x = rates_of(r, f.peaks);
    const std::optional<double> of_read = r.share_of_read();
    const auto share = [&](double v) { return units ? percent(v) : fixed(v, 4); };
    out.push_back({r.test, str(r.batch), str(r.depth), fixed(mean_of(r.tok_per_s()), 2),
                   fixed(deviation_of(r.tok_per_s()), 2), fixed(x.ms_per_step, 3),
                   r.decode ? fixed(x.gb_per_s, 2) : "", r.decode ? share(x.bandwidth_share) : "",
                   of_read ? share(*of_read) : "", r.decode ? "" : fixed(x.tflops, 4),
                   r.decode ? "" : share(x.peak_share),
                   units ? human_bytes(r.peak_memory_bytes) : str(r.peak_memory_bytes)});
  }
  return out;
}

// A line for each of the four latencies, in milliseconds.
std::vector<std::vector<std::string>> serve_cells(const BenchFindings& f) {
  std::vector<std::vector<std::string>> out = {
      {"test", "batch", "requests", "tok/s", "+-", "ms", "mean", "median", "p90", "p99"}};
  for (const ServeRow& r : f.serve_rows)
    for (const NamedSpread& s : named(latencies_of(r.all_requests()))) {
      const std::vector<double> speeds = r.tok_per_s();
      std::vector<std::string>& line = out.emplace_back(std::vector<std::string>{
          r.test, str(r.serve.batch), str(r.serve.requests * std::ssize(r.repetitions)),
          fixed(mean_of(speeds), 2), fixed(deviation_of(speeds), 2), s.title});
      for (const double ms : milliseconds(s.spread)) line.push_back(fixed(ms, 2));
    }
  return out;
}

// A line for each row.
std::vector<std::vector<std::string>> serve_columns(const BenchFindings& f) {
  std::vector<std::vector<std::string>> out = {
      {"test", "batch", "rate", "requests", "tok/s", "+-"}};
  for (const NamedSpread& s : named({}))
    for (const char* name : kSpreadNames) out[0].push_back(str(s.name, "_", name));
  out[0].push_back("peak memory");
  for (const ServeRow& r : f.serve_rows) {
    const std::vector<double> speeds = r.tok_per_s();
    std::vector<std::string>& line = out.emplace_back(std::vector<std::string>{
        r.test, str(r.serve.batch), std::isinf(r.serve.rate) ? "inf" : fixed(r.serve.rate, 3),
        str(r.serve.requests * std::ssize(r.repetitions)), fixed(mean_of(speeds), 2),
        fixed(deviation_of(speeds), 2)});
    for (const NamedSpread& s : named(latencies_of(r.all_requests())))
      for (const double ms : milliseconds(s.spread)) line.push_back(fixed(ms, 3));
    line.push_back(str(r.peak_memory_bytes));
  }
  return out;
}

std::string markdown(const BenchFindings& f) {
  std::string out = str(escaped(f.model), ", ", escaped(f.architecture), ", ", f.weights,
                        " weights, cache ", f.cache_type, "; device ", f.device, "\n", processor(f),
                        "; reads ", fixed(f.peaks.gb_per_s, 1), " GB/s, ", f.peaks.flop_type,
                        " peak ", fixed(f.peaks.tflop_per_s, 3),
                        " TFLOP/s, the best measured; start ", fixed(f.start_seconds, 2),
                        " s, load (", f.load_mode, ") ", fixed(f.load_seconds, 2), " s\n\n");
  if (f.serve_rows.empty()) return out + markdown_table(cells(f, /*units=*/true), /*left=*/1);
  int64_t peak = 0;
  for (const ServeRow& r : f.serve_rows) peak = std::max(peak, r.peak_memory_bytes);
  return out + markdown_table(serve_cells(f), /*left=*/1) +
         str("\npeak memory ", human_bytes(peak), "\n");
}

}  // namespace

double mean_of(const std::vector<double>& v) {
  return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size());
}

double deviation_of(const std::vector<double>& v) {
  if (v.size() < 2) return 0;
  const double mean = mean_of(v);
  double squares = 0;
  for (const double x : v) squares += (x - mean) * (x - mean);
  return std::sqrt(squares / static_cast<double>(v.size() - 1));
}

std::vector<double> BenchRow::tok_per_s() const {
  std::vector<double> out;
  for (const double s : seconds) out.push_back(tokens() / s);
  return out;
}

double median_of(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  const size_t half = v.size() / 2;
  return v.size() % 2 == 1 ? v[half] : (v[half - 1] + v[half]) / 2;
}

double BenchRow::median_seconds() const { return median_of(seconds); }

double BenchRow::gb_per_s(double of_seconds) const {
  return bytes_per_step * static_cast<double>(n) / of_seconds * 1e-9;
}

std::optional<double> BenchRow::share_of_read() const {
  if (read_gb_per_s.empty()) return std::nullopt;
  std::vector<double> shares;
  for (size_t i = 0; i < seconds.size(); ++i)
    shares.push_back(gb_per_s(seconds[i]) / ((read_gb_per_s[i] + read_gb_per_s[i + 1]) / 2));
  return median_of(shares);
}

Json bench_head_json(const BenchFindings& f) {
  Json out = Json::object();
  out.set("build", str("deepseek-run ", kVersion, ", ", __VERSION__));
  out.set("machine", processor(f));
  out.set("device", f.device);
  out.set("clocks", Json::object().set("start_mhz", f.start_mhz).set("end_mhz", f.end_mhz));
  out.set("model", f.model).set("architecture", f.architecture).set("weights", f.weights);
  out.set("cache_type", f.cache_type)
      .set("load_mode", f.load_mode)
      .set("start_seconds", f.start_seconds)
      .set("load_seconds", f.load_seconds);
  out.set("planned_memory_bytes", f.planned_memory_bytes);
  out.set("bandwidth_gb_per_s", f.peaks.gb_per_s).set("peak_tflops", f.peaks.tflop_per_s);
  out.set("peak_type", f.peaks.flop_type);
  return out;
}

std::string bench_text(const BenchFindings& f, BenchFormat format) {
  if (format == BenchFormat::kMarkdown) return markdown(f);
  if (format == BenchFormat::kCsv)
    return csv_table(f.serve_rows.empty() ? cells(f, /*units=*/false) : serve_columns(f));
  Json rows = Json::array();
  for (const BenchRow& r : f.rows) rows.push_back(row_json(r, f.peaks));
  for (const ServeRow& r : f.serve_rows) rows.push_back(serve_json(r));
  if (format == BenchFormat::kJson)
    return bench_head_json(f).set("rows", std::move(rows)).dump() + "\n";
  std::string out;
  for (const Json& row : rows.as_array()) out += bench_head_json(f).set("row", row).dump() + "\n";
  return out;
}

}  // namespace dsr
