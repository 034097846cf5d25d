#include "base/huge_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/math.h"

namespace dsr {

HugeMemory::HugeMemory(int64_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  const int64_t size = round_up(bytes, kHugePage);
  mapping_bytes_ = static_cast<size_t>(size + kHugePage);  // room to begin at a huge page
  mapping_ =
      ::mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping_ == MAP_FAILED)
    fail(ErrorKind::kDoesNotFit, "memory: ", with_commas(bytes),
         " bytes for weights cannot be allocated");
  const auto address = reinterpret_cast<uintptr_t>(mapping_);
  data_ = static_cast<std::byte*>(mapping_) +
          (round_up(static_cast<int64_t>(address), kHugePage) - static_cast<int64_t>(address));
  // A wish: where it is refused, the pages are small ones.
  ::madvise(data_, static_cast<size_t>(size), MADV_HUGEPAGE);
}

HugeMemory::~HugeMemory() {
  if (data_ != nullptr) ::munmap(mapping_, mapping_bytes_);
}

int64_t HugeMemory::resident_bytes() const {
  if (data_ == nullptr) return 0;
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  std::vector<unsigned char> pages(static_cast<size_t>(ceil_div(bytes_, page)));
  if (::mincore(data_, static_cast<size_t>(bytes_), pages.data()) != 0) return bytes_;
  const auto n = std::count_if(pages.begin(), pages.end(), [](unsigned char p) { return p & 1; });
  return std::min(bytes_, n * page);
}

void HugeMemory::offer() const {
  // A wish as well: where it is refused, the memory is kept.
  if (data_ != nullptr) ::madvise(data_, static_cast<size_t>(bytes_), MADV_FREE);
}

}  // namespace dsr
