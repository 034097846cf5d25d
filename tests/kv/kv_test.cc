#include <cstring>
#include <map>
#include <set>

#include "base/rng.h"
#include "kv/block_pool.h"
#include "kv/kv_cache.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

constexpr KvLayout kV3{61, MlaRowFormat{CacheType::kBF16, 512, 64}};

int64_t row_bytes(const KvLayout& layout) {
  return std::get<MlaRowFormat>(layout.format).row_bytes();
}

TEST(KvLayoutTest, DeepSeekV3) {
  EXPECT_EQ(row_bytes(kV3), 1152);
  EXPECT_EQ(kV3.bytes_per_token(), 70272);  // 61 x 576 x 2
  EXPECT_EQ(kV3.bytes_per_block(), 70272 * 64);
  const KvLayout fp8{61, MlaRowFormat{CacheType::kFP8, 512, 64}};
  EXPECT_EQ(std::get<MlaRowFormat>(fp8.format).groups(), 4);
  EXPECT_EQ(row_bytes(fp8), 656);  // 512 + 4 x 4 + 64 x 2
  EXPECT_EQ(fp8.bytes_per_token(), 61 * 656);
  const KvLayout f32{27, MlaRowFormat{CacheType::kF32, 512, 64}};  // V2-Lite
  EXPECT_EQ(f32.bytes_per_token(), 27 * 2304);
}

// models.md section 18.
TEST(KvLayoutTest, MhaAndGqa) {
  const KvLayout llm_7b{30, GqaPageFormat{CacheType::kBF16, 32, 128}};
  EXPECT_EQ(llm_7b.bytes_per_token(), 491520);
  const KvLayout llm_67b{95, GqaPageFormat{CacheType::kBF16, 8, 128}};
  EXPECT_EQ(llm_67b.bytes_per_token(), 389120);
  const KvLayout qwen_1_5b{28, GqaPageFormat{CacheType::kFP8, 2, 128}};
  EXPECT_EQ(qwen_1_5b.bytes_per_token(), 28 * 2 * 2 * (128 + 4));
}

TEST(KvLayoutTest, BlocksForTokens) {
  EXPECT_EQ(blocks_for(0), 0);
  EXPECT_EQ(blocks_for(1), 1);
  EXPECT_EQ(blocks_for(64), 1);
  EXPECT_EQ(blocks_for(65), 2);
  EXPECT_EQ(blocks_for(163840), 2560);
}

TEST(KvCacheTest, LayersAreViewsBesideEachOther) {
  Exec exec(Backend::kReference);
  {
    const KvLayout layout{3, MlaRowFormat{CacheType::kFP8, 130, 6}};
    const KvCache cache(exec, layout, 5);
    EXPECT_EQ(cache.n_blocks(), 5);
    const int64_t bytes = 5 * layout.bytes_per_block();
    EXPECT_GE(exec.memory().bytes(MemoryKind::kKvCache), bytes);
    EXPECT_LT(exec.memory().bytes(MemoryKind::kKvCache), bytes + kAlignBytes);
    const std::byte* end = nullptr;
    for (int64_t layer = 0; layer < 3; ++layer) {
      const MlaCacheView view = cache.mla(layer);
      EXPECT_EQ(view.format.kv_lora_rank, 130);
      EXPECT_EQ(view.pages.shape, (Shape{5, layout.page_bytes()}));
      EXPECT_TRUE(layer == 0 || view.pages.data == end);
      end = view.pages.ptr<std::byte>() + view.pages.size_bytes();
      std::memset(view.pages.data, static_cast<int>(layer), 1);  // all of it is ours to write
      std::memset(view.pages.ptr<std::byte>(4) + layout.page_bytes() - 1, 1, 1);
    }
    EXPECT_FALSE(error_of([&] { cache.mla(3); }, ErrorKind::kInternal).empty());
    EXPECT_FALSE(error_of([&] { cache.mla(-1); }, ErrorKind::kInternal).empty());
  }
  EXPECT_EQ(exec.memory().total_bytes(), 0);
}

TEST(KvCacheTest, ADryRunCountsTheSame) {
  Exec real(Backend::kReference), dry(Backend::kReference, /*dry_run=*/true);
  const KvLayout layout{2, MlaRowFormat{CacheType::kBF16, 512, 64}};
  const KvCache a(real, layout, 3), b(dry, layout, 3);
  EXPECT_EQ(real.memory().total_bytes(), dry.memory().total_bytes());
  EXPECT_EQ(b.mla(1).pages.data, nullptr);
  EXPECT_EQ(b.mla(1).pages.shape, a.mla(1).pages.shape);
}

