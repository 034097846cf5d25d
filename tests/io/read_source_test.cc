// ReadSource: the same tensors at places of its own, and what it knows of their codes.
#include "io/read_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>

namespace dsr::test {
namespace {

class MapSource : public WeightSource {
 public:
  void add(const std::string& name, DType type, std::vector<unsigned char> bytes) {
    bytes_.push_back(std::make_unique<std::vector<unsigned char>>(std::move(bytes)));
    const auto n = static_cast<int64_t>(bytes_.back()->size());
    tensors_[name] = {.dtype_name = "",
                      .dtype = type,
                      .shape = {n / size_bytes(type)},
                      .data = reinterpret_cast<const std::byte*>(bytes_.back()->data()),
                      .file = "f"};
    names_.push_back(name);
  }
  const SourceTensor* find(const std::string& name) const override {
    const auto it = tensors_.find(name);
    return it == tensors_.end() ? nullptr : &it->second;
  }
  std::vector<std::string> names() const override { return names_; }

 private:
  std::vector<std::string> names_;
  std::map<std::string, SourceTensor> tensors_;
  std::vector<std::unique_ptr<std::vector<unsigned char>>> bytes_;
};

TEST(ReadSourceTest, CopiesTensorsAndLooksForNaN) {
  MapSource from;
  from.add("plain", DType::kF8E4M3, {0x00, 0x7e, 0xfe, 0x80, 0x01});
  from.add("positive", DType::kF8E4M3, {0x00, 0x7f});
  from.add("negative", DType::kF8E4M3, {0xff});
  from.add("wide", DType::kBF16, {0xff, 0xff, 0x7f, 0x00});
  from.add("nothing", DType::kF32, {});
  const ReadSource read(from);
  EXPECT_EQ(read.names(), from.names());
  EXPECT_EQ(read.find("absent"), nullptr);
  for (const std::string& name : from.names()) {
    const SourceTensor &a = *from.find(name), &b = *read.find(name);
    EXPECT_EQ(b.shape, a.shape);
    EXPECT_EQ(b.dtype, a.dtype);
    EXPECT_EQ(b.file, "f");
    EXPECT_EQ(b.no_nan, name == "plain") << name;
    EXPECT_NE(b.data, a.data);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(b.data) % 256, 0u);
    const int64_t bytes = a.shape[0] * size_bytes(*a.dtype);
    EXPECT_TRUE(std::equal(a.data, a.data + bytes, b.data));
  }
}

}  // namespace
}  // namespace dsr::test
