// What must not change a single bit of the logits on reference and cpu: how a sequence is cut
// into chunks, which pages it lies in, who its neighbours are, what memory held before; on the cpu
// nor how many threads compute, with which instructions.
#include <gtest/gtest.h>

#include <algorithm>

#include "io/checkpoint.h"
#include "support/golden.h"
#include "support/reference_model.h"
#include "support/temp_dir.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

// More than a page (64), so that chunks cross into the second one.
constexpr size_t kTokens = 100;

std::vector<int32_t> first_ids(const std::string& name, size_t n = kTokens) {
  std::vector<int32_t> ids = Golden::load(name).input_ids;
  ids.resize(n);
  return ids;
}

// Every chunk dequantises all weights again on reference: by ones and threes that is minutes under
// sanitizers, and no other code.
#ifdef DSR_SANITIZED
constexpr int64_t kChunks[] = {7, 64};
#else
constexpr int64_t kChunks[] = {1, 3, 7, 64};
#endif

class Invariance : public testing::TestWithParam<GoldenOn> {
 protected:
  const TinyCheckpoint checkpoint_{GetParam().name};
  const std::vector<int32_t> ids_ = first_ids(GetParam().name);
  const size_t V_ = static_cast<size_t>(checkpoint_.config().vocab_size);

  ReferenceModel model(ReferenceOptions options = {}) const {
    options.backend = GetParam().backend;
    return ReferenceModel(checkpoint_.config(), checkpoint_, options);
  }
};

INSTANTIATE_TEST_SUITE_P(Tiny, Invariance, testing::ValuesIn(all_goldens_on_hosts()),
                         host_test_name);

TEST_P(Invariance, OfChunking) {
  ReferenceModel whole = model(), chunked = model();
  const std::vector<float> want = whole.logits(ids_);
  for (const int64_t chunk : kChunks) EXPECT_EQ(chunked.logits(ids_, chunk), want) << chunk;
}

TEST_P(Invariance, OfPages) {
  ReferenceModel in_order = model(), permuted = model();
  const std::vector<float> want = in_order.logits(ids_);
  EXPECT_EQ(permuted.logits(ids_, 0, {7, 2}), want);
  EXPECT_EQ(permuted.logits(ids_, 7, {0, 5}), want);
}

TEST_P(Invariance, OfNeighboursInTheBatch) {
  // a is in the middle of its prompt, b at its beginning, c decodes one token.
  ReferenceModel alone = model(), together = model();
  const std::span<const int32_t> all(ids_);
  const std::span<const int32_t> a = all, b = all.subspan(20, 31), c = all.subspan(5, 66);
  const auto part = [](std::span<const int32_t> ids, size_t from, std::vector<int32_t> blocks) {
    return SequencePart{.ids = ids.subspan(from),
                        .first_position = static_cast<int64_t>(from),
                        .blocks = std::move(blocks),
                        .next_ids = {}};
  };
  const auto before = [](std::span<const int32_t> ids, size_t n, std::vector<int32_t> blocks) {
    return SequencePart{
        .ids = ids.first(n), .first_position = 0, .blocks = std::move(blocks), .next_ids = {}};
  };
  together.step({before(c, 65, {6, 1}), before(a, 60, {4, 3})});
  const std::vector<float> got =
      together.step({part(a, 60, {4, 3}), part(b, 0, {5}), part(c, 65, {6, 1})}).logits;

  std::vector<float> want = alone.logits(a);
  want.erase(want.begin(), want.begin() + static_cast<std::ptrdiff_t>(60 * V_));
  const std::vector<float> want_b = alone.logits(b), want_c = alone.logits(c);
  want.insert(want.end(), want_b.begin(), want_b.end());
  want.insert(want.end(), want_c.end() - static_cast<std::ptrdiff_t>(V_), want_c.end());
  EXPECT_EQ(got, want);
}

TEST_P(Invariance, OfWhatMemoryHeld) {
  ReferenceModel clean = model(), poisoned = model({.poison = true});
  const std::vector<float> want = clean.logits(ids_, 33);
  EXPECT_EQ(poisoned.logits(ids_, 33, {3, 6}), want);
}

