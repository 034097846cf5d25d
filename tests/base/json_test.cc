#include "base/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/expect_error.h"

namespace dsr {
namespace {

using test::error_of;

std::string refusal(std::string_view text, const JsonLimits& limits = {}) {
  return error_of([&] { parse_json(text, "f.json", limits); });
}

TEST(JsonTest, KeepsValuesTypesAndOrder) {
  const Json v = parse_json(R"( {"z": [1, 1.0, 1e3, true, null, "\u00e9\n"], "a": {}} )", "f");
  ASSERT_EQ(v.as_object().members.size(), 2u);
  EXPECT_EQ(v.as_object().members[0].first, "z");
  const Json::Array& z = v.find("z")->as_array();
  EXPECT_TRUE(z[0].is_int());
  EXPECT_TRUE(z[1].is_double());
  EXPECT_TRUE(z[2].is_double());
  EXPECT_EQ(z[2].as_double(), 1000);
  EXPECT_TRUE(z[3].as_bool());
  EXPECT_TRUE(z[4].is_null());
  EXPECT_EQ(z[5].as_string(), "\xc3\xa9\n");
  EXPECT_EQ(v.find("absent"), nullptr);
  EXPECT_EQ(v.find_index("a"), 1);
  EXPECT_EQ(v.dump(), R"({"z":[1,1.0,1000.0,true,null,"é\n"],"a":{}})");
  EXPECT_EQ(v.find("a")->pretty(), "{}");
}

TEST(JsonTest, IntegersAre64Bit) {
  EXPECT_EQ(parse_json("9223372036854775807", "f").as_int(), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(parse_json("-9223372036854775808", "f").as_int(), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(refusal("9223372036854775808"),
            "f.json: not JSON we can use: integer 9223372036854775808 is above 2^63 - 1");
}

TEST(JsonTest, WhatIsNotJsonIsRefusedWithItsPlace) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "f.json: not JSON: at byte 1: "},
      {"{", "f.json: not JSON: at byte 2: "},
      {"[1,]", "f.json: not JSON: at byte 4: "},
      {"{} {}", "f.json: not JSON: at byte 4: "},
      {"[1] // no", "f.json: not JSON: at byte 5: "},
      {"{'a': 1}", "f.json: not JSON: at byte 2: "},
      {"NaN", "f.json: not JSON: at byte 1: "},
      {"[Infinity]", "f.json: not JSON: at byte 2: "},
      {"[01]", "f.json: not JSON: at byte 3: "},
      {"[1e400]", "f.json: not JSON: at byte "},
      {"\"\xff\"", "f.json: not JSON: at byte 2: "},
      {"\"\xc0\xaf\"", "f.json: not JSON: at byte 2: "},
      {"\"\xed\xa0\x80\"", "f.json: not JSON: at byte 3: "},
      {"\"\\udc00\"", "f.json: not JSON: at byte 7: "},
      {"\"\\ud800x\"", "f.json: not JSON: at byte 8: "},
      {"\"a\nb\"", "f.json: not JSON: at byte 3: "},
      {std::string("{}\0", 3), "f.json: not JSON: a NUL byte at byte 2"},
      {std::string("\0{}", 3), "f.json: not JSON: a NUL byte at byte 0"},
  };
  for (const auto& [text, want] : cases)
    EXPECT_TRUE(refusal(text).starts_with(want)) << refusal(text) << "\nexpected " << want;
}

TEST(JsonTest, ErrorsDoNotQuoteTheInput) {
  EXPECT_EQ(refusal("[\"ok\", password]").find("passw"), std::string::npos);
  EXPECT_EQ(refusal("[\"\x1b[31mred").find('\x1b'), std::string::npos);
}

TEST(JsonTest, DuplicateKeysAreRefusedAtAnyDepth) {
  EXPECT_EQ(refusal(R"({"a":1,"b":2,"a":1})"), "f.json: the key \"a\" appears twice");
  EXPECT_EQ(refusal(R"([{"x":{"\u0061\u001b":1,"a\u001b":2}}])"),
            "f.json: the key \"a\\x1b\" appears twice");
  EXPECT_EQ(parse_json(R"([{"a":1},{"a":{"a":2}}])", "f").as_array().size(), 2u);
}

TEST(JsonTest, LimitsHoldExactly) {
  const auto nested = [](int n) {
    return std::string(static_cast<size_t>(n), '[') + std::string(static_cast<size_t>(n), ']');
  };
  EXPECT_NO_THROW(parse_json(nested(64), "f"));
  EXPECT_EQ(refusal(nested(65)), "f.json: nested deeper than 64 levels");
  EXPECT_NO_THROW(parse_json(R"([{}])", "f", {.max_depth = 2}));
  EXPECT_EQ(refusal(R"([{"a":[]}])", {.max_depth = 2}), "f.json: nested deeper than 2 levels");
  EXPECT_NO_THROW(parse_json(R"([{"a":1},{"a":2}])", "f", {.max_keys = 2}));
  EXPECT_EQ(refusal(R"([{"a":1},{"a":2,"b":3}])", {.max_keys = 2}), "f.json: more than 2 keys");
  EXPECT_NO_THROW(parse_json("[1,2]", "f", {.max_values = 3}));
  EXPECT_EQ(refusal("[1,2,3]", {.max_values = 3}), "f.json: more than 3 values");
  EXPECT_NO_THROW(parse_json(R"({"abc":1})", "f", {.max_key_bytes = 3}));
  EXPECT_EQ(refusal(R"({"abcd":1})", {.max_key_bytes = 3}),
            "f.json: a key of 4 bytes, at most 3 are accepted: \"abcd\"");
}

TEST(JsonTest, BuildsWhatItParses) {
  Json o = Json::object();
  o.set("n", 1).set("list", Json::array()).set("x", 0.5).set("nan", std::nan("")).set("s", "\xff");
  EXPECT_EQ(o.dump(), R"({"n":1,"list":[],"x":0.5,"nan":null,"s":")"
                      "\xef\xbf\xbd\"}");
  EXPECT_EQ(o.find("x")->as_double(), 0.5);
  EXPECT_EQ(parse_json(o.dump(), "f").dump(), o.dump());
  EXPECT_EQ(Json::object().set("a", 1).pretty(), "{\n  \"a\": 1\n}");
  EXPECT_THROW(o.set("n", 2), Error);
  EXPECT_THROW(o.as_array(), Error);
}

