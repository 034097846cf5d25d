// Writes safetensors files for tests: good ones, and ones broken on purpose.
//
//   SafetensorsWriter w;
//   w.add("model.norm.weight", "F32", {3}, bytes_of<float>({1, 2, 3}));
//   w.write(dir.file("model.safetensors"));
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "support/temp_dir.h"

namespace dsr::test {

// The little-endian bytes of some values.
template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  std::string out(values.size() * sizeof(T), '\0');
  if (!values.empty()) std::memcpy(out.data(), values.data(), out.size());
  return out;
}

class SafetensorsWriter {
 public:
  // Tensors lie in the file in the order they were added. The bytes are taken as they are: nothing
  // here checks them against type and shape.
  SafetensorsWriter& add(std::string name, std::string dtype, std::vector<int64_t> shape,
                         std::string bytes) {
    tensors_.push_back({std::move(name), std::move(dtype), std::move(shape), std::move(bytes)});
    return *this;
  }
  SafetensorsWriter& metadata(std::string key, std::string value) {
    metadata_.emplace_back(std::move(key), std::move(value));
    return *this;
  }
  // Text before and after the header's JSON; one space before it moves all data by one byte.
  SafetensorsWriter& pad_header(std::string before, std::string after) {
    before_ = std::move(before);
    after_ = std::move(after);
    return *this;
  }
  // For broken files: this header instead of the one that the tensors would have, and this length
  // instead of the header's.
  SafetensorsWriter& raw_header(std::string text) {
    raw_header_ = std::move(text);
    return *this;
  }
  SafetensorsWriter& raw_length(uint64_t bytes) {
    raw_length_ = bytes;
    return *this;
  }

  std::string header() const {
    if (raw_header_) return *raw_header_;
    Json out = Json::object();
    if (!metadata_.empty()) {
      Json metadata = Json::object();
      for (const auto& [key, value] : metadata_) metadata.set(key, value);
      out.set("__metadata__", std::move(metadata));
    }
    int64_t offset = 0;
    for (const Stored& t : tensors_) {
      const auto end = offset + static_cast<int64_t>(t.bytes.size());
      Json entry = Json::object();
      entry.set("dtype", t.dtype)
          .set("shape", Json(Json::Array(t.shape.begin(), t.shape.end())))
          .set("data_offsets", Json(Json::Array{Json(offset), Json(end)}));
      out.set(t.name, std::move(entry));
      offset = end;
    }
    return before_ + out.dump() + after_;
  }

  // The file.
  std::string bytes() const {
    const std::string head = header();
    const uint64_t length = raw_length_.value_or(head.size());
    std::string out;
    for (int i = 0; i < 8; ++i) out += static_cast<char>((length >> (8 * i)) & 0xff);
    out += head;
    for (const Stored& t : tensors_) out += t.bytes;
    return out;
  }
  void write(const std::string& path) const { write_file(path, bytes()); }

 private:
  struct Stored {
    std::string name, dtype;
    std::vector<int64_t> shape;
    std::string bytes;
  };
  std::vector<Stored> tensors_;
  std::vector<std::pair<std::string, std::string>> metadata_;
  std::string before_, after_;
  std::optional<std::string> raw_header_;
  std::optional<uint64_t> raw_length_;
};

}  // namespace dsr::test
