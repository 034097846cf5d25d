// tests/data/text/tokenizer_goldens.json together with the corpus that it is about.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "text/corpus.h"

namespace dsr::test {

#ifdef DSR_SANITIZED
inline constexpr size_t kEveryNthBlock = 8;
#else
inline constexpr size_t kEveryNthBlock = 1;
#endif

inline const Json& goldens() {
  static const Json json = [] {
    const std::string path = DSR_SOURCE_DIR "/tests/data/text/tokenizer_goldens.json";
    return parse_json(read_file(path, 1 << 20), path);
  }();
  return json;
}

// Calls `use(golden, texts)` for every block (under sanitizers, for every eighth). The texts are
// those that the goldens were made of.
inline void for_each_golden_block(
    const std::function<void(const Json& golden, const Corpus::Texts& texts)>& use) {
  const Json::Array& blocks = goldens().find("blocks")->as_array();
  size_t i = 0;
  Corpus().for_each_block([&](const std::string& name, const Corpus::Texts& texts) {
    ASSERT_LT(i, blocks.size());
    const Json& golden = blocks[i++];
    ASSERT_EQ(golden.find("name")->as_string(), name);
    if (i % kEveryNthBlock != 0) return;
    CorpusHash hash;
    for (const std::string& text : texts) hash.add_text(text);
    ASSERT_EQ(hash.finish(), golden.find("texts")->as_string()) << name;
    use(golden, texts);
  });
  EXPECT_EQ(i, blocks.size());
}

}  // namespace dsr::test
