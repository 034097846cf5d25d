#include "text/unicode_classes.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/utf8.h"

namespace dsr {
namespace {

constexpr size_t kCodePoints = 0x110000;
constexpr uint32_t kClassesFrom[] = {
#include "text/unicode_tables.inc"
};

}  // namespace

UnicodeClasses::UnicodeClasses() {
  classes_.reserve(kCodePoints);
  for (size_t i = 0; i < std::size(kClassesFrom); ++i) {
    const size_t end = i + 1 < std::size(kClassesFrom) ? kClassesFrom[i + 1] >> 8 : kCodePoints;
    classes_.resize(end, static_cast<CharClass>(kClassesFrom[i] & 0xff));
  }
}

ClassifiedChar UnicodeClasses::decode(const char* p, const char* end) const {
  const Utf8Char c = decode_utf8({p, std::min<size_t>(4, static_cast<size_t>(end - p))});
  if (!c.valid) return {0xFFFFFFFF, 1, kInvalidByte};
  return {c.code_point, static_cast<int32_t>(c.bytes), classes_[c.code_point]};
}

void CharSet::add_range(char32_t first, char32_t last) {
  for (char32_t c = first; c <= last && c < 0x80; ++c) ascii_[c / 64] |= uint64_t{1} << (c % 64);
  ranges_.push_back({first, last});
  std::sort(ranges_.begin(), ranges_.end(),
            [](const Range& a, const Range& b) { return a.first < b.first; });
  std::vector<Range> merged;
  for (const Range& r : ranges_) {
    if (!merged.empty() && r.first <= merged.back().last + 1) {
      merged.back().last = std::max(merged.back().last, r.last);
    } else {
      merged.push_back(r);
    }
  }
  ranges_ = std::move(merged);
}

bool CharSet::contains_beyond_ascii(char32_t code_point) const {
  const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), code_point,
                                      [](char32_t v, const Range& r) { return v < r.first; });
  return after != ranges_.begin() && code_point <= std::prev(after)->last;
}

}  // namespace dsr
