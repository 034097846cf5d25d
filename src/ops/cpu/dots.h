// Dot products of weight rows with activations: what linear layers, experts and the absorbed
// projections of MLA are made of.
#pragma once

#include "ops/cpu/inner_loops.h"
#include "tensor/quant.h"

namespace dsr::cpu {

// `rows` rows of a segment with `tokens` vectors.
struct Dots {
  const WeightSegment& segment;
  const QuantScheme& quant;
  int64_t first_row, rows;
  const float* const* x;  // [tokens], each [K]
  int64_t tokens;
  float* out;                        // out[r * row_stride + t * token_stride]
  int64_t row_stride, token_stride;  // in floats
  // As many rows that will be wanted after these; nullptr: the following ones.
  const void* next = nullptr;
};

// Reads each weight once where there are few tokens, and turns tiles of them into float32 where
// there are many.
void dots(CpuContext& cpu, const Dots& d);

// a . b by the definition of inner_loops.h.
float dot(const InnerLoops& loops, const float* a, const float* b, int64_t n);

// Columns [first, first + n) of a row as float32, by the fastest way.
void decode_row(const InnerLoops& loops, const WeightSegment& segment, const QuantScheme& quant,
                int64_t row, int64_t first, int64_t n, float* out);

}  // namespace dsr::cpu
