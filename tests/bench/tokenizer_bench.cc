// How fast tokenizers load and encode, and that 1 MiB of anything is encoded on a stack of 64 KB.
//
//   build/release/tests/bench/tokenizer_bench TOKENIZER_DIR [ENGLISH_TEXT]
//
// Each number is the best of five. Exit 1 if a promise of hostile.md (U2) is broken: more than 0.3
// s for a MiB.
#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>

#include "base/rng.h"
#include "base/utf8.h"
#include "deepseek_run/error.h"
#include "deepseek_run/tokenizer.h"

namespace dsr {
namespace {

constexpr int kRepetitions = 5;
constexpr size_t kMib = size_t{1} << 20;
constexpr double kMaxSecondsPerMib = 0.3;

double best_seconds(const std::function<void()>& run) {
  double best = 1e9;
  for (int i = 0; i < kRepetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  return best;
}

std::string repeated(std::string_view unit) {
  std::string text;
  while (text.size() < kMib) text += unit;
  return text;
}

std::string random_text(char32_t first, uint32_t count) {
  PhiloxStream random(1, 0);
  std::string text;
  while (text.size() < kMib) append_utf8(text, first + random.next_u32() % count);
  return text;
}

struct Task {
  const Tokenizer* tokenizer;
  const std::string* text;
  double seconds;
};

void* measure(void* argument) {
  auto& task = *static_cast<Task*>(argument);
  task.seconds = best_seconds([&] { task.tokenizer->encode(*task.text); });
  return nullptr;
}

double seconds_on_a_small_stack(const Tokenizer& tokenizer, const std::string& text) {
  Task task{&tokenizer, &text, 0};
  pthread_attr_t attributes;
  pthread_t thread;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 64 << 10);
  if (pthread_create(&thread, &attributes, measure, &task) != 0) return 1e9;
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  return task.seconds;
}

int run(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: tokenizer_bench TOKENIZER_DIR [ENGLISH_TEXT]\n");
    return 2;
  }
  const std::string directory = argv[1];
  std::printf("| %-38s | %9s | %7s |\n|---|---|---|\n", "tokenizer", "seconds", "MB/s");
  std::printf("| %-38s | %9.3f | %7s |\n", "load",
              best_seconds([&] { Tokenizer::load(directory); }), "");
  const auto tokenizer = Tokenizer::load(directory);
  bool slow = false;
  const auto row = [&](const char* name, const std::string& text, bool promised) {
    const double seconds = seconds_on_a_small_stack(*tokenizer, text);
    slow = slow || (promised && seconds > kMaxSecondsPerMib);
    std::printf("| %-38s | %9.3f | %7.1f |\n", name, seconds,
                static_cast<double>(text.size()) / 1e6 / seconds);
  };
  if (argc > 2) {
    std::ifstream in(argv[2], std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    if (text.empty()) {
      std::fprintf(stderr, "tokenizer_bench: %s is empty or cannot be read\n", argv[2]);
      return 2;
    }
    row("English prose", text, false);
  }
  row("1 MiB of one letter", repeated("a"), true);
  row("1 MiB of spaces", repeated(" "), true);
  row("1 MiB of line breaks", repeated("\n"), true);
  row("1 MiB of one digit", repeated("7"), true);
  row("1 MiB of one mark", repeated("!"), true);
  row("1 MiB of one Chinese character", repeated("\u4f60"), true);
  row("1 MiB of a combining accent", repeated("\u0301"), true);
  row("1 MiB of NUL", std::string(kMib, '\0'), true);
  row("1 MiB of < (begins control tokens)", repeated("<"), true);
  row("1 MiB word of random letters", random_text(U'a', 26), true);
  row("1 MiB of random Chinese characters", random_text(0x4e00, 20000), true);
  row("1 MiB of random combining marks", random_text(0x300, 112), true);
  return slow ? 1 : 0;
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
