#include "device/communicator.h"

#include <cstring>

namespace dsr {
namespace {

void copy(Exec& exec, const Tensor& out, const Tensor& in) {
  DSR_CHECK(out.contiguous() && in.contiguous() && out.size_bytes() == in.size_bytes(), out.text(),
            in.text());
  if (!exec.dry_run()) std::memcpy(out.data, in.data, static_cast<size_t>(in.size_bytes()));
}

}  // namespace

void SelfCommunicator::all_gather(Exec& exec, const Tensor& out, const Tensor& in) {
  copy(exec, out, in);
}

void SelfCommunicator::all_to_all(Exec& exec, const Tensor& out, const Tensor& in) {
  copy(exec, out, in);
}

}  // namespace dsr
