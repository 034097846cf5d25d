#include <gtest/gtest.h>

#include "base/rng.h"
#include "deepseek_run/chat.h"

namespace dsr {
namespace {

struct Split {
  std::string reasoning, answer;
  bool operator==(const Split&) const = default;
};

void PrintTo(const Split& s, std::ostream* out) {
  *out << "reasoning \"" << s.reasoning << "\", answer \"" << s.answer << '"';
}

void add(Split& split, const std::vector<ReasoningSplitter::Piece>& pieces) {
  for (const auto& piece : pieces) {
    EXPECT_FALSE(piece.text.empty());
    EXPECT_TRUE(split.answer.empty() || !piece.reasoning);  // reasoning comes first
    (piece.reasoning ? split.reasoning : split.answer) += piece.text;
  }
}

Split whole(std::string_view text, bool starts_in_reasoning = false) {
  ReasoningSplitter splitter(starts_in_reasoning);
  Split split;
  add(split, splitter.push(text));
  add(split, splitter.finish());
  return split;
}

TEST(ReasoningSplitter, SplitsAtTags) {
  EXPECT_EQ(whole("<think>\nr\n</think>\n\na"), (Split{"r", "a"}));
  EXPECT_EQ(whole("r\n</think>\n\na", true), (Split{"r", "a"}));
  EXPECT_EQ(whole("a"), (Split{"", "a"}));
  EXPECT_EQ(whole(""), (Split{"", ""}));
  EXPECT_EQ(whole("\n<think>r</think>a"), (Split{"r", "a"}));
  EXPECT_EQ(whole("<think>\n\n</think>\n\na"), (Split{"", "a"}));
  EXPECT_EQ(whole("</think>a", true), (Split{"", "a"}));
  EXPECT_EQ(whole("<think>\nr</think>a", true), (Split{"r", "a"}));  // opened twice
  EXPECT_EQ(whole("<think>r1\n\nr2</think>a\n\nb\n"), (Split{"r1\n\nr2", "a\n\nb\n"}));
}

TEST(ReasoningSplitter, LaterTagsAreText) {
  EXPECT_EQ(whole("say <think> and </think>"), (Split{"", "say <think> and </think>"}));
  EXPECT_EQ(whole("<think>r</think>a<think>b</think>"), (Split{"r", "a<think>b</think>"}));
  EXPECT_EQ(whole("</think>a"), (Split{"", "</think>a"}));
}

TEST(ReasoningSplitter, KeepsWhatNeverBecameATag) {
  EXPECT_EQ(whole("<thi"), (Split{"", "<thi"}));
  EXPECT_EQ(whole("<thin air>"), (Split{"", "<thin air>"}));
  EXPECT_EQ(whole("  \n"), (Split{"", "  \n"}));
  EXPECT_EQ(whole("<think>r</thi"), (Split{"r</thi", ""}));
  EXPECT_EQ(whole("r < 3 </ x", true), (Split{"r < 3 </ x", ""}));
  EXPECT_EQ(whole("<think>r\n"), (Split{"r\n", ""}));
}

TEST(ReasoningSplitter, GivesTextAsSoonAsItIsCertain) {
  ReasoningSplitter splitter(false);
  EXPECT_TRUE(splitter.push("<think>").empty());
  ASSERT_EQ(splitter.push("ab\n").size(), 1u);
  EXPECT_TRUE(splitter.push("</th").empty());
  const auto pieces = splitter.push("ank");
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(pieces[0].text, "\n</thank");
  EXPECT_TRUE(pieces[0].reasoning);
}

TEST(ReasoningSplitter, CutsDoNotMatter) {
  PhiloxStream random(3, 0);
  const std::string_view parts[] = {"<think>", "</think>", "\n",     "<", "/",
                                    "a b",     "think>",   "</thin", " "};
  for (int round = 0; round < 4000; ++round) {
    std::string text;
    for (uint32_t n = random.next_u32() % 9; n > 0; --n) text += parts[random.next_u32() % 9];
    const bool inside = random.next_u32() % 2 == 0;
    ReasoningSplitter splitter(inside);
    Split split;
    for (size_t at = 0; at < text.size();) {
      const size_t n = 1 + random.next_u32() % 4;
      add(split, splitter.push(std::string_view(text).substr(at, n)));
      at += n;
    }
    add(split, splitter.finish());
    ASSERT_EQ(split, whole(text, inside)) << text;
  }
}

}  // namespace
}  // namespace dsr
