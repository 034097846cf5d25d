// What it is worth to answer a file of prompts together, and in which order.
//
//   build/release/tests/bench/batch_bench MODEL_DIR [REPETITIONS [RECORDS [DEVICE [FILE]]]]
//
// Two files, of which FILE names one. "short": questions of a dozen tokens with short answers.
// "mixed": questions about texts of about 400 tokens, several about each and all mixed up, answers
// of 4 to 128 tokens, in a cache that holds few of the texts. Each is run one after another (one
// sequence at a time, in the order of the file), together in the order of the file, and together in
// the order that batch chooses. All by run_batch, which writes and syncs its records; loading is
// not counted. The files of the three hold the same records, or exit 1. Repetitions alternate
// between the three.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>

#include "base/json.h"
#include "base/rng.h"
#include "deepseek_run/batch.h"
#include "deepseek_run/error.h"
#include "support/temp_dir.h"

namespace dsr {
namespace {

struct Way {
  const char* name;
  int64_t max_seqs;  // 0: what batch chooses
  bool in_file_order;
};

struct Workload {
  const char* name;
  std::string lines;
  int64_t together;  // sequences at a time where they run together; 0: what batch chooses
};

Workload short_questions(int64_t n) {
  std::string lines;
  PhiloxStream random(1, 0);
  for (int64_t i = 0; i < n; ++i) {
    const auto number = [&] { return std::to_string(10 + random.next_u32() % 90); };
    Json line = Json::object();
    line.set("prompt", "What is " + number() + " + " + number() + "?").set("max_tokens", 64);
    lines += line.dump() + "\n";
  }
  return {"short", lines, 0};
}

Workload mixed_texts(int64_t n) {
  constexpr int64_t kTexts = 16;
  PhiloxStream random(2, 0);
  std::vector<std::string> texts(kTexts);
  for (std::string& text : texts)
    for (int i = 0; i < 100; ++i) text += std::to_string(random.next_u32() % 1000) + " and ";
  std::string lines;
  for (int64_t i = 0; i < n; ++i) {
    Json line = Json::object();
    line.set("prompt", texts[random.next_u32() % kTexts] + "question " + std::to_string(i));
    line.set("max_tokens", int64_t{4 + random.next_u32() % 125}).set("ignore_eos", true);
    lines += line.dump() + "\n";
  }
  return {"mixed", lines, 8};
}

struct Measured {
  std::vector<double> seconds;
  BatchResult result;
  std::string records;
};

class BatchBench {
 public:
  BatchBench(std::string model, std::string device)
      : model_(std::move(model)), device_(std::move(device)), tokenizer_(Tokenizer::load(model_)) {}

  void run(const Workload& w, int repetitions) {
    const std::string input = dir_.write("in.jsonl", w.lines);
    const std::array ways = {Way{"one after another", 1, true},
                             Way{"together, in the order of the file", w.together, true},
                             Way{"together, in the order batch chooses", w.together, false}};
    std::array<Measured, 3> measured;
    for (int r = 0; r < repetitions; ++r)
      for (size_t i = 0; i < ways.size(); ++i) measure(input, ways[i], measured[i]);
    for (size_t i = 0; i < ways.size(); ++i) {
      if (measured[i].records != measured[0].records)
        throw Error(ErrorKind::kInternal, std::string(ways[i].name) + ": other records");
      print(w, ways[i], measured[i], measured[0]);
    }
  }

 private:
  void measure(const std::string& input, const Way& way, Measured& out) {
    BatchOptions o;
    o.input = input;
    o.output = dir_.file("out.jsonl");
    o.engine.model_dir = model_;
    o.engine.device = device_;
    o.engine.tokenizer = tokenizer_.get();
    o.engine.max_seqs = way.max_seqs;
    o.in_file_order = way.in_file_order;
    o.ordered = o.restart = true;
    out.result = run_batch(o);
    out.seconds.push_back(out.result.progress.seconds);
    std::ifstream records(o.output);
    out.records.assign(std::istreambuf_iterator<char>(records), {});
  }

  static double mean(const std::vector<double>& v) {
    double sum = 0;
    for (const double x : v) sum += x;
    return sum / static_cast<double>(v.size());
  }

  static void print(const Workload& w, const Way& way, const Measured& m, const Measured& base) {
    double squares = 0;
    for (const double x : m.seconds) squares += (x - mean(m.seconds)) * (x - mean(m.seconds));
    const auto n = static_cast<double>(m.seconds.size());
    const double deviation = n > 1 ? std::sqrt(squares / (n - 1)) : 0;
    std::printf("| %s | %s | %.2f +- %.2f | %.0f | %lld | %lld | %.2f |\n", w.name, way.name,
                mean(m.seconds), deviation,
                static_cast<double>(m.result.progress.tokens) / mean(m.seconds),
                static_cast<long long>(m.result.stats.steps),
                static_cast<long long>(m.result.stats.prompt_tokens_computed),
                mean(base.seconds) / mean(m.seconds));
    std::fflush(stdout);
  }

  test::TempDir dir_;
  std::string model_, device_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

int run(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: batch_bench MODEL_DIR [REPETITIONS [RECORDS [DEVICE [FILE]]]]\n");
    return 2;
  }
  const int repetitions = argc > 2 ? std::max(1, std::atoi(argv[2])) : 3;
  const int64_t records = argc > 3 ? std::max(1, std::atoi(argv[3])) : 1000;
  BatchBench bench(argv[1], argc > 4 ? argv[4] : "cpu");
  std::printf(
      "| file | way | seconds | tok/s | steps | prompt tokens computed | times faster |\n"
      "|---|---|---:|---:|---:|---:|---:|\n");
  const std::string only = argc > 5 ? argv[5] : "";
  for (const Workload& w :
       {short_questions(records), mixed_texts(std::max<int64_t>(records / 5, 1))})
    if (only.empty() || only == w.name) bench.run(w, repetitions);
  return 0;
}

}  // namespace
}  // namespace dsr

int main(int argc, char** argv) {
  try {
    return dsr::run(argc, argv);
  } catch (const dsr::Error& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
