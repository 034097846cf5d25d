#include "ops/show_outputs.h"

#include <vector>

namespace dsr {
namespace {

std::vector<int64_t> slots_of(Exec& exec, const Tensor& slots) {
  std::vector<int64_t> out(static_cast<size_t>(slots.shape.elements()));
  exec.download(out.data(), slots.data, slots.size_bytes());
  return out;
}

}  // namespace

void show_written(Exec& exec, const MlaCacheView& cache, const Tensor& slots) {
  const MlaRowFormat& f = cache.format;
  std::vector<std::byte> row(static_cast<size_t>(f.row_bytes()));
  std::vector<float> values(static_cast<size_t>(f.kv_lora_rank + f.qk_rope_head_dim));
  int64_t token = 0;
  for (const int64_t slot : slots_of(exec, slots)) {
    exec.download(row.data(), cache.pages.ptr<std::byte>() + slot * f.row_bytes(), f.row_bytes());
    f.decode(row.data(), values.data(), values.data() + f.kv_lora_rank);
    exec.watcher()->look("cache", token++, values);
  }
}

void show_written(Exec& exec, const GqaCacheView& cache, const Tensor& slots) {
  const GqaPageFormat& f = cache.format;
  std::vector<std::byte> page(static_cast<size_t>(f.page_bytes()));
  std::vector<float> values(static_cast<size_t>(2 * f.n_kv_heads * f.head_dim));  // keys, values
  int64_t token = 0, held = -1;  // whose page is in `page`
  for (const int64_t slot : slots_of(exec, slots)) {
    const int64_t block = slot / kPageTokens, offset = slot % kPageTokens;
    if (block != held) exec.download(page.data(), cache.pages.at(block), f.page_bytes());
    held = block;
    for (int64_t h = 0; h < f.n_kv_heads; ++h) {
      f.decode_key(page.data(), h, offset, &values[static_cast<size_t>(h * f.head_dim)]);
      f.decode_value(page.data(), h, offset,
                     &values[static_cast<size_t>((f.n_kv_heads + h) * f.head_dim)]);
    }
    exec.watcher()->look("cache", token++, values);
  }
}

}  // namespace dsr
