#include "text/pre_tokenizer.h"

#include "base/error.h"

namespace dsr {
namespace {

constexpr size_t kMaxStages = 32;

// Matches one stage at one position: `Match(begin, end)` gives the end of the match at `begin`, or
// nullptr. The names a1, a2, ... in comments are the alternatives of the pattern, in order.
class SetMatcher {
 public:
  SetMatcher(const UnicodeClasses& classes, const PreTokenizerStage& stage)
      : classes_(classes), stage_(stage) {}

  const char* operator()(const char* p, const char* end) const {
    const ClassifiedChar c = classes_.at(p, end);
    const bool in_set = stage_.set.contains(c);
    if (stage_.optional_space && c.in(kSpace)) {
      const char* next = p + c.bytes;
      if (next < end && stage_.set.contains(classes_.at(next, end))) return run(next, end);
    }
    return in_set ? run(p, end) : nullptr;
  }

 private:
  const char* run(const char* p, const char* end) const {
    for (int count = 0; p < end && count < stage_.max_count; ++count) {
      const ClassifiedChar c = classes_.at(p, end);
      if (!stage_.set.contains(c)) break;
      p += c.bytes;
    }
    return p;
  }

  const UnicodeClasses& classes_;
  const PreTokenizerStage& stage_;
};

// What the alternations of DeepSeek-V3, Qwen2 and Llama 3 share.
class AlternationMatcher {
 public:
  explicit AlternationMatcher(const UnicodeClasses& classes) : classes_(classes) {}

 protected:
  const char* run_of(CharClass any_of, const char* p, const char* end) const {
    while (p < end) {
      const ClassifiedChar c = classes_.at(p, end);
      if (!c.in(any_of)) break;
      p += c.bytes;
    }
    return p;
  }

  static const char* run_of_newlines(const char* p, const char* end) {
    while (p < end && (*p == '\n' || *p == '\r')) ++p;
    return p;
  }

  // \s*[\r\n]+|\s+(?!\S)|\s+ at a space: through the last line break of the run of spaces; else
  // the whole run at the end of the text; else the run without its last character, if that leaves
  // any (the last one then goes with what follows).
  const char* match_spaces(const char* p, const char* end) const {
    const char* after_newline = nullptr;
    const char* last = p;
    const char* q = p;
    while (q < end) {
      const ClassifiedChar c = classes_.at(q, end);
      if (!c.in(kSpace)) break;
      last = q;
      q += c.bytes;
      if (c.is_newline()) after_newline = q;
    }
    if (after_newline != nullptr) return after_newline;
    return q == end || last == p ? q : last;
  }

  const UnicodeClasses& classes_;
};

class DeepSeekV3Matcher : AlternationMatcher {
 public:
  using AlternationMatcher::AlternationMatcher;

  const char* operator()(const char* p, const char* end) const {
    const ClassifiedChar c = classes_.at(p, end);
    const char* next = p + c.bytes;
    // a1: [!"#$...][A-Za-z]+, every ASCII punctuation and symbol character
    if (c.code_point < 0x80 && c.in(kPunctuation | kSymbol) && is_ascii_letter(next, end)) {
      while (is_ascii_letter(next, end)) ++next;
      return next;
    }
    // a2: [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+
    const ClassifiedChar following = next < end ? classes_.at(next, end) : kNothing;
    const bool may_lead = !c.in(kLetter | kPunctuation | kSymbol | kInvalidByte) && !c.is_newline();
    if (c.in(kLetter | kMark) || (may_lead && following.in(kLetter | kMark)))
      return run_of(kLetter | kMark, next, end);
    // a3:  ?[\p{P}\p{S}]+[\r\n]*
    if (c.in(kPunctuation | kSymbol) ||
        (c.code_point == ' ' && following.in(kPunctuation | kSymbol)))
      return run_of_newlines(run_of(kPunctuation | kSymbol, next, end), end);
    return c.in(kSpace) ? match_spaces(p, end) : nullptr;
  }

