// hostile.md rows F1 to F6: files that are cut, lie, or were never safetensors.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "support/expect_error.h"
#include "support/safetensors_writer.h"

namespace dsr {
namespace {

using test::error_of;
using test::SafetensorsWriter;
using test::TempDir;

std::string refusal_of(const std::string& bytes) {
  const TempDir dir;
  const std::string path = dir.write("m.safetensors", bytes);
  return error_of([&] { SafetensorsFile::open(path); });
}

// --- F1 -----------------------------------------------------------------------------------------

TEST(SafetensorsHostileTest, F1CutAtEveryByteIsRefused) {
  SafetensorsWriter w;
  w.add("a", "F32", {2}, std::string(8, 'a')).add("b", "U8", {3}, "bbb");
  const std::string whole = w.bytes();
  const size_t before_data = whole.size() - 11;
  const TempDir dir;
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string path = dir.write("m.safetensors", whole.substr(0, size));
    const std::string text = error_of([&] { SafetensorsFile::open(path); });
    std::string want = "m.safetensors is " + std::to_string(size) +
                       " bytes, expected at least 8: incomplete download?";
    if (size >= 8 && size < before_data)
      want = "m.safetensors is " + std::to_string(before_data - size) +
             " bytes short: incomplete download? (found " + std::to_string(size) +
             " bytes for length and header, expected " + std::to_string(before_data) + ")";
    if (size >= before_data)
      want = "m.safetensors is " + std::to_string(whole.size() - size) +
             " bytes short: incomplete download? (found " + std::to_string(size - before_data) +
             " bytes of data, expected 11)";
    EXPECT_EQ(text, want);
  }
}

TEST(SafetensorsHostileTest, F1TruncationSaysHowMuchIsMissing) {
  SafetensorsWriter w;
  w.add("big", "U8", {5'000'000}, std::string(805'696, 'x'))
      .raw_header(R"({"big":{"dtype":"U8","shape":[5000000],"data_offsets":[0,5000000]}})");
  EXPECT_EQ(refusal_of(w.bytes()),
            "m.safetensors is 4,194,304 bytes short: incomplete download? "
            "(found 805,696 bytes of data, expected 5,000,000)");
}

// --- F2 -----------------------------------------------------------------------------------------

TEST(SafetensorsHostileTest, F2LengthOfTheHeader) {
  const std::string reason = ", expected 2 to 100,000,000: not a safetensors file?";
  const std::vector<std::pair<uint64_t, std::string>> cases = {
      {0, ": the header's length is 0 bytes" + reason},
      {1, ": the header's length is 1 bytes" + reason},
      {100'000'001, ": the header's length is 100000001 bytes" + reason},
      {uint64_t{1} << 32, ": the header's length is 4294967296 bytes" + reason},
      {uint64_t{1} << 63, ": the header's length is 9223372036854775808 bytes" + reason},
      {~uint64_t{0}, ": the header's length is 18446744073709551615 bytes" + reason},
      {~uint64_t{0} - 7, ": the header's length is 18446744073709551608 bytes" + reason},
      {3,
       " is 1 bytes short: incomplete download? (found 10 bytes for length and header, expected "
       "11)"},
      {100'000'000,
       " is 99,999,998 bytes short: incomplete download? (found 10 bytes for length and header, "
       "expected 100,000,008)"},
  };
  for (const auto& [length, want] : cases) {
    SafetensorsWriter w;
    w.raw_header("{}").raw_length(length);
    EXPECT_EQ(refusal_of(w.bytes()), "m.safetensors" + want);
  }
}

// Opens `path` in a child that may use `limit_bytes` more address space than it has; returns the
// child's exit status: 3 refused, 0 accepted, 99 out of memory, 96 refused after more than 50 ms of
// processor time.
int open_in_child(const std::string& path, int64_t limit_bytes) {
  const pid_t child = fork();
  if (child == 0) {
    long pages = 0;
    if (FILE* statm = std::fopen("/proc/self/statm", "r")) {
      if (std::fscanf(statm, "%ld", &pages) != 1) _exit(98);
      std::fclose(statm);
    }
    const auto used = static_cast<rlim_t>(pages) * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
    const rlimit limit = {used + static_cast<rlim_t>(limit_bytes),
                          used + static_cast<rlim_t>(limit_bytes)};
    if (setrlimit(RLIMIT_AS, &limit) != 0) _exit(97);
    const std::clock_t start = std::clock();
    try {
      SafetensorsFile::open(path);
      _exit(0);
    } catch (const Error& e) {
      const bool quick = std::clock() - start < CLOCKS_PER_SEC / 20;
      _exit(quick ? e.exit_code() : 96);
    } catch (const std::bad_alloc&) {
      _exit(99);
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

TEST(SafetensorsHostileTest, F2HugeLengthIsRefusedBeforeAnythingIsAllocated) {
  const TempDir dir;
  SafetensorsWriter w;
  w.raw_header(std::string(1 << 20, '{')).raw_length(uint64_t{1} << 40);
  w.write(dir.file("m.safetensors"));
  EXPECT_EQ(open_in_child(dir.file("m.safetensors"), 32'000'000), 3);
}

// --- F3 -----------------------------------------------------------------------------------------

struct Text {
  std::string header, want;  // after "m.safetensors"
};

TEST(SafetensorsHostileTest, F3HeaderIsNotWhatItShouldBe) {
  const std::string t = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  const std::string not_object = ": the header is not a JSON object: not a safetensors file?";
  const std::vector<Text> cases = {
      {"[]", not_object},
      {"   ", not_object},
      {"<html>", not_object},
      {"\"secret of another file\"", not_object},
      {"\xef\xbb\xbf{}", not_object},
      {"{}{}",
       ": the header: not JSON: at byte 3: syntax error while parsing value - unexpected '{'"},
      {"{} x",
       ": the header: not JSON: at byte 4: syntax error while parsing value - invalid literal"},
      {std::string("{}\0{}", 5), ": the header: not JSON: a NUL byte at byte 2"},
      {std::string("{\"a\0b\":1}", 9), ": the header: not JSON: a NUL byte at byte 3"},
      {"{\"a\xff\":" + t + "}", ": the header: not JSON: at byte 4: "},
      {R"({"a\ud800":)" + t + "}", ": the header: not JSON: at byte 10: "},
      {R"({"a":NaN})", ": the header: not JSON: at byte 6: "},
      {R"({"a":1e999})", ": the header: not JSON: at byte "},
      {R"({"a":)" + t + R"(,"a":)" + t + "}", ": the header: the key \"a\" appears twice"},
      {R"({"a":{"dtype":"U8","dtype":"U8"}})", ": the header: the key \"dtype\" appears twice"},
      {R"({"a":18446744073709551615})",
       ": the header: not JSON we can use: integer 18446744073709551615 is above 2^63 - 1"},
      {R"({"__metadata__":[]})",
       ": the header's __metadata__ is of type array, expected an object"},
      {R"({"__metadata__":{"k":1}})",
       ": the header's __metadata__ has \"k\" of type integer, expected a string"},
      {R"({"a":5})",
       ": tensor \"a\" is of type integer, expected an object of dtype, shape, data_offsets"},
      {R"({"\u001b[31m":5})",
       ": tensor \"\\x1b[31m\" is of type integer, expected an object of dtype, shape, "
       "data_offsets"},
      {R"({"a":{"shape":[0],"data_offsets":[0,0]}})", ": tensor \"a\" has no dtype"},
      {R"({"a":{"dtype":"U8","data_offsets":[0,0]}})", ": tensor \"a\" has no shape"},
      {R"({"a":{"dtype":"U8","shape":[0]}})", ": tensor \"a\" has no data_offsets"},
      {R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"strides":[1]}})",
       ": tensor \"a\" has \"strides\", expected dtype, shape and data_offsets alone"},
  };
  for (const Text& c : cases) {
    SafetensorsWriter w;
    w.raw_header(c.header);
    EXPECT_TRUE(refusal_of(w.bytes()).starts_with("m.safetensors" + c.want))
        << refusal_of(w.bytes()) << "\nexpected " << c.want;
  }
}

TEST(SafetensorsHostileTest, F3NestingAndNameLengthAndKeyCount) {
  SafetensorsWriter deep;
  std::string arrays = "{\"a\":";
  arrays.append(10'000'000, '[');
  deep.raw_header(arrays);
  const std::clock_t start = std::clock();
  EXPECT_EQ(refusal_of(deep.bytes()), "m.safetensors: the header: nested deeper than 8 levels");
  EXPECT_LT(std::clock() - start, 2 * CLOCKS_PER_SEC);

  SafetensorsWriter fits, long_name;
  fits.add(std::string(4096, 'n'), "U8", {0}, "");
  const TempDir dir;
  fits.write(dir.file("m.safetensors"));
  EXPECT_EQ(SafetensorsFile::open(dir.file("m.safetensors")).tensors().size(), 1u);
  long_name.add(std::string(4097, 'n'), "U8", {0}, "");
  EXPECT_EQ(refusal_of(long_name.bytes()),
            "m.safetensors: the header: a key of 4097 bytes, at most 4096 are accepted: \"" +
                std::string(200, 'n') + "...\"");

  std::string many = "{";
  for (int i = 0; i <= 1 << 21; ++i) many += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":0";
  SafetensorsWriter keys;
  keys.raw_header(many + "}");
  EXPECT_EQ(refusal_of(keys.bytes()), "m.safetensors: the header: more than 2097152 keys");

  std::string values = "{\"a\":[";
  for (int i = 0; i <= 1 << 22; ++i) values += "0,";
  SafetensorsWriter numbers;
  numbers.raw_header(values + "0]}");
  EXPECT_EQ(refusal_of(numbers.bytes()), "m.safetensors: the header: more than 4194304 values");
}

TEST(SafetensorsHostileTest, F7BytesOfAnotherFileAreNotEchoed) {
  SafetensorsWriter w;
  w.raw_header("{ password: hunter2 }");
  EXPECT_EQ(refusal_of(w.bytes()).find("password"), std::string::npos);
  EXPECT_EQ(refusal_of(w.bytes()).find("hunter2"), std::string::npos);
  EXPECT_EQ(refusal_of("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"),
            "m.safetensors is a Git LFS pointer, expected the weights it points to\n"
            "  try: git lfs pull");
  EXPECT_EQ(refusal_of("root:x:0:0:root:/root:/bin/bash\n"),
            "m.safetensors: the header's length is 3475222254926655346 bytes, expected 2 to "
            "100,000,000: not a safetensors file?");
}

// --- F4, F5, F6: one or two tensors, 16 bytes of data
// ----------------------------------------------

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

void expect_refusals(const std::vector<Text>& cases) {
  for (const Text& c : cases) {
    SafetensorsWriter w;
    w.add("", "", {}, std::string(16, 'x')).raw_header("{" + c.header + "}");
    EXPECT_EQ(refusal_of(w.bytes()), "m.safetensors" + c.want) << c.header;
  }
}

TEST(SafetensorsHostileTest, F4TensorsMustTileTheData) {
  const auto two = [](const char* a, const char* b, int64_t n_a, int64_t n_b) {
    return "\"a\":" + entry("U8", "[" + std::to_string(n_a) + "]", a) +
           ",\"b\":" + entry("U8", "[" + std::to_string(n_b) + "]", b);
  };
  const auto one = [](const char* offsets) { return "\"a\":" + entry("U8", "[16]", offsets); };
  expect_refusals({
      {two("[0,10]", "[8,16]", 10, 8),
       ": tensors \"a\" and \"b\" overlap: the first ends at byte 10, the second begins at 8"},
      {two("[8,16]", "[0,10]", 8, 10),
       ": tensors \"b\" and \"a\" overlap: the first ends at byte 10, the second begins at 8"},
      {two("[0,16]", "[0,16]", 16, 16),
       ": tensors \"a\" and \"b\" overlap: the first ends at byte 16, the second begins at 0"},
      {two("[0,16]", "[4,8]", 16, 4),
       ": tensors \"a\" and \"b\" overlap: the first ends at byte 16, the second begins at 4"},
      {two("[0,4]", "[8,16]", 4, 8),
       ": between tensors \"a\" and \"b\" are 4 bytes that belong to neither"},
      {two("[4,8]", "[8,16]", 4, 8),
       ": tensor \"a\" is the first and begins at byte 4, expected 0"},
      {two("[0,4]", "[4,12]", 4, 8), ": 4 bytes follow the last tensor \"b\", expected none"},
      {two("[0,8]", "[8,17]", 8, 9),
       " is 1 bytes short: incomplete download? (found 16 bytes of data, expected 17)"},
      {one("[16,0]"), ": tensor \"a\" has data_offsets [16, 0], expected 0 <= begin <= end"},
      {one("[-16,0]"), ": tensor \"a\" has data_offsets [-16, 0], expected 0 <= begin <= end"},
      {one("[9223372036854775807,9223372036854775807]"),
       ": tensor \"a\" is U8 [16], which is 16 bytes, but its data_offsets [9223372036854775807, "
       "9223372036854775807] hold 0"},
      {one("[9223372036854775791,9223372036854775807]"),
       ": tensor \"a\" is the first and begins at byte 9223372036854775791, expected 0"},
      {one("[0,16,32]"),
       ": tensor \"a\" has data_offsets [0,16,32], expected two integers [begin, end]"},
      {one("[0]"), ": tensor \"a\" has data_offsets [0], expected two integers [begin, end]"},
      {one("[0,16.0]"),
       ": tensor \"a\" has data_offsets [0,16.0], expected two integers [begin, end]"},
      {one("[false,16]"),
       ": tensor \"a\" has data_offsets [false,16], expected two integers [begin, end]"},
      {one("\"0,16\""),
       ": tensor \"a\" has data_offsets \"0,16\", expected two integers [begin, end]"},
      {"", ": has 16 bytes of data, but names no tensor"},
      {"\"__metadata__\":{}", ": has 16 bytes of data, but names no tensor"},
  });
}

TEST(SafetensorsHostileTest, F5ShapesAreCountedWithoutOverflow) {
  const auto one = [](const char* dtype, const char* shape, const char* offsets = "[0,16]") {
    return "\"a\":" + entry(dtype, shape, offsets);
  };
  expect_refusals({
      {one("F32", "[5]"),
       ": tensor \"a\" is F32 [5], which is 20 bytes, but its data_offsets [0, 16] hold 16"},
      {one("F32", "[0]"),
       ": tensor \"a\" is F32 [0], which is 0 bytes, but its data_offsets [0, 16] hold 16"},
      {one("U8", "[]"),
       ": tensor \"a\" is U8 [], which is 1 bytes, but its data_offsets [0, 16] hold 16"},
      {one("U8", "[4294967296,4294967296]"),
       ": tensor \"a\" has shape [4294967296, 4294967296], which is more than 2^63 bits"},
      {one("U8", "[4294967296,4294967296,0]", "[0,0]"),
       ": tensor \"a\" has shape [4294967296, 4294967296, 0], which is more than 2^63 bits"},
      {one("F32", "[4611686018427387908]"),  // 2^62 + 4: the bytes would wrap to 16
       ": tensor \"a\" has shape [4611686018427387908], which is more than 2^63 bits"},
      {one("U8", "[9223372036854775807]", "[0,9223372036854775807]"),
       ": tensor \"a\" has shape [9223372036854775807], which is more than 2^63 bits"},
      {one("U8", "[1152921504606846975]", "[0,1152921504606846975]"),
       " is 1,152,921,504,606,846,959 bytes short: incomplete download? (found 16 bytes of data, "
       "expected 1,152,921,504,606,846,975)"},
      {one("U8", "[-16]"), ": tensor \"a\" has -16 in its shape, expected integers from 0"},
      {one("U8", "[-4,-4]"), ": tensor \"a\" has -4 in its shape, expected integers from 0"},
      {one("U8", "[16.0]"), ": tensor \"a\" has 16.0 in its shape, expected integers from 0"},
      {one("U8", "[true]"), ": tensor \"a\" has true in its shape, expected integers from 0"},
      {one("U8", "[[16]]"), ": tensor \"a\" has [16] in its shape, expected integers from 0"},
      {one("U8", "16"), ": tensor \"a\" has a shape of type integer, expected an array"},
      {one("U8", "[1,1,1,1,1,1,1,1,16]"), ": tensor \"a\" has 9 dimensions, expected at most 8"},
  });
}

TEST(SafetensorsHostileTest, F6TypesOutsideTheFormat) {
  const std::string known =
      ", expected one of BF16, F8_E4M3, F32, F16, F8_E8M0, I32, I64, U8, BOOL, F4, F6_E2M3, "
      "F6_E3M2, I8, F8_E5M2, F8_E4M3FNUZ, F8_E5M2FNUZ, I16, U16, U32, F64, C64, U64";
  expect_refusals({
      {"\"a\":" + entry("Q4_K", "[16]", "[0,16]"), ": tensor \"a\" has dtype \"Q4_K\"" + known},
      {"\"a\":" + entry("bf16", "[8]", "[0,16]"), ": tensor \"a\" has dtype \"bf16\"" + known},
      {"\"a\":" + entry("", "[16]", "[0,16]"), ": tensor \"a\" has dtype \"\"" + known},
      {R"("a":{"dtype":7,"shape":[16],"data_offsets":[0,16]})",
       ": tensor \"a\" has a dtype of type integer, expected a string"},
      {"\"a\":" + entry("F4", "[3]", "[0,16]"),
       ": tensor \"a\" is F4 [3], which is 12 bits, expected whole bytes"},
      {"\"a\":" + entry("F6_E2M3", "[2,3]", "[0,16]"),
       ": tensor \"a\" is F6_E2M3 [2, 3], which is 36 bits, expected whole bytes"},
  });
}

}  // namespace
}  // namespace dsr
