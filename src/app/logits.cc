#include "deepseek_run/logits.h"

#include <bit>

#include "app/output_file.h"
#include "base/error.h"

namespace dsr {
namespace {

static_assert(std::endian::native == std::endian::little, "rows are written as they lie in memory");

// NumPy Enhancement Proposal 1, version 1.0: magic, version, length of the header as u16, a Python
// dictionary, spaces and a line break. The data starts at a multiple of 64.
std::string npy_header(int64_t rows, int64_t columns) {
  constexpr size_t kAlign = 64, kPrefix = 10;
  std::string dict =
      str("{'descr': '<f4', 'fortran_order': False, 'shape': (", rows, ", ", columns, "), }");
  const size_t unpadded = kPrefix + dict.size() + 1;
  dict.append((kAlign - unpadded % kAlign) % kAlign, ' ');
  dict += '\n';
  std::string out = "\x93NUMPY";
  out += '\x01';
  out += '\0';
  out += static_cast<char>(dict.size() & 0xff);
  out += static_cast<char>(dict.size() >> 8);
  return out + dict;
}

}  // namespace

void write_logits_npy(Engine& engine, std::span<const TokenId> ids, const std::string& path) {
  OutputFile file(path);
  file.write(npy_header(std::ssize(ids), engine.info().vocab_size));
  engine.logits(ids, [&](int64_t, std::span<const float> row) {
    file.write({reinterpret_cast<const char*>(row.data()), row.size_bytes()});
  });
  file.commit();
}

}  // namespace dsr
