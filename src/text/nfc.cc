#include "text/nfc.h"

#include <utf8proc.h>

#include <algorithm>

#include "base/error.h"
#include "base/utf8.h"

namespace dsr {
namespace {

// Whether normalisation may join `c` with what stands before it: marks, and the vowels and final
// consonants of Hangul. (A character too new for utf8proc has no category and joins nothing.)
bool may_join(char32_t c) {
  if (c < 0x300) return false;
  if (c >= 0x1160 && c < 0x1200) return true;
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
         category == UTF8PROC_CATEGORY_ME;
}

// Appends the form C of one cluster: decompose, sort the marks, compose.
class ClusterNormalizer {
 public:
  void append_nfc(std::string& out, std::string_view cluster) {
    code_points_.clear();
    while (!cluster.empty()) {
      const Utf8Char c = decode_utf8(cluster);
      cluster.remove_prefix(static_cast<size_t>(c.bytes));
      decompose(static_cast<utf8proc_int32_t>(c.code_point));
    }
    // utf8proc would sort by exchanging neighbours, which takes n^2 for n marks.
    for (auto at = code_points_.begin(); at != code_points_.end();) {
      const auto is_starter = [](utf8proc_int32_t c) { return combining_class(c) == 0; };
      at = std::find_if_not(at, code_points_.end(), is_starter);
      const auto end = std::find_if(at, code_points_.end(), is_starter);
      std::stable_sort(at, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
        return combining_class(a) < combining_class(b);
      });
      at = end;
    }
    const utf8proc_ssize_t size =
        utf8proc_normalize_utf32(code_points_.data(), std::ssize(code_points_), kFormC);
    if (size < 0) fail_internal("utf8proc: ", utf8proc_errmsg(size));
    code_points_.resize(static_cast<size_t>(size));
    for (const utf8proc_int32_t c : code_points_) append_utf8(out, static_cast<char32_t>(c));
  }

 private:
  static constexpr auto kFormC = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  static int combining_class(utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
  }

  void decompose(utf8proc_int32_t c) {
    const size_t size = code_points_.size();
    int boundary = 0;
    for (utf8proc_ssize_t room = 8;;) {
      code_points_.resize(size + static_cast<size_t>(room));
      const utf8proc_ssize_t n =
          utf8proc_decompose_char(c, code_points_.data() + size, room, kFormC, &boundary);
      if (n < 0) fail_internal("utf8proc: ", utf8proc_errmsg(n));
      const bool fits = n <= room;
      code_points_.resize(size + static_cast<size_t>(std::min(n, room)));
      if (fits) return;
      room = n;
    }
  }

  std::vector<utf8proc_int32_t> code_points_;
};

// Works through a text in clusters: a character and all that may join it.
class Normalizer {
 public:
  Normalizer(std::string_view text, std::span<const ByteRange> literal)
      : text_(text), literal_(literal) {}

  NormalizedText run() {
    out_.text.reserve(text_.size());
    size_t at = 0;
    while (at < text_.size()) {
      const size_t plain = end_of_ascii(at);
      if (plain > at) {
        copy(at, plain);
        at = plain;
      } else {
        const size_t end = end_of_cluster(at);
        add_cluster(at, end);
        at = end;
      }
    }
    return std::move(out_);
  }

 private:
  // ASCII that nothing behind it can join: all but the last of a run.
  size_t end_of_ascii(size_t at) const {
    size_t end = at;
    while (end < text_.size() && static_cast<unsigned char>(text_[end]) < 0x80) ++end;
    return end == text_.size() || end == at ? end : end - 1;
  }

  size_t end_of_cluster(size_t at) const {
    Utf8Char c = decode_utf8(text_.substr(at));
    size_t end = at + static_cast<size_t>(c.bytes);
    while (c.valid && end < text_.size()) {
      c = decode_utf8(text_.substr(end));
      if (!c.valid || !may_join(c.code_point)) break;
      end += static_cast<size_t>(c.bytes);
    }
    return end;
  }

  void add_cluster(size_t at, size_t end) {
    const std::string_view cluster = text_.substr(at, end - at);
    const size_t begin = out_.text.size();
    if (decode_utf8(cluster).valid) normalizer_.append_nfc(out_.text, cluster);
    if (std::string_view(out_.text).substr(begin) == cluster || out_.text.size() == begin) {
      out_.text.resize(begin);
      return copy(at, end);
    }
    bool is_literal = false;
    skip_ranges_before(at);
    for (const ByteRange& r : literal_) {
      if (r.begin >= static_cast<int64_t>(end)) break;
      is_literal = is_literal || r.end > static_cast<int64_t>(at);
    }
    if (is_literal) add_range(begin, out_.text.size());
  }

  // What is normal already, byte by byte.
  void copy(size_t at, size_t end) {
    const size_t begin = out_.text.size();
    out_.text += text_.substr(at, end - at);
    skip_ranges_before(at);
    for (const ByteRange& r : literal_) {
      if (r.begin >= static_cast<int64_t>(end)) break;
      const size_t first = std::max(static_cast<size_t>(r.begin), at);
      const size_t last = std::min(static_cast<size_t>(r.end), end);
      if (first < last) add_range(begin + first - at, begin + last - at);
    }
  }

  void skip_ranges_before(size_t at) {
    while (!literal_.empty() && literal_.front().end <= static_cast<int64_t>(at))
      literal_ = literal_.subspan(1);
  }

  void add_range(size_t begin, size_t end) {
    const auto first = static_cast<int64_t>(begin), last = static_cast<int64_t>(end);
    if (!out_.literal.empty() && out_.literal.back().end == first)
      out_.literal.back().end = last;
    else
      out_.literal.push_back({first, last});
  }

  std::string_view text_;
  std::span<const ByteRange> literal_;  // from the first that may touch what is left
  ClusterNormalizer normalizer_;
  NormalizedText out_;
};

}  // namespace

NormalizedText to_nfc(std::string_view text, std::span<const ByteRange> literal) {
  return Normalizer(text, literal).run();
}

void require_nfc(std::string_view) {}

}  // namespace dsr