 private:
  static constexpr ClassifiedChar kNothing{0xFFFFFFFF, 0, 0};
  static bool is_ascii_letter(const char* p, const char* end) {
    return p < end && ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z'));
  }
};

class Qwen2Matcher : AlternationMatcher {
 public:
  Qwen2Matcher(const UnicodeClasses& classes, int max_digits)
      : AlternationMatcher(classes), max_digits_(max_digits) {}

  const char* operator()(const char* p, const char* end) const {
    const ClassifiedChar c = classes_.at(p, end);
    if (c.code_point == '\'') {
      if (const char* q = match_contraction(p + 1, end)) return q;
    }
    // a2: [^\r\n\p{L}\p{N}]?\p{L}+
    const char* next = p + c.bytes;
    const ClassifiedChar following = next < end ? classes_.at(next, end) : kNothing;
    const bool may_lead = !c.in(kLetter | kNumber | kInvalidByte) && !c.is_newline();
    if (c.in(kLetter) || (may_lead && following.in(kLetter))) return run_of(kLetter, next, end);
    if (c.in(kNumber)) return match_number(p, end);
    // a4:  ?[^\s\p{L}\p{N}]+[\r\n]*
    if (is_other(c) || (c.code_point == ' ' && next < end && is_other(following)))
      return run_of_newlines(run_of_others(next, end), end);
    return c.in(kSpace) ? match_spaces(p, end) : nullptr;
  }

 private:
  static constexpr ClassifiedChar kNothing{0xFFFFFFFF, 0, 0};
  static bool is_other(const ClassifiedChar& c) {
    return !c.in(kSpace | kLetter | kNumber | kInvalidByte);
  }

