// The text that tokenizers are compared on: the twin of scripts/tokenizer_corpus.py, which says
// what it is made of. Both make the same texts from the same seeds; the goldens hold a hash of
// them.
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/mapped_file.h"
#include "base/sha256.h"
#include "base/utf8.h"

namespace dsr::test {

// splitmix64 (Steele, Lea, Flood 2014).
class CorpusRandom {
 public:
  explicit CorpusRandom(uint64_t seed) : state_(seed) {}
  size_t below(size_t n) {
    uint64_t z = state_ += 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return static_cast<size_t>(((z ^ (z >> 31)) >> 32) * n >> 32);
  }
  template <typename T>
  const T& pick(const std::vector<T>& choices) {
    return choices[below(choices.size())];
  }

 private:
  uint64_t state_;
};

class Corpus {
 public:
  using Texts = std::vector<std::string>;

  Corpus() {
    const std::string path = DSR_SOURCE_DIR "/tests/data/text/corpus_parts.json";
    const Json json = parse_json(read_file(path, 1 << 20), path);
    for (const auto& [name, words] : json.find("scripts")->as_object().members) {
      Texts letters;
      for (const Json& word : words.as_array()) {
        for (std::string_view rest = word.as_string(); !rest.empty();) {
          const auto size = static_cast<size_t>(decode_utf8(rest).bytes);
          letters.emplace_back(rest.substr(0, size));
          rest.remove_prefix(size);
        }
      }
      std::sort(letters.begin(), letters.end());
      letters.erase(std::unique(letters.begin(), letters.end()), letters.end());
      scripts_.push_back({name, strings(words), std::move(letters)});
    }
    const auto part = [&json](const char* name) { return strings(*json.find(name)); };
    between_ = part("between"), digits_ = part("digits"), spaces_ = part("spaces");
    number_marks_ = part("number_marks"), code_ = part("code"), emoji_ = part("emoji");
    pieces_ = {code_, part("marks"), emoji_, part("controls")};
  }

  // Calls `use(name, texts)` for every block.
  void for_each_block(const std::function<void(const std::string&, const Texts&)>& use) const {
    uint64_t seed = 0;
    for (const Script& script : scripts_) {
      const auto make = [&](CorpusRandom& r) {
        std::string out = word(r, script);
        return out += r.pick(between_);
      };
      use(script.name, fill(++seed, 100, make));
    }
    use("code", fill(++seed, 400, [&](CorpusRandom& r) { return r.pick(code_); }));
    use("numbers", fill(++seed, 400, [&](CorpusRandom& r) { return number(r); }));
    use("spaces", fill(++seed, 400, [&](CorpusRandom& r) { return space(r); }));
    use("emoji", fill(++seed, 400, [&](CorpusRandom& r) { return r.pick(emoji_); }));
    use("mixed", fill(++seed, 400, [&](CorpusRandom& r) { return piece(r); }));
    for (int i = 0; i < 8; ++i) {
      CorpusRandom random(++seed);
      Texts texts(10'000);
      for (std::string& text : texts) {
        for (size_t n = 1 + random.below(8); n > 0; --n) text += piece(random);
      }
      use("mixtures " + std::to_string(i), texts);
    }
    for (char32_t first = 0; first < 0x110000; first += kScalarsPerBlock) {
      char name[32];
      std::snprintf(name, sizeof name, "scalars %06x", static_cast<unsigned>(first));
      use(name, scalars(first));
    }
  }

 private:
  static constexpr size_t kTextBytes = 2000;
  static constexpr char32_t kScalarsPerBlock = 0x4000;
  struct Script {
    std::string name;
    Texts words, letters;
  };
  using Make = std::function<std::string(CorpusRandom&)>;

  static Texts strings(const Json& list) {
    Texts out;
    for (const Json& s : list.as_array()) out.push_back(s.as_string());
    return out;
  }
  static bool is_surrogate(char32_t c) { return c >= 0xD800 && c < 0xE000; }

  static std::string word(CorpusRandom& r, const Script& script) {
    if (r.below(4) > 0) return r.pick(script.words);
    std::string out;
    for (size_t n = 1 + r.below(8); n > 0; --n) out += r.pick(script.letters);
    return out;
  }
  std::string number(CorpusRandom& r) const {
    std::string out;
    for (size_t n = 1 + r.below(9); n > 0; --n) out += r.pick(digits_);
    return out += r.pick(number_marks_);
  }
  std::string space(CorpusRandom& r) const {
    std::string out;
    if (r.below(2) > 0) {
      const std::string& one = r.pick(spaces_);
      for (size_t n = 1 + r.below(40); n > 0; --n) out += one;
    } else {
      for (size_t n = 1 + r.below(6); n > 0; --n) out += r.pick(spaces_);
    }
    return out;
  }
  std::string piece(CorpusRandom& r) const {
    const size_t kind = r.below(9);
    if (kind < 2) {
      const std::string lead = r.below(2) == 0 ? "" : " ";
      const Script& script = r.pick(scripts_);
      return lead + word(r, script);
    }
    if (kind == 2) return number(r);
    if (kind == 3) return space(r);
    if (kind > 4) return r.pick(pieces_[kind - 5]);
    const auto c = static_cast<char32_t>(r.below(0x110000));
    std::string out;
    append_utf8(out, is_surrogate(c) ? 0xFFFD : c);
    return out;
  }
  static Texts fill(uint64_t seed, size_t n_texts, const Make& make) {
    CorpusRandom random(seed);
    Texts texts(n_texts);
    for (std::string& text : texts) {
      while (text.size() < kTextBytes) text += make(random);
    }
    return texts;
  }
  static Texts scalars(char32_t first) {
    Texts texts;
    for (char32_t c = first; c < first + kScalarsPerBlock; ++c) {
      if (is_surrogate(c)) continue;
      std::string one;
      append_utf8(one, c);
      texts.insert(texts.end(), {one, one + one, "a" + one + "b"});
    }
    return texts;
  }

  std::vector<Script> scripts_;
  Texts between_, digits_, number_marks_, spaces_, code_, emoji_;
  std::array<Texts, 4> pieces_;
};

// The hashes that make_tokenizer_goldens.py writes.
class CorpusHash {
 public:
  void add_number(uint32_t v) {
    for (int i = 0; i < 4; ++i) pending_ += static_cast<char>(v >> (8 * i));
    if (pending_.size() >= 1 << 16) flush();
  }
  void end_of_text() { add_number(0xFFFFFFFF); }
  void add_text(std::string_view text) { (pending_ += text) += '\xff'; }
  std::string finish() {
    flush();
    return sha_.finish().substr(0, 16);
  }

 private:
  void flush() {
    sha_.update(pending_);
    pending_.clear();
  }
  Sha256 sha_;
  std::string pending_;
};

}  // namespace dsr::test