// --- JsonReader
// -----------------------------------------------------------------------------------

class JsonReaderTest : public ::testing::Test {
 protected:
  const Json config_ = parse_json(
      R"({"i": 7, "f": 1e3, "one": 1.0, "b": true, "s": "text", "nothing": null, "l": [1],
          "o": {}, "big": 9000000000000000000, "tiny": 1e-300})",
      "config.json");
  JsonReader reader_{config_, "config.json"};
};

TEST_F(JsonReaderTest, ReadsWhatIsThere) {
  EXPECT_EQ(reader_.require_int("i", 1, 7), 7);
  EXPECT_EQ(reader_.get_int("absent", 1, 9, 5), 5);
  EXPECT_EQ(reader_.get_int("nothing", 1, 9, 5), 5);
  EXPECT_EQ(reader_.require_double("f", 0, 1e4), 1000);
  EXPECT_EQ(reader_.require_double("i", 0, 10), 7);
  EXPECT_EQ(reader_.get_double("absent", 0, 1, 0.25), 0.25);
  EXPECT_TRUE(reader_.get_bool("b", false));
  EXPECT_TRUE(reader_.get_bool("absent", true));
  EXPECT_EQ(reader_.require_string("s"), "text");
  EXPECT_EQ(reader_.get_string("absent", "other"), "other");
  EXPECT_TRUE(reader_.has("s"));
  EXPECT_FALSE(reader_.has("nothing"));
}

TEST_F(JsonReaderTest, AnIntegerIsAnInteger) {
  const auto read = [this](const char* key) {
    return error_of([&] { reader_.require_int(key, 1, 9); });
  };
  EXPECT_EQ(read("f"), "config.json: f is 1000.0, expected an integer from 1 to 9");
  EXPECT_EQ(read("one"), "config.json: one is 1.0, expected an integer from 1 to 9");
  EXPECT_EQ(read("b"), "config.json: b is true, expected an integer from 1 to 9");
  EXPECT_EQ(read("s"), "config.json: s is \"text\", expected an integer from 1 to 9");
  EXPECT_EQ(read("l"), "config.json: l is an array, expected an integer from 1 to 9");
  EXPECT_EQ(read("o"), "config.json: o is an object, expected an integer from 1 to 9");
  EXPECT_EQ(read("big"), "config.json: big is 9000000000000000000, expected 1 to 9");
  EXPECT_EQ(read("nothing"), "config.json: nothing is missing");
  EXPECT_EQ(read("absent"), "config.json: absent is missing");
  EXPECT_EQ(error_of([&] { reader_.get_int("i", 8, 9, 8); }),
            "config.json: i is 7, expected 8 to 9");
}

TEST_F(JsonReaderTest, OtherTypesAreRefusedByName) {
  EXPECT_EQ(error_of([&] { reader_.require_double("b", 0, 1); }),
            "config.json: b is true, expected a number from 0 to 1");
  EXPECT_EQ(error_of([&] { reader_.get_double("f", 0, 1, 0); }),
            "config.json: f is 1000, expected 0 to 1");
  EXPECT_EQ(error_of([&] { reader_.require_double("tiny", 1e-6, 1); }),
            "config.json: tiny is 1e-300, expected 1e-06 to 1");
  EXPECT_EQ(error_of([&] { reader_.get_bool("i", false); }),
            "config.json: i is 7, expected true or false");
  EXPECT_EQ(error_of([&] { reader_.get_string("i", ""); }),
            "config.json: i is 7, expected a string");
  EXPECT_EQ(error_of([&] { JsonReader(parse_json("[]", "f"), "config.json"); }),
            "config.json: expected a JSON object, found array");
}

TEST_F(JsonReaderTest, ReportsWhatNobodyRead) {
  reader_.require_int("i", 0, 9);
  reader_.optional("nothing");
  reader_.ignore({"s", "l", "o", "absent"});
  EXPECT_EQ(reader_.unread_keys(), (std::vector<std::string>{"f", "one", "b", "big", "tiny"}));
}

}  // namespace
}  // namespace dsr