TEST(BlockPoolTest, HandsOutEveryBlockOnce) {
  BlockPool pool(5);
  EXPECT_EQ(pool.n_blocks(), 5);
  std::set<int32_t> taken;
  for (int i = 0; i < 5; ++i) taken.insert(pool.take());
  EXPECT_EQ(taken, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pool.n_free(), 0);
  EXPECT_EQ(pool.take(), -1);
  pool.release(2);
  EXPECT_EQ(pool.take(), 2);
  EXPECT_EQ(BlockPool(0).take(), -1);
}

TEST(BlockPoolTest, AFreeBlockCannotBeReleasedOrRetained) {
  BlockPool pool(2);
  const int32_t block = pool.take();
  pool.release(block);
  EXPECT_FALSE(error_of([&] { pool.release(block); }, ErrorKind::kInternal).empty());
  EXPECT_FALSE(error_of([&] { pool.retain(block); }, ErrorKind::kInternal).empty());
  EXPECT_EQ(pool.n_free(), 2);
}

// Against a model that is a map of counts: 20,000 random steps on pools of several sizes.
TEST(BlockPoolTest, CountsReferencesLikeAMap) {
  for (const int64_t size : {1, 2, 7, 64}) {
    BlockPool pool(size);
    PhiloxStream random(11, static_cast<uint64_t>(size));
    std::map<int32_t, int> held;
    const auto any_held = [&] {
      auto it = held.begin();
      std::advance(it, random.next_u32() % held.size());
      return it;
    };
    for (int step = 0; step < 20000; ++step) {
      const uint32_t what = random.next_u32() % 5;
      if (what < 2) {
        const int32_t block = pool.take();
        ASSERT_EQ(block < 0, static_cast<int64_t>(held.size()) == size);
        if (block >= 0) {
          ASSERT_LT(block, size);
          ASSERT_TRUE(held.emplace(block, 1).second);
        }
      } else if (what == 2 && !held.empty()) {
        const auto it = any_held();
        pool.retain(it->first);
        ++it->second;
      } else if (!held.empty()) {
        const auto it = any_held();
        pool.release(it->first);
        if (--it->second == 0) held.erase(it);
      }
      ASSERT_EQ(pool.n_free() + static_cast<int64_t>(held.size()), size);
    }
  }
}

TEST(BlockPoolTest, APublishedBlockIsFoundByItsIdsBehindItsPrefix) {
  BlockPool pool(4);
  const std::vector<int32_t> a = {1, 2}, b = {3, 4};
  const int32_t first = pool.take(), second = pool.take();
  const PrefixId prefix_a = pool.publish(first, kNoTokens, a);
  const PrefixId prefix_ab = pool.publish(second, prefix_a, b);
  EXPECT_NE(prefix_a, kNoTokens);
  EXPECT_EQ(pool.find(kNoTokens, b).block, -1) << "b is there, but behind a";
  const BlockPool::Found found = pool.find(prefix_a, b);
  EXPECT_EQ(found.block, second);
  EXPECT_EQ(found.prefix, prefix_ab);
  EXPECT_EQ(pool.n_references(second), 2);

  const int32_t equal = pool.take();
  EXPECT_EQ(pool.publish(equal, kNoTokens, a), kNoTokens) << "there is one already";
  EXPECT_FALSE(error_of([&] { pool.unpublish(second); }, ErrorKind::kInternal).empty());
  pool.release(second);
  pool.unpublish(second);
  EXPECT_EQ(pool.find(prefix_a, b).block, -1);
}

TEST(BlockPoolTest, OfBlocksThatNobodyUsesTheOldestIsTakenFirst) {
  BlockPool pool(3);
  std::vector<int32_t> blocks;
  for (int32_t i = 0; i < 3; ++i) {
    blocks.push_back(pool.take());
    pool.publish(blocks.back(), kNoTokens, std::vector<int32_t>{i});
  }
  for (const size_t i : {1u, 0u, 2u}) pool.release(blocks[i]);
  EXPECT_EQ(pool.n_free(), 3);
  EXPECT_EQ(pool.find(kNoTokens, std::vector<int32_t>{1}).block, blocks[1]);  // in use again
  EXPECT_EQ(pool.n_free(), 2);
  EXPECT_EQ(pool.take(), blocks[0]);
  EXPECT_EQ(pool.find(kNoTokens, std::vector<int32_t>{0}).block, -1);
  EXPECT_EQ(pool.take(), blocks[2]);
  EXPECT_EQ(pool.take(), -1);
}

}  // namespace
}  // namespace dsr::test