TEST_P(Invariance, DryRunCountsTheArena) {
  ReferenceModel m = model();
  const std::vector<SequencePart> parts = {
      {.ids = ids_, .first_position = 0, .blocks = {0, 1}, .next_ids = {}}};
  const int64_t planned = m.planned_bytes(parts);
  m.step(parts);
  EXPECT_EQ(m.exec().scratch().peak_bytes(), planned);
  EXPECT_EQ(m.exec().scratch().used_bytes(), 0);
}

TEST_P(Invariance, OfShards) {
  const TempDir one, several;
  checkpoint_.write(one.string());
  checkpoint_.write(several.string(), 3);
  ReferenceModel in_memory = model();
  const std::vector<float> want = in_memory.logits(ids_);
  for (const TempDir* dir : {&one, &several}) {
    const Checkpoint read = Checkpoint::open(dir->string(), {});
    ReferenceModel from_disk(parse_config(read.config(), {}), read,
                             {.backend = GetParam().backend});
    EXPECT_EQ(from_disk.logits(ids_), want) << dir->string();
  }
}

class CpuInvariance : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Tiny, CpuInvariance, testing::ValuesIn(all_goldens()), test_name);

TEST_P(CpuInvariance, OfThreadsAndInstructions) {
  const TinyCheckpoint checkpoint(GetParam());
  const std::vector<int32_t> ids = first_ids(GetParam(), 40);
  const auto logits = [&](int threads, CpuLevel level) {
    ReferenceModel model(checkpoint.config(), checkpoint,
                         {.backend = Backend::kCpu, .cpu = {.threads = threads, .level = level}});
    return model.logits(ids);
  };
  const std::vector<float> want = logits(1, best_cpu_level());
  for (const int threads : {2, 3, 5})
    EXPECT_EQ(logits(threads, best_cpu_level()), want) << threads << " threads";
  for (const CpuLevel level : kCpuLevels)
    if (level < best_cpu_level()) {
      EXPECT_EQ(logits(2, level), want) << name(level);
    }
}

TEST(MtpInvariance, OfChunkingAndWhatMemoryHeld) {
  const TinyCheckpoint checkpoint("v3-mtp");
  const std::vector<int32_t> ids = first_ids("v3-mtp");
  ReferenceModel whole(checkpoint.config(), checkpoint);
  ReferenceModel chunked(checkpoint.config(), checkpoint, {.poison = true});
  const std::vector<float> want = whole.mtp_logits(ids);
  for (const int64_t chunk : kChunks) EXPECT_EQ(chunked.mtp_logits(ids, chunk), want) << chunk;
}

TEST(MtpInvariance, DryRunCountsTheArena) {
  const TinyCheckpoint checkpoint("v3-mtp");
  const std::vector<int32_t> ids = first_ids("v3-mtp");
  ReferenceModel m(checkpoint.config(), checkpoint);
  const std::span<const int32_t> all(ids);
  const std::vector<SequencePart> parts = {{.ids = all.first(kTokens - 1),
                                            .first_position = 0,
                                            .blocks = {0, 1},
                                            .next_ids = all.subspan(1)}};
  const int64_t planned = m.planned_bytes(parts);
  m.step(parts);
  EXPECT_EQ(m.exec().scratch().peak_bytes(), planned);
}

TEST(MtpInvariance, TheMainModelDoesNotSeeTheMtpLayer) {
  const TinyCheckpoint with("v3-mtp");
  TinyCheckpoint without("v3-mtp");
  for (const std::string& name : without.names())
    if (name.starts_with("model.layers.2.")) without.erase(name);
  const std::vector<int32_t> ids = first_ids("v3-mtp");
  ReferenceModel a(with.config(), with), b(without.config(), without);
  EXPECT_EQ(a.model().weights().mtp.size(), 1u);
  EXPECT_EQ(b.model().weights().mtp.size(), 0u);
  EXPECT_EQ(a.logits(ids), b.logits(ids));
}

}  // namespace
}  // namespace dsr::test
