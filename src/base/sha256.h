// SHA-256 (FIPS 180-4), for comparing files with the names their publisher gave them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace dsr {

class Sha256 {
 public:
  void update(std::string_view bytes);
  // 64 hexadecimal digits; nothing may follow.
  std::string finish();

 private:
  static constexpr size_t kBlock = 64;
  void compress(const uint8_t* block);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, kBlock> pending_{};
  uint64_t size_bytes_ = 0;
};

}  // namespace dsr
