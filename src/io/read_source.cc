#include "io/read_source.h"

#include <cstring>

#include "base/math.h"
#include "base/on_all_cores.h"

namespace dsr {
namespace {

constexpr int64_t kAlign = 256;

int64_t bytes_of(const SourceTensor& t) {
  int64_t n = t.dtype ? size_bytes(*t.dtype) : 0;  // what no model uses is not read
  for (const int64_t d : t.shape) n *= d;
  return n;
}

}  // namespace

ReadSource::ReadSource(const WeightSource& from) : names_(from.names()) {
  std::vector<int64_t> begin;
  int64_t bytes = 0;
  for (const std::string& name : names_) {
    begin.push_back(bytes);
    bytes += round_up(bytes_of(*from.find(name)), kAlign);
  }
  memory_.emplace(bytes);
  tensors_.reserve(names_.size());
  std::vector<SourceTensor*> tensors;
  for (const std::string& name : names_) tensors.push_back(&(tensors_[name] = *from.find(name)));
  on_all_cores(tensors.size(), [&](size_t i) {
    SourceTensor& t = *tensors[i];
    std::byte* to = memory_->data() + begin[i];
    const int64_t n = bytes_of(t);
    if (n > 0) std::memcpy(to, t.data, static_cast<size_t>(n));
    t.data = to;
    t.no_nan = t.dtype == DType::kF8E4M3 && count_e4m3_nan(to, n) == 0;
  });
}

const SourceTensor* ReadSource::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace dsr
