#include "io/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>

#include "io/checkpoint_fixture.h"

namespace dsr::test {
namespace {

TEST_F(CheckpointTest, FindsTensorsOfAllShardsInIndexOrder) {
  const Checkpoint checkpoint = open();
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"c", "a", "b"}));
  EXPECT_EQ(checkpoint.n_tensors(), 3);
  EXPECT_EQ(checkpoint.total_bytes(), 6);
  EXPECT_EQ(checkpoint.files().size(), 2u);
  EXPECT_EQ(checkpoint.directory(), dir.string());
  const SourceTensor* b = checkpoint.find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->file, kShard1);
  EXPECT_EQ(b->dtype_name, "U8");
  EXPECT_EQ(static_cast<char>(b->data[1]), 'y');
  EXPECT_EQ(checkpoint.find("d"), nullptr);
  EXPECT_TRUE(warnings.empty());
}

TEST_F(CheckpointTest, GivesConfigAndGenerationConfig) {
  EXPECT_EQ(open().config().find("hidden_size")->as_int(), 16);
  EXPECT_TRUE(open().generation_config().is_null());
  dir.write("generation_config.json", R"({"temperature": 0.6})");
  EXPECT_EQ(open().generation_config().find("temperature")->as_double(), 0.6);
}

TEST_F(CheckpointTest, TensorsStayWhereTheyAreWhenTheCheckpointMoves) {
  Checkpoint first = open();
  const SourceTensor* a = first.find("a");
  const Checkpoint second = std::move(first);
  EXPECT_EQ(second.find("a"), a);
  EXPECT_EQ(second.names(), (std::vector<std::string>{"c", "a", "b"}));
}

TEST_F(CheckpointTest, ASingleFileNeedsNoIndex) {
  for (const char* name : {kShard1, kShard2, kIndexFileName}) remove(name);
  dir.write("model.safetensors", shard({"z", "a"}));
  EXPECT_EQ(open().names(), (std::vector<std::string>{"z", "a"}));
  EXPECT_TRUE(warnings.empty());
}

TEST_F(CheckpointTest, ASingleFileIsPreferredToAnIndex) {
  dir.write("model.safetensors", shard({"z"}));
  EXPECT_EQ(open().names(), (std::vector<std::string>{"z"}));
  EXPECT_EQ(warnings,
            (std::vector<std::string>{dir.string() + ": has model.safetensors and "
                                                     "model.safetensors.index.json: using "
                                                     "model.safetensors"}));
}

TEST_F(CheckpointTest, ACompleteSetOfShardsNeedsNoIndex) {
  remove(kIndexFileName);
  EXPECT_EQ(open().names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(warnings,
            (std::vector<std::string>{dir.string() + ": no model.safetensors.index.json: using the "
                                                     "headers of the 2 shards"}));
}

TEST_F(CheckpointTest, SymbolicLinksAreFollowedAsInTheHuggingFaceCache) {
  const TempDir blobs;
  for (const char* name : {kShard1, kShard2, "config.json"}) {
    std::filesystem::rename(dir.file(name), blobs.file(name));
    std::filesystem::create_symlink(blobs.file(name), dir.file(name));
  }
  EXPECT_EQ(open().n_tensors(), 3);
}

TEST_F(CheckpointTest, TotalSizeMayCountTensorsOrFiles) {
  const int64_t file_bytes = static_cast<int64_t>(shard({"a", "b"}).size() + shard({"c"}).size());
  const auto warns = [this](const std::string& total_size) {
    dir.write(kIndexFileName, index_text({{"a", kShard1}, {"b", kShard1}, {"c", kShard2}},
                                         "{\"total_size\":" + total_size + "}"));
    open();
    return warnings;
  };
  for (const std::string& good : {std::string("6"), std::string("6.0"), std::to_string(file_bytes),
                                  std::string("null"), std::string("\"big\"")})
    EXPECT_TRUE(warns(good).empty()) << good;
  EXPECT_EQ(warns("5"), (std::vector<std::string>{
                            "model.safetensors.index.json: metadata.total_size is 5, expected 6, "
                            "the bytes of all tensors"}));
  EXPECT_EQ(warns(std::to_string(file_bytes + 1)).size(), 1u);
  EXPECT_EQ(warns("-6").size(), 1u);
}

TEST_F(CheckpointTest, TensorsOutsideTheIndexAreReportedAndFound) {
  dir.write(kShard2, shard({"c", "stray", "other"}));
  const Checkpoint checkpoint = open();
  EXPECT_EQ(warnings, (std::vector<std::string>{
                          "model.safetensors.index.json: 2 tensors are in the shards but not in "
                          "the index, the first is \"stray\""}));
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"c", "a", "b", "stray", "other"}));
  EXPECT_NE(checkpoint.find("other"), nullptr);
}

