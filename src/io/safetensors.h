// One safetensors file: a little-endian u64 length, a JSON header of that many bytes, then the
// data. Format: github.com/huggingface/safetensors, README "Format".
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/mapped_file.h"
#include "io/weight_source.h"

namespace dsr {

// One tensor of a file. Its bytes are known to lie inside the file, and to be as many as its type
// and shape say.
struct StoredTensor {
  std::string name;
  SourceTensor tensor;
  int64_t offset_bytes = 0;  // from the start of the file's data
  int64_t size_bytes = 0;
};

// Owns the map. The header is checked as a whole when the file is opened, and the data is not
// touched: every tensor has a known type, and sorted by offset they follow one another without gap
// or overlap from the first byte of the data to the end of the file.
class SafetensorsFile {
 public:
  // Throws Error(kModel) that names file, tensor, what was found and what was expected.
  static SafetensorsFile open(const std::string& path);

  const std::string& file_name() const { return file_name_; }            // without its directory
  const std::vector<StoredTensor>& tensors() const { return tensors_; }  // in header order
  const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }
  int64_t data_bytes() const { return data_bytes_; }  // of all tensors
  int64_t file_bytes() const { return file_.size_bytes(); }
  // Throws Error(kModel) if the file on disk is no longer the one that was opened.
  void check_unchanged() const { file_.check_unchanged(); }

 private:
  void read_header(std::string_view header);
  void check_layout() const;

  MappedFile file_;
  std::string file_name_;
  std::vector<StoredTensor> tensors_;
  std::vector<std::pair<std::string, std::string>> metadata_;
  const std::byte* data_ = nullptr;
  int64_t data_bytes_ = 0;
};

}  // namespace dsr
