// How decode rows of mla_attention are shared out to blocks on sm_90, so that any batch fills the
// GPU and yet a row has the same bits in each.
//
// A row's pages are cut into parts, and parts are gathered into groups: functions of how many
// tokens the row sees. The result is the groups' sum from left to right, a group's that of its
// parts. An item is what a block does in one go and stores: a part, or a group where the batch has
// so much work that whole groups still fill all blocks. The items of all rows lie in a line, and
// each block has a piece of it, of as many pages as any other.
//
// A part's sums are relative to 2^max with a whole `max`, so bringing parts to the same one is
// exact: only additions round, and these are in the order above whoever does them.
#pragma once

#include "attention/paged.cuh"

namespace dsr::cuda {

// A row's parts at most: about the SMs of a GPU, so that one row can fill it.
constexpr int kMlaParts = 132, kMlaGroups = 16, kMlaGroupParts = 9;

// The plan is on the way to the first byte of a layer's attention: divisions are of 32 bits without
// a sign, and left out where there is nothing to divide.
__host__ __device__ constexpr int pieces(int n, int each) {
  if (each == 1) return n;
  return static_cast<int>((static_cast<unsigned>(n) + static_cast<unsigned>(each) - 1) /
                          static_cast<unsigned>(each));
}

struct RowSplit {
  int pages, part_pages, group_parts;

  __host__ __device__ explicit constexpr RowSplit(int n_tokens)
      : pages(pieces(n_tokens, static_cast<int>(kPageTokens))),
        part_pages(pages > kMlaParts ? pieces(pages, kMlaParts) : 1),
        group_parts(0) {
    const int parts = pieces(pages, part_pages);
    group_parts = parts <= 16 ? 4 : parts <= 8 * kMlaGroups ? 8 : kMlaGroupParts;
  }
};
static_assert(kMlaGroups * kMlaGroupParts >= kMlaParts, "any row has few groups");

// The rows of a batch: its tokens, or, where there are more of these than sequences, the tokens
// that are alone in their sequence's part of it.
struct DecodeRows {
  PagedBatch batch;
  int n_rows;
  bool tokens;
  int n_blocks;   // that share the work
  int max_pages;  // of a row
};
struct DecodeRow {
  int token, sequence;
  int n;      // tokens that it sees; 0: none of these rows
  int known;  // of them, those that were in the cache before the step
};
__device__ __forceinline__ DecodeRow decode_row(const DecodeRows& rows, int r) {
  const PagedBatch& b = rows.batch;
  const int32_t* cu = b.cu_seqlens_q;
  if (!rows.tokens) {
    const QueryRange range = query_range(b, r);
    return {range.first, r, range.n, range.n - 1};
  }
  const int n = b.positions[r] + 1;
  if (cu[r] == r && cu[r + 1] == r + 1) return {r, r, n, n - 1};
  int s = 0;
  while (cu[s + 1] <= r) ++s;
  return {r, s, n, b.positions[cu[s]]};
}

// A row's items in a batch of so many pages.
struct RowItems {
  int pages, count;  // of an item; of items
  bool groups;

  __device__ __forceinline__ RowItems(const RowSplit& split, int total_pages, int n_blocks) {
    const int group = split.part_pages * split.group_parts;
    groups = int64_t{4} * total_pages >= int64_t{3} * n_blocks * group;
    pages = groups ? group : split.part_pages;
    count = pieces(split.pages, pages);
  }
};
// The most items of all rows: of those in parts, each has fewer than 3/4 n_blocks kMlaGroupParts
// times its share of the pages, and one for a last part.
inline int64_t max_mla_items(int64_t n_rows, int64_t max_pages, int64_t n_blocks) {
  const int64_t each = std::min<int64_t>(max_pages, kMlaParts);
  return std::min(n_rows * each, 7 * n_blocks + (kMlaGroups + 1) * n_rows);
}

#if __CUDA_ARCH__ >= 900

// By one warp: the same in all lanes.
__device__ __forceinline__ int total_pages(const DecodeRows& rows, int lane) {
  int pages = 0;
  for (int r = lane; r < rows.n_rows; r += 32) pages += RowSplit(decode_row(rows, r).n).pages;
  return __reduce_add_sync(0xffffffffu, pages);
}
__device__ __forceinline__ int items_before(const DecodeRows& rows, int row, int total, int lane) {
  int items = 0;
  for (int r = lane; r < row; r += 32)
    items += RowItems(RowSplit(decode_row(rows, r).n), total, rows.n_blocks).count;
  return __reduce_add_sync(0xffffffffu, items);
}

__device__ __forceinline__ int scan_lanes(int v, int lane) {  // the sum of lanes 0..lane
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int before = __shfl_up_sync(0xffffffffu, v, offset);
    if (lane >= offset) v += before;
  }
  return v;
}

// A warp's way through the pages of its block.
class PageWalk {
 public:
  DecodeRow row;
  int page = 0;  // of the row