  // (?i:'s|'t|'re|'ve|'m|'ll|'d) after the apostrophe. U+017F, the long s, is a case of s.
  static const char* match_contraction(const char* p, const char* end) {
    const std::string_view rest(p, static_cast<size_t>(end - p));
    if (rest.starts_with("\xC5\xBF")) return p + 2;
    if (rest.empty()) return nullptr;
    const char first = static_cast<char>(rest[0] | 0x20);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return p + 1;
    const char second = rest.size() > 1 ? static_cast<char>(rest[1] | 0x20) : '\0';
    const bool two =
        ((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l');
    return two ? p + 2 : nullptr;
  }

  const char* match_number(const char* p, const char* end) const {
    for (int count = 0; p < end && count < max_digits_; ++count) {
      const ClassifiedChar c = classes_.at(p, end);
      if (!c.in(kNumber)) break;
      p += c.bytes;
    }
    return p;
  }

  const char* run_of_others(const char* p, const char* end) const {
    while (p < end) {
      const ClassifiedChar c = classes_.at(p, end);
      if (!is_other(c)) break;
      p += c.bytes;
    }
    return p;
  }

  int max_digits_;
};

std::string_view between(const char* begin, const char* end) {
  return {begin, static_cast<size_t>(end - begin)};
}

}  // namespace

PreTokenizer::PreTokenizer(const Json& json, const std::string& place, const WarningSink& warn) {
  add(json, place, warn);
  if (!byte_level_)
    fail_model(place, ": no ByteLevel stage; only byte-level tokenizers are supported");
}

void PreTokenizer::add(const Json& json, const std::string& place, const WarningSink& warn) {
  if (!json.is_object()) fail_model(place, " is ", json.type_name(), ", expected an object");
  if (byte_level_) fail_model(place, ": a stage after ByteLevel is not supported");
  if (stages_.size() >= kMaxStages) fail_model(place, ": more than ", kMaxStages, " stages");
  JsonReader reader(json, place);
  const std::string type = reader.require_string("type");
  if (type == "Sequence") {
    const Json& list = reader.require("pretokenizers");
    if (!list.is_array())
      fail_model(place, ".pretokenizers is ", list.type_name(), ", expected an array");
    for (size_t i = 0; i < list.as_array().size(); ++i)
      add(list.as_array()[i], str(place, ".pretokenizers[", i, "]"), warn);
  } else if (type == "Split") {
    add_split(reader, warn);
  } else if (type == "Digits") {
    PreTokenizerStage stage;
    stage.set.add_classes(kDigit);
    stage.max_count = reader.get_bool("individual_digits", false) ? 1 : 0x7FFFFFFF;
    stages_.push_back(std::move(stage));
  } else if (type == "ByteLevel") {
    if (reader.get_bool("add_prefix_space", true) || reader.get_bool("use_regex", true))
      fail_model(place, ": ByteLevel with add_prefix_space or use_regex is not supported");
    byte_level_ = true;
  } else {
    fail_model(place, ".type ", quoted(type),
               " is not supported (supported: Sequence, Split, Digits, ByteLevel)");
  }
}

void PreTokenizer::add_split(JsonReader& reader, const WarningSink& warn) {
  const std::string& place = reader.place();
  const std::string behavior = reader.require_string("behavior");
  if (behavior != "Isolated" || reader.get_bool("invert", false))
    fail_model(place, ": a Split with behavior ", quoted(behavior),
               " or invert is not supported (supported: Isolated)");
  const Json& pattern = reader.require("pattern");
  const Json* regex = pattern.is_object() ? pattern.find("Regex") : nullptr;
  if (regex == nullptr || !regex->is_string())
    fail_model(place, ".pattern: expected an object with a string \"Regex\"");
  stages_.push_back(parse_stage_pattern(regex->as_string(), place));
  if (stages_.back().kind == PreTokenizerStage::Kind::kPcre2 && warn)
    warn(str(place, ": the pattern ", quoted(regex->as_string()),
             " is none of those we know: PCRE2 runs it, which is slower and may know an older"
             " Unicode"));
}

void PreTokenizer::split_from(size_t stage, std::string_view text, const Sink& sink) const {
  if (text.empty()) return;
  if (stage == stages_.size()) return sink(text);
  const PreTokenizerStage& s = stages_[stage];
  switch (s.kind) {
    case PreTokenizerStage::Kind::kSet:
      return isolate(stage, text, sink, SetMatcher(classes_, s));
    case PreTokenizerStage::Kind::kTrailingSpace:
      return isolate_trailing_space(stage, text, sink);
    case PreTokenizerStage::Kind::kDeepSeekV3:
      return isolate(stage, text, sink, DeepSeekV3Matcher(classes_));
    case PreTokenizerStage::Kind::kQwen2:
      return isolate(stage, text, sink, Qwen2Matcher(classes_, s.max_count));
    case PreTokenizerStage::Kind::kPcre2:
      return s.pattern->split(text,
                              [&](std::string_view piece) { split_from(stage + 1, piece, sink); });
  }
}

template <typename Match>
void PreTokenizer::isolate(size_t stage, std::string_view text, const Sink& sink,
                           const Match& match) const {
  const char* const end = text.data() + text.size();
  const char* gap = text.data();
  for (const char* p = gap; p < end;) {
    const char* const matched = match(p, end);
    if (matched == nullptr) {
      p += classes_.at(p, end).bytes;
      continue;
    }
    split_from(stage + 1, between(gap, p), sink);
    split_from(stage + 1, between(p, matched), sink);
    p = gap = matched;
  }
  split_from(stage + 1, between(gap, end), sink);
}

// \s+$, where $ is the end of the text or any place before a \n: so in a run of spaces that does
// not end the text, all before the last \n.
void PreTokenizer::isolate_trailing_space(size_t stage, std::string_view text,
                                          const Sink& sink) const {
  const char* const end = text.data() + text.size();
  const char* gap = text.data();
  for (const char* p = gap; p < end;) {
    const char* const run = p;
    const char* line_end = run;
    while (p < end) {
      const ClassifiedChar c = classes_.at(p, end);
      if (!c.in(kSpace)) break;
      if (c.code_point == '\n') line_end = p;
      p += c.bytes;
    }
    if (p == end) line_end = end;
    if (line_end > run) {
      split_from(stage + 1, between(gap, run), sink);
      split_from(stage + 1, between(run, line_end), sink);
      gap = line_end;
    }
    if (p < end) p += classes_.at(p, end).bytes;
  }
  split_from(stage + 1, between(gap, end), sink);
}

}  // namespace dsr
