#include "app/bench_report.h"

#include <algorithm>
#include <cmath>

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
    const double step = seconds / static_cast<double>(r.n);
    out.ms_per_step = step * 1e3;
    out.gb_per_s = r.bytes_per_step / step * 1e-9;
    out.bandwidth_share = out.gb_per_s / peaks.gb_per_s;
  } else {
    out.ms_per_step = seconds * 1e3;
    out.tflops = r.flop / seconds * 1e-12;
    out.peak_share = out.tflops / peaks.tflop_per_s;
  }
  return out;
}

Json row_json(const BenchRow& r, const DevicePeaks& peaks) {
  const Rates rates = rates_of(r, peaks);
  Json out = Json::object();
  out.set("test", r.test).set("batch", r.batch).set("depth", r.depth).set("n", r.n);
  out.set("tok_per_s", r.tok_per_s()).set("tok_per_s_sd", r.tok_per_s_sd());
  out.set("tok_per_s_median", r.tokens() / r.median_seconds());
  out.set("ms_per_step", rates.ms_per_step);
  const auto only = [](bool wanted, double v) { return wanted ? Json(v) : Json(); };
  out.set("gb_per_s", only(r.decode, rates.gb_per_s));
  out.set("bandwidth_share", only(r.decode, rates.bandwidth_share));
  out.set("tflops", only(!r.decode, rates.tflops));
  out.set("peak_share", only(!r.decode, rates.peak_share));
  out.set("bytes_per_step", only(r.decode, r.bytes_per_step));
  out.set("peak_memory_bytes", r.peak_memory_bytes);
  Json repetitions = Json::array();
  for (const double s : r.seconds) repetitions.push_back(r.tokens() / s);
  out.set("repetitions", std::move(repetitions));
  return out;
}

std::string processor(const BenchFindings& f) {
  return f.peaks.threads > 0 ? str(f.processor, ", threads: ", f.peaks.threads) : f.processor;
}

Json head_json(const BenchFindings& f) {
  Json out = Json::object();
  out.set("build", str("deepseek-run ", kVersion, ", ", __VERSION__));
  out.set("machine", processor(f));
  out.set("device", f.device);
  out.set("clocks", Json::object().set("start_mhz", f.start_mhz).set("end_mhz", f.end_mhz));
  out.set("model", f.model).set("architecture", f.architecture).set("weights", f.weights);
  out.set("cache_type", f.cache_type)
      .set("load_mode", f.load_mode)
      .set("load_seconds", f.load_seconds);
  out.set("bandwidth_gb_per_s", f.peaks.gb_per_s).set("peak_tflops", f.peaks.tflop_per_s);
  return out;
}

std::string percent(double share) { return fixed(share * 100, 1) + " %"; }

std::vector<std::vector<std::string>> cells(const BenchFindings& f, bool units) {
  std::vector<std::vector<std::string>> out = {{"test", "batch", "depth", "tok/s", "+-",
                                                "ms per step", "GB/s", "of bandwidth", "TFLOP/s",
                                                "of peak", "peak memory"}};
  for (const BenchRow& r : f.rows) {
    const Rates x = rates_of(r, f.peaks);
    const auto share = [&](double v) { return units ? percent(v) : fixed(v, 4); };
    out.push_back({r.test, str(r.batch), str(r.depth), fixed(r.tok_per_s(), 2),
                   fixed(r.tok_per_s_sd(), 2), fixed(x.ms_per_step, 3),
                   r.decode ? fixed(x.gb_per_s, 2) : "", r.decode ? share(x.bandwidth_share) : "",
                   r.decode ? "" : fixed(x.tflops, 4), r.decode ? "" : share(x.peak_share),
                   units ? human_bytes(r.peak_memory_bytes) : str(r.peak_memory_bytes)});
  }
  return out;
}

std::string joined(const std::vector<std::string>& row, const char* separator) {
  std::string out;
  for (size_t i = 0; i < row.size(); ++i) out += (i > 0 ? separator : "") + row[i];
  return out;
}

std::string markdown(const BenchFindings& f) {
  std::string out =
      str(escaped(f.model), ", ", escaped(f.architecture), ", ", f.weights, " weights, cache ",
          f.cache_type, "; device ", f.device, "\n", processor(f), "; reads ",
          fixed(f.peaks.gb_per_s, 1), " GB/s, ", f.peaks.flop_type, " peak ",
          fixed(f.peaks.tflop_per_s, 3), " TFLOP/s, both measured in this process; load (",
          f.load_mode, ") ", fixed(f.load_seconds, 2), " s\n\n");
  const auto rows = cells(f, /*units=*/true);
  for (size_t i = 0; i < rows.size(); ++i) {
    out += "| " + joined(rows[i], " | ") + " |\n";
    if (i > 0) continue;
    out += "|---|";
    for (size_t c = 1; c < rows[0].size(); ++c) out += "---:|";
    out += "\n";
  }
  return out;
}

}  // namespace

double BenchRow::tok_per_s() const {
  double sum = 0;
  for (const double s : seconds) sum += tokens() / s;
  return sum / static_cast<double>(seconds.size());
}

double BenchRow::tok_per_s_sd() const {
  if (seconds.size() < 2) return 0;
  const double mean = tok_per_s();
  double squares = 0;
  for (const double s : seconds) squares += (tokens() / s - mean) * (tokens() / s - mean);
  return std::sqrt(squares / static_cast<double>(seconds.size() - 1));
}

double BenchRow::median_seconds() const {
  std::vector<double> sorted = seconds;
  std::sort(sorted.begin(), sorted.end());
  const size_t half = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

std::string bench_text(const BenchFindings& f, BenchFormat format) {
  std::string out;
  switch (format) {
    case BenchFormat::kMarkdown:
      return markdown(f);
    case BenchFormat::kCsv:
      for (const auto& row : cells(f, /*units=*/false)) out += joined(row, ",") + "\n";
      return out;
    case BenchFormat::kJsonl:
      for (const BenchRow& r : f.rows)
        out += head_json(f).set("row", row_json(r, f.peaks)).dump() + "\n";
      return out;
    case BenchFormat::kJson:
      break;
  }
  Json rows = Json::array();
  for (const BenchRow& r : f.rows) rows.push_back(row_json(r, f.peaks));
  return head_json(f).set("rows", std::move(rows)).dump() + "\n";
}

}  // namespace dsr