  __device__ PageWalk(const DecodeRows& rows, int block, int lane) : row{}, rows_(rows) {
    if (rows.n_rows == 1) {
      call_table(lane);
      row = decode_row(rows, 0);
      total_ = RowSplit(row.n).pages;
      const int begin = take_piece(block);
      take_row();
      start(pieces(begin, item_pages_));
    } else {
      total_ = total_pages(rows, lane);
      find_row(take_piece(block), lane);
    }
  }

  __device__ __forceinline__ bool done() const { return done_; }
  __device__ __forceinline__ int n_tokens() const {  // of this page
    return min(static_cast<int>(kPageTokens), row.n - page * static_cast<int>(kPageTokens));
  }
  __device__ __forceinline__ int n_known() const {  // of them
    return max(0, min(n_tokens(), row.known - page * static_cast<int>(kPageTokens)));
  }
  __device__ __forceinline__ bool starts_part() const { return part_page_ == 0; }
  __device__ __forceinline__ bool ends_part() const {
    return ends_item() || part_page_ + 1 == part_pages_;
  }
  __device__ __forceinline__ bool first_part() const {  // of the item
    return page - part_page_ == item_ * item_pages_;
  }
  __device__ __forceinline__ bool ends_item() const { return page + 1 == item_end_; }
  __device__ __forceinline__ int item() const {  // where its result goes; -1: it is the row's
    return n_items_ == 1 ? -1 : row_item_ + item_;
  }
  __device__ __forceinline__ void next() {
    if (++page < item_end_) {
      if (++part_page_ == part_pages_) part_page_ = 0;
      return;
    }
    int k = item_ + 1;
    if (k == n_items_) {
      do {
        row_page_ += pages_, row_item_ += n_items_;
        if (++r_ == rows_.n_rows) {
          done_ = true;
          return;
        }
        row = decode_row(rows_, r_);
        take_row();
      } while (pages_ == 0);
      k = 0;
    }
    take_item(k);
  }

 private:
  // The table of the batch's only row comes while its length does.
  __device__ __forceinline__ void call_table(int lane) const {
    constexpr int kLine = 128 / sizeof(int32_t);
    if (lane * kLine < rows_.max_pages)
      asm volatile(
          "{ .reg .b32 v; ld.global.ca.b32 v, [%0]; }" ::"l"(rows_.batch.block_table + lane * kLine)
          : "memory");
  }
  // The block's piece of all pages; where it begins. Few pages go to the first blocks, for these
  // are on SMs that are free first.
  __device__ __forceinline__ int take_piece(int block) {
    const auto b = static_cast<unsigned>(block), total = static_cast<unsigned>(total_);
    const auto n = static_cast<unsigned>(min(rows_.n_blocks, max(total_, 1)));
    end_ = static_cast<int>(((b + 1) * total + n - 1) / n);
    return static_cast<int>((b * total + n - 1) / n);
  }
  // The first item of any row that starts in the piece.
  __device__ __forceinline__ void find_row(int begin, int lane) {
    for (int first = 0; first < rows_.n_rows; first += 32) {
      const int r = first + lane;
      const RowSplit split(r < rows_.n_rows ? decode_row(rows_, r).n : 0);
      const RowItems items(split, total_, rows_.n_blocks);
      const int pages_to = row_page_ + scan_lanes(split.pages, lane);
      const int items_to = row_item_ + scan_lanes(items.count, lane);
      const int k = pieces(max(begin - (pages_to - split.pages), 0), items.pages);
      const unsigned found = __ballot_sync(0xffffffffu, k < items.count);
      const int from = found != 0 ? __ffs(static_cast<int>(found)) - 1 : 31;
      const int pages_there = __shfl_sync(0xffffffffu, pages_to, from);
      const int items_there = __shfl_sync(0xffffffffu, items_to, from);
      if (found == 0) {
        row_page_ = pages_there, row_item_ = items_there;
        continue;
      }
      const int k_there = __shfl_sync(0xffffffffu, k, from);
      r_ = first + from;
      row = decode_row(rows_, r_);
      take_row();
      row_page_ = pages_there - pages_, row_item_ = items_there - n_items_;
      return start(k_there);
    }
    done_ = true;
  }
  __device__ __forceinline__ void start(int k) {
    if (k < n_items_)
      take_item(k);
    else
      done_ = true;
  }
  __device__ __forceinline__ void take_row() {
    const RowSplit split(row.n);
    const RowItems items(split, total_, rows_.n_blocks);
    pages_ = split.pages, part_pages_ = split.part_pages;
    item_pages_ = items.pages, n_items_ = items.count;
  }
  __device__ __forceinline__ void take_item(int k) {
    item_ = k;
    page = k * item_pages_, part_page_ = 0;
    item_end_ = min(page + item_pages_, pages_);
    done_ = row_page_ + page >= end_;
  }

  const DecodeRows& rows_;
  int total_ = 0;                    // pages
  int end_ = 0;                      // of the block's piece of them
  int r_ = 0;                        // the row
  int row_page_ = 0, row_item_ = 0;  // pages and items before it
  int pages_ = 0, part_pages_ = 1, item_pages_ = 1, n_items_ = 0;
  int item_ = 0, item_end_ = 0;
  int part_page_ = 0;  // of the part
  bool done_ = false;
};

#endif

}  // namespace dsr::cuda
