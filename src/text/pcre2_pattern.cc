#include "text/pcre2_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <chrono>

#include "base/error.h"
#include "base/utf8.h"

namespace dsr {
namespace {

// What a pattern may take before it is refused. An honest one needs a few steps per character.
constexpr size_t kMaxPatternBytes = size_t{1} << 16;
constexpr uint32_t kMaxNesting = 100;
constexpr uint32_t kMatchLimit = 1'000'000;
constexpr uint32_t kHeapLimitKib = 64 << 10;
constexpr size_t kJitStackBytes = size_t{1} << 20;
// PCRE2 counts steps from each place where a match may start; the clock is read after so many.
constexpr size_t kStartsPerCall = 64;
constexpr double kSecondsAtLeast = 2, kSecondsPerByte = 1e-6;

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* p) const {
    Free(p);
  }
};
template <typename T, auto Free>
using Owned = std::unique_ptr<T, Freer<Free>>;
using CompileContext = Owned<pcre2_compile_context, pcre2_compile_context_free>;
using MatchContext = Owned<pcre2_match_context, pcre2_match_context_free>;
using MatchData = Owned<pcre2_match_data, pcre2_match_data_free>;
using JitStack = Owned<pcre2_jit_stack, pcre2_jit_stack_free>;

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

}  // namespace

struct Pcre2Pattern::Code {
  Owned<pcre2_code, pcre2_code_free> code;
};

Pcre2Pattern::Pcre2Pattern(std::string_view pattern, std::string_view place)
    : name_(str(place, ": the pattern ", quoted(pattern))), code_(std::make_unique<Code>()) {
  const CompileContext context(pcre2_compile_context_create(nullptr));
  pcre2_set_max_pattern_length(context.get(), kMaxPatternBytes);
  pcre2_set_parens_nest_limit(context.get(), kMaxNesting);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  const std::string text = pcre2_syntax(pattern, name_);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Multi-line: to Ruby, ^ and $ stand at every line break.
  constexpr uint32_t kOptions =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_USE_OFFSET_LIMIT | PCRE2_NEVER_BACKSLASH_C;
  code_->code.reset(
      pcre2_compile(units(text), text.size(), kOptions, &error, &offset, context.get()));
  if (code_->code == nullptr)
    fail_model(name_, " cannot be used: ", message_of(error), " (at byte ", offset, ")");
  pcre2_jit_compile(code_->code.get(), PCRE2_JIT_COMPLETE);  // where it cannot, matching is slower
}

Pcre2Pattern::~Pcre2Pattern() = default;

namespace {

// Finds the matches in one text of valid UTF-8.
class Matcher {
 public:
  Matcher(const pcre2_code* code, const std::string& name)
      : code_(code),
        name_(name),
        context_(pcre2_match_context_create(nullptr)),
        data_(pcre2_match_data_create(1, nullptr)),
        stack_(pcre2_jit_stack_create(kJitStackBytes / 32, kJitStackBytes, nullptr)) {
    pcre2_set_match_limit(context_.get(), kMatchLimit);
    pcre2_set_heap_limit(context_.get(), kHeapLimitKib);
    pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
  }

  struct Match {
    size_t begin, end;
  };
  void start_clock(size_t text_bytes) {
    deadline_ =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(
                           kSecondsAtLeast + kSecondsPerByte * static_cast<double>(text_bytes)));
  }
  // The leftmost match that starts in [from, text.size()]; false if there is none.
  bool next(std::string_view text, size_t from, Match& match) const {
    while (true) {
      const size_t last = std::min(from + kStartsPerCall, text.size());
      pcre2_set_offset_limit(context_.get(), last);
      const int result = pcre2_match(code_, units(text), text.size(), from, PCRE2_NO_UTF_CHECK,
                                     data_.get(), context_.get());
      if (result >= 0) {
        const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data_.get());
        match = {range[0], range[1]};
        return true;
      }
      if (result != PCRE2_ERROR_NOMATCH)
        fail_model(name_, " gave up on the text: ", message_of(result));
      if (last == text.size()) return false;
      if (Clock::now() > deadline_)
        fail_model(name_, " gave up on the text: it took too long for ", text.size(), " bytes");
      from = last + 1;
      while (from < text.size() && is_continuation(text[from])) ++from;
    }
  }

 private:
  using Clock = std::chrono::steady_clock;
  static bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

  const pcre2_code* code_;
  const std::string& name_;
  MatchContext context_;
  MatchData data_;
  JitStack stack_;
  Clock::time_point deadline_;
};

// The matches and gaps of one text of valid UTF-8. A match of no characters cuts the gap where it
// is, unless it stands directly behind another match.
void split_valid(const Matcher& matcher, std::string_view text, const Pcre2Pattern::Sink& sink) {
  const auto give = [&](size_t begin, size_t end) {
    if (begin < end) sink(text.substr(begin, end - begin));
  };
  size_t gap = 0, from = 0;
  bool after_match = false;  // a match ended at `from`
  Matcher::Match m{};
  while (from <= text.size() && matcher.next(text, from, m)) {
    if (m.begin == m.end && after_match && m.begin == from) {
      if (from == text.size()) break;
      from += static_cast<size_t>(decode_utf8(text.substr(from)).bytes);
      after_match = false;
      continue;
    }
    give(gap, m.begin);
    give(m.begin, m.end);
    gap = from = m.end;
    after_match = true;
  }
  give(gap, text.size());
}

}  // namespace

void Pcre2Pattern::split(std::string_view text, const Sink& sink) const {
  Matcher matcher(code_->code.get(), name_);
  matcher.start_clock(text.size());
  while (!text.empty()) {
    const int64_t invalid = find_invalid_utf8(text);
    if (invalid < 0) return split_valid(matcher, text, sink);
    size_t end = static_cast<size_t>(invalid);
    split_valid(matcher, text.substr(0, end), sink);
    const size_t begin = end;
    while (end < text.size() && !decode_utf8(text.substr(end)).valid) ++end;
    sink(text.substr(begin, end - begin));
    text.remove_prefix(end);
  }
}

}  // namespace dsr