TEST_F(CheckpointTest, WarningsMayGoNowhere) {
  remove(kIndexFileName);
  EXPECT_EQ(Checkpoint::open(dir.string(), {}).n_tensors(), 3);
}

TEST_F(CheckpointTest, AnyChangedShardIsNoticed) {
  const Checkpoint checkpoint = open();
  EXPECT_NO_THROW(checkpoint.check_unchanged());
  dir.write(kShard2, shard({"c", "d"}));
  EXPECT_EQ(error_of([&] { checkpoint.check_unchanged(); }),
            dir.file(kShard2) + ": changed while it was being used");
}

// 163 shards and 91,991 tensors, as DeepSeek-R1 has. Names and headers are as long as its own.
TEST(CheckpointScaleTest, TheLargestCheckpointOpensQuicklyUnderFewDescriptors) {
  constexpr int kShards = 163, kTensors = 91'991;
  const TempDir dir;
  dir.write("config.json", "{}");
  std::string map;
  std::vector<SafetensorsWriter> writers(kShards);
  std::vector<std::string> files;
  for (int i = 1; i <= kShards; ++i) {
    const std::string number = std::to_string(i);
    files.push_back("model-" + std::string(5 - number.size(), '0') + number +
                    "-of-000163.safetensors");
  }
  std::vector<std::string> headers(kShards, "{\"__metadata__\":{\"format\":\"pt\"}");
  for (int i = 0; i < kTensors; ++i) {
    const auto s = static_cast<size_t>(int64_t{i} * kShards / kTensors);
    const std::string name = "model.layers." + std::to_string(i / 1536) + ".mlp.experts." +
                             std::to_string(i % 256) + "." + std::to_string(i) +
                             ".down_proj.weight_scale_inv";
    headers[s] += ",\"" + name + R"(":{"dtype":"F8_E4M3","shape":[0,7168],"data_offsets":[0,0]})";
    map += (i > 0 ? ",\n    \"" : "\"") + name + "\": \"" + files[s] + "\"";
  }
  dir.write(kIndexFileName, "{\"metadata\":{\"total_size\":0},\"weight_map\":{" + map + "}}");
  for (size_t i = 0; i < files.size(); ++i)
    SafetensorsWriter().raw_header(headers[i] + "}").write(dir.file(files[i]));

  const pid_t child = fork();
  if (child == 0) {
    const rlimit few = {64, 64};
    if (setrlimit(RLIMIT_NOFILE, &few) != 0) _exit(97);
    try {
      const std::clock_t start = std::clock();  // processor time: other programs do not count
      const Checkpoint checkpoint = Checkpoint::open(dir.string(), {});
      const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
      std::fprintf(stderr, "opened in %.3f s\n", seconds);
      if (checkpoint.n_tensors() != kTensors) _exit(2);
      _exit(seconds < 10 ? 0 : 1);  // 0.4 s; sanitizers need ten times that
    } catch (const Error& e) {
      std::fprintf(stderr, "%s\n", e.what());
      _exit(3);
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace dsr::test
