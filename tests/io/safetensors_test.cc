#include "io/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "support/expect_error.h"
#include "support/safetensors_writer.h"
#include "tensor/dtype.h"

namespace dsr {
namespace {

using test::bytes_of;
using test::error_of;
using test::SafetensorsWriter;
using test::TempDir;

SafetensorsFile open(const TempDir& dir, const SafetensorsWriter& w) {
  w.write(dir.file("model.safetensors"));
  return SafetensorsFile::open(dir.file("model.safetensors"));
}

TEST(SafetensorsTest, GivesNamesTypesShapesAndBytesInHeaderOrder) {
  const TempDir dir;
  SafetensorsWriter w;
  w.add("b", "F32", {2, 3}, bytes_of<float>({1, 2, 3, 4, 5, 6}))
      .add("a", "BF16", {2}, bytes_of<uint16_t>({0x3f80, 0x4000}))
      .metadata("format", "pt");
  const SafetensorsFile file = open(dir, w);
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.file_name(), "model.safetensors");
  EXPECT_EQ(file.data_bytes(), 28);
  EXPECT_EQ(file.file_bytes(), static_cast<int64_t>(w.bytes().size()));
  const StoredTensor& b = file.tensors()[0];
  EXPECT_EQ(b.name, "b");
  EXPECT_EQ(b.tensor.dtype_name, "F32");
  EXPECT_EQ(b.tensor.dtype, DType::kF32);
  EXPECT_EQ(b.tensor.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b.tensor.file, "model.safetensors");
  EXPECT_EQ(b.size_bytes, 24);
  const StoredTensor& a = file.tensors()[1];
  EXPECT_EQ(a.offset_bytes, 24);
  float values[2] = {};
  to_f32(*a.tensor.dtype, a.tensor.data, values, 2);
  EXPECT_EQ(values[0], 1.0f);
  EXPECT_EQ(values[1], 2.0f);
  ASSERT_EQ(file.metadata().size(), 1u);
  EXPECT_EQ(file.metadata()[0].first, "format");
  EXPECT_EQ(file.metadata()[0].second, "pt");
}

TEST(SafetensorsTest, DataMayLieInAnotherOrderThanTheHeader) {
  const TempDir dir;
  SafetensorsWriter w;
  w.add("", "F32", {2}, bytes_of<float>({7, 8}))
      .raw_header(R"({"late":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},
                      "early":{"data_offsets":[0,4],"shape":[],"dtype":"F32"}})");
  const SafetensorsFile file = open(dir, w);
  float late = 0, early = 0;
  to_f32(DType::kF32, file.tensors()[0].tensor.data, &late, 1);
  to_f32(DType::kF32, file.tensors()[1].tensor.data, &early, 1);
  EXPECT_EQ(late, 8.0f);
  EXPECT_EQ(early, 7.0f);
  EXPECT_TRUE(file.tensors()[1].tensor.shape.empty());
}

TEST(SafetensorsTest, KnowsAll22Types) {
  struct Case {
    const char* name;
    int64_t bits;
    std::optional<DType> dtype;
  };
  const std::vector<Case> cases = {{"BOOL", 8, {}},
                                   {"U8", 8, DType::kU8},
                                   {"I8", 8, {}},
                                   {"F8_E5M2", 8, {}},
                                   {"F8_E4M3", 8, DType::kF8E4M3},
                                   {"F8_E8M0", 8, DType::kF8E8M0},
                                   {"F8_E4M3FNUZ", 8, {}},
                                   {"F8_E5M2FNUZ", 8, {}},
                                   {"F4", 4, {}},
                                   {"F6_E2M3", 6, {}},
                                   {"F6_E3M2", 6, {}},
                                   {"I16", 16, {}},
                                   {"U16", 16, {}},
                                   {"F16", 16, DType::kF16},
                                   {"BF16", 16, DType::kBF16},
                                   {"I32", 32, DType::kI32},
                                   {"U32", 32, {}},
                                   {"F32", 32, DType::kF32},
                                   {"C64", 64, {}},
                                   {"F64", 64, {}},
                                   {"I64", 64, DType::kI64},
                                   {"U64", 64, {}}};
  ASSERT_EQ(cases.size(), 22u);
  for (const Case& c : cases) {
    const TempDir dir;
    SafetensorsWriter w;
    w.add("t", c.name, {2, 4}, std::string(static_cast<size_t>(c.bits), 'x'));  // 8 elements
    const SafetensorsFile file = open(dir, w);
    EXPECT_EQ(file.tensors()[0].tensor.dtype_name, c.name);
    EXPECT_EQ(file.tensors()[0].tensor.dtype, c.dtype) << c.name;
    EXPECT_EQ(file.tensors()[0].size_bytes, c.bits);
  }
}

