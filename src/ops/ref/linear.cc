#include "ops/linear.h"

#include "ops/ref/rows.h"
#include "ops/ref/weight_rows.h"

namespace dsr {

void ref::linear(Exec&, const LinearArgs& a) {
  const int64_t T = a.x.shape[0], N = a.out.shape[1], K = a.x.shape[1];
  const std::vector<Row> x = load_rows(a.x);
  std::vector<Row> out(static_cast<size_t>(T), Row(static_cast<size_t>(N)));
  for_each_row(a.w, [&](int64_t n, const float* w) {
    const float bias = a.bias.rank() > 0 ? a.bias.ptr<float>()[n] : 0.0f;
    for (size_t t = 0; t < out.size(); ++t)
      out[t][static_cast<size_t>(n)] = static_cast<float>(dot(x[t].data(), w, K)) + bias;
  });
  for (int64_t t = 0; t < T; ++t) store_row(a.out, t, out[static_cast<size_t>(t)]);
}

void ref::swiglu(Exec&, const SwigluArgs& a) {
  const int64_t T = a.x.shape[0], F = a.out.shape[1], K = a.x.shape[1];
  const std::vector<Row> x = load_rows(a.x);
  std::vector<Row> gate(static_cast<size_t>(T), Row(static_cast<size_t>(F)));
  std::vector<Row> up = gate;
  for_each_row(a.gate_up, [&](int64_t n, const float* w) {
    std::vector<Row>& out = n < F ? gate : up;
    for (size_t t = 0; t < out.size(); ++t)
      out[t][static_cast<size_t>(n % F)] = static_cast<float>(dot(x[t].data(), w, K));
  });
  for (int64_t t = 0; t < T; ++t) {
    Row& g = gate[static_cast<size_t>(t)];
    for (size_t f = 0; f < g.size(); ++f) g[f] = silu(g[f]) * up[static_cast<size_t>(t)][f];
    store_row(a.out, t, g);
  }
}

}  // namespace dsr