TEST(SafetensorsTest, EmptyTensorsTakeNoBytesAnywhere) {
  const TempDir dir;
  SafetensorsWriter w;
  w.add("none", "F32", {0, 5}, "")
      .add("some", "U8", {3}, "abc")
      .add("none2", "BF16", {7, 0}, "")
      .add("scalar", "U8", {}, "d");
  EXPECT_EQ(open(dir, w).data_bytes(), 4);
  SafetensorsWriter nothing;
  EXPECT_TRUE(open(dir, nothing).tensors().empty());
}

TEST(SafetensorsTest, WhitespaceMaySurroundTheHeader) {
  const TempDir dir;
  for (const auto& [before, after] : std::map<std::string, std::string>{
           {"", "       "}, {"  \n\t", ""}, {" ", std::string(4096, ' ')}, {"\r\n", "\r\n"}}) {
    SafetensorsWriter w;
    w.add("t", "U8", {1}, "x").pad_header(before, after);
    EXPECT_EQ(*reinterpret_cast<const char*>(open(dir, w).tensors()[0].tensor.data), 'x');
  }
}

// The reference format promises no alignment: every type is read from every odd address. The
// undefined-behaviour sanitizer watches.
TEST(SafetensorsTest, DataOfAnyAlignmentIsRead) {
  for (int shift = 0; shift < 8; ++shift) {
    const TempDir dir;
    SafetensorsWriter w;
    w.add("f32", "F32", {2}, bytes_of<float>({1.5f, -2}))
        .add("byte", "U8", {1}, "x")
        .add("odd f32", "F32", {2}, bytes_of<float>({3, 4}))
        .add("odd bf16", "BF16", {1}, bytes_of<uint16_t>({0xc000}))
        .add("odd f16", "F16", {1}, bytes_of<uint16_t>({0x3c00}))
        .pad_header("", std::string(static_cast<size_t>(shift), ' '));
    const SafetensorsFile file = open(dir, w);
    const auto value = [&file](size_t tensor) {
      const SourceTensor& t = file.tensors()[tensor].tensor;
      float out = std::nanf("");
      to_f32(*t.dtype, t.data, &out, 1);
      return out;
    };
    EXPECT_EQ(value(0), 1.5f);
    EXPECT_EQ(value(2), 3.0f);
    EXPECT_EQ(value(3), -2.0f);
    EXPECT_EQ(value(4), 1.0f);
  }
}

TEST(SafetensorsTest, AChangedFileIsNoticed) {
  const TempDir dir;
  SafetensorsWriter w;
  w.add("t", "U8", {3}, "abc");
  const SafetensorsFile file = open(dir, w);
  EXPECT_NO_THROW(file.check_unchanged());
  w.add("u", "U8", {1}, "d").write(dir.file("model.safetensors"));
  EXPECT_EQ(error_of([&] { file.check_unchanged(); }),
            dir.file("model.safetensors") + ": changed while it was being used");
  std::filesystem::remove(dir.file("model.safetensors"));
  EXPECT_EQ(error_of([&] { file.check_unchanged(); }),
            dir.file("model.safetensors") + ": changed while it was being used");
}

TEST(SafetensorsTest, StaysValidWhenMoved) {
  const TempDir dir;
  SafetensorsWriter w;
  w.add("t", "U8", {3}, "abc");
  SafetensorsFile first = open(dir, w);
  const std::byte* data = first.tensors()[0].tensor.data;
  const SafetensorsFile second = std::move(first);
  EXPECT_EQ(second.tensors()[0].tensor.data, data);
  EXPECT_EQ(static_cast<char>(data[2]), 'c');
}

}  // namespace
}  // namespace dsr
