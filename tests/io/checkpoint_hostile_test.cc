// hostile.md rows F7 and F9, and directories that are no model.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>

#include "base/timer.h"
#include "io/checkpoint_fixture.h"

namespace dsr::test {
namespace {

using CheckpointHostileTest = CheckpointTest;

// --- F7 -----------------------------------------------------------------------------------------

TEST_F(CheckpointHostileTest, F7WeightMapValuesAreBareNames) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", ""},
      {".safetensors", ".safetensors"},
      {"../x.safetensors", "../x.safetensors"},
      {"a/b.safetensors", "a/b.safetensors"},
      {"/etc/x.safetensors", "/etc/x.safetensors"},
      {"a\\b.safetensors", "a\\b.safetensors"},
      {"..\\x.safetensors", "..\\x.safetensors"},
      {"~x.safetensors", "~x.safetensors"},
      {"x~.safetensors", "x~.safetensors"},
      {"a..b.safetensors", "a..b.safetensors"},
      {std::string("a\0b.safetensors", 15), "a\\x00b.safetensors"},
      {"model.bin", "model.bin"},
      {"model.safetensors.gz", "model.safetensors.gz"},
      {"/dev/zero", "/dev/zero"},
      {std::string(244, 'n') + ".safetensors", std::string(200, 'n') + "..."},
      {std::string(5000, 'n') + ".safetensors", std::string(200, 'n') + "..."},
  };
  for (const auto& [value, shown] : cases) {
    dir.write(kIndexFileName, index_text({{"a", value}}));
    EXPECT_EQ(refusal(), "model.safetensors.index.json: weight_map of \"a\" is \"" + shown +
                             "\", expected the bare name of a .safetensors file in the same "
                             "directory");
  }
}

TEST_F(CheckpointHostileTest, F7TheLongestNameIsAccepted) {
  const std::string name = std::string(243, 'n') + ".safetensors";
  ASSERT_EQ(name.size(), 255u);
  dir.write(name, shard({"a"}));
  dir.write(kIndexFileName, index_text({{"a", name}}));
  EXPECT_EQ(open().n_tensors(), 1);
}

TEST_F(CheckpointHostileTest, F7AShardIsARegularFile) {
  const std::string place = dir.file(kShard2);
  const auto refused_as = [&](const std::string& what) {
    const Timer timer;
    EXPECT_EQ(refusal(), place + ": " + what);
    EXPECT_LT(timer.seconds(), 1);
    remove(kShard2);
  };
  remove(kShard2);
  ASSERT_EQ(::mkfifo(place.c_str(), 0600), 0);
  refused_as("expected a regular file, found a FIFO");
  std::filesystem::create_directory(place);
  refused_as("expected a regular file, found a directory");
  std::filesystem::create_symlink("/dev/zero", place);
  refused_as("expected a regular file, found a device");
  std::filesystem::create_symlink(dir.path(), place);
  refused_as("expected a regular file, found a directory");
  const int listener = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(place.size(), sizeof address.sun_path);
  std::strcpy(address.sun_path, place.c_str());
  ASSERT_EQ(::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  refused_as("expected a regular file, found a socket");
  ::close(listener);
  std::filesystem::create_symlink(kShard2, place);  // leads to itself
  refused_as("cannot be opened: Too many levels of symbolic links");
}

TEST_F(CheckpointHostileTest, F7ConfigAndIndexAreRegularFilesToo) {
  for (const char* name : {"config.json", "generation_config.json", kIndexFileName}) {
    std::string saved;
    if (std::filesystem::exists(dir.file(name))) {
      std::filesystem::rename(dir.file(name), dir.file("saved"));
      saved = "saved";
    }
    ASSERT_EQ(::mkfifo(dir.file(name).c_str(), 0600), 0);
    EXPECT_EQ(refusal(), dir.file(name) + ": expected a regular file, found a FIFO");
    remove(name);
    if (!saved.empty()) std::filesystem::rename(dir.file(saved), dir.file(name));
  }
}

TEST_F(CheckpointHostileTest, F7AShardThatIsAnotherFileIsNotEchoed) {
  dir.write(kShard2, "the secrets of another file, which are longer than a length\n");
  EXPECT_EQ(refusal().find("secret"), std::string::npos);
}

// --- F9 -----------------------------------------------------------------------------------------

TEST_F(CheckpointHostileTest, F9AMissingShardIsNamedWithTheCommandThatFetchesIt) {
  remove(kShard2);
  EXPECT_EQ(refusal(),
            "model.safetensors.index.json: 1 of 2 files are missing: "
            "model-00002-of-000002.safetensors\n"
            "  try: hf download ORG/NAME --include model-00002-of-000002.safetensors --local-dir " +
                dir.string());
}

TEST_F(CheckpointHostileTest, F9AllMissingShardsAreListedAtOnce) {
  std::vector<std::pair<std::string, std::string>> map;
  std::string first_ten;
  for (int i = 100; i < 113; ++i) {
    const std::string file = "model-00" + std::to_string(i) + "-of-000163.safetensors";
    map.emplace_back("t" + std::to_string(i), file);
    if (i < 110) first_ten += (i > 100 ? ", " : "") + file;
  }
  dir.write(kIndexFileName, index_text(map));
  EXPECT_EQ(refusal(), "model.safetensors.index.json: 13 of 13 files are missing: " + first_ten +
                           " and 3 more\n  try: hf download ORG/NAME --include '*.safetensors*' "
                           "--local-dir " +
                           dir.string());
}

TEST_F(CheckpointHostileTest, F9ADanglingLinkIsAMissingShard) {
  remove(kShard1);
  std::filesystem::create_symlink("../../blobs/gone", dir.file(kShard1));
  EXPECT_EQ(first_line_of(refusal()),
            "model.safetensors.index.json: 1 of 2 files are missing: "
            "model-00001-of-000002.safetensors");
}

TEST_F(CheckpointHostileTest, F9TheHintKnowsTheHuggingFaceCache) {
  const std::string snapshot = dir.file("models--deepseek-ai--DeepSeek-V3/snapshots/0123abc");
  std::filesystem::create_directories(snapshot);
  const std::string blobs = dir.file("models--deepseek-ai--DeepSeek-V3/blobs");
  std::filesystem::create_directories(blobs);
  write_file(blobs + "/77aa.incomplete", "");
  write_file(snapshot + "/config.json", "{}");
  write_file(snapshot + "/model.safetensors.index.json", index_text({{"a", "x.safetensors"}}));
  EXPECT_EQ(error_of([&] { Checkpoint::open(snapshot, {}); }),
            "model.safetensors.index.json: 1 of 1 file is missing: x.safetensors; a download was "
            "interrupted: 77aa.incomplete\n"
            "  try: hf download deepseek-ai/DeepSeek-V3 --include x.safetensors");
}

TEST_F(CheckpointHostileTest, F9TheHintHoldsNothingThatAShellWouldRun) {
  dir.write(kIndexFileName, index_text({{"a", "$(touch owned).safetensors"}}));
  EXPECT_EQ(refusal(),
            "model.safetensors.index.json: 1 of 1 file is missing: $(touch owned).safetensors\n"
            "  try: hf download ORG/NAME --include '*.safetensors*' --local-dir " +
                dir.string());
  const std::string odd = dir.file("models--`x`--y; z");
  std::filesystem::create_directories(odd);
  write_file(odd + "/config.json", "{}");
  EXPECT_EQ(error_of([&] { Checkpoint::open(odd, {}); }),
            odd +
                ": has a config.json, but no weights (no *.safetensors)\n"
                "  try: hf download ORG/NAME --include '*.safetensors*' --local-dir DIR");
}

TEST_F(CheckpointHostileTest, F9IncompleteDownloadsAreNamed) {
  remove(kShard2);
  dir.write(std::string(kShard2) + ".incomplete", "");
  std::filesystem::create_directories(dir.path() / ".cache/huggingface/download");
  dir.write(".cache/huggingface/download/4dxL.5e7a.incomplete", "");
  EXPECT_EQ(first_line_of(refusal()),
            "model.safetensors.index.json: 1 of 2 files are missing: "
            "model-00002-of-000002.safetensors; a download was interrupted: "
            "model-00002-of-000002.safetensors.incomplete, 4dxL.5e7a.incomplete");
}

TEST_F(CheckpointHostileTest, F9TheIndexNamesTheWrongShard) {
  dir.write(kIndexFileName, index_text({{"a", kShard2}, {"b", kShard1}, {"c", kShard2}}));
  EXPECT_EQ(refusal(),
            "model.safetensors.index.json: tensor \"a\" is not in "
            "model-00002-of-000002.safetensors, as the index says, but in "
            "model-00001-of-000002.safetensors");
  dir.write(kIndexFileName, index_text({{"a", kShard1}, {"ghost", kShard2}}));
  EXPECT_EQ(refusal(),
            "model.safetensors.index.json: tensor \"ghost\" is not in "
            "model-00002-of-000002.safetensors, nor in any other shard");
}

TEST_F(CheckpointHostileTest, F9ATensorInTwoShards) {
  dir.write(kShard2, shard({"c", "b"}));
  EXPECT_EQ(refusal(),
            "tensor \"b\" is in model-00002-of-000002.safetensors and in "
            "model-00001-of-000002.safetensors, expected in one file");
}

TEST_F(CheckpointHostileTest, F9AnIncompleteSetWithoutAnIndex) {
  remove(kIndexFileName);
  remove(kShard1);
  EXPECT_EQ(refusal(),
            dir.string() +
                ": no model.safetensors.index.json, and 1 of 2 files are missing: "
                "model-00001-of-000002.safetensors\n  try: hf download ORG/NAME --include "
                "model-00001-of-000002.safetensors --local-dir " +
                dir.string());
}

TEST_F(CheckpointHostileTest, F9AMillionMissingShardsAreCountedNotListed) {
  for (const char* name : {kIndexFileName, kShard1, kShard2}) remove(name);
  dir.write("model-3-of-999999999.safetensors", shard({"a"}));
  const Timer timer;
  const std::string text = first_line_of(refusal());
  EXPECT_LT(timer.seconds(), 1);
  EXPECT_TRUE(text.ends_with("and 999999988 more")) << text;
  EXPECT_NE(text.find("999999998 of 999999999 files are missing: model-1-of-999999999.safetensors"),
            std::string::npos)
      << text;
}

TEST_F(CheckpointHostileTest, F9TwoSetsWithoutAnIndex) {
  remove(kIndexFileName);
  dir.write("model-00001-of-00004.safetensors", shard({"a"}));
  EXPECT_EQ(first_line_of(refusal()),
            dir.string() +
                ": no model.safetensors.index.json, and shards of 2 different sets "
                "(model-00001-of-000002.safetensors, model-00001-of-00004.safetensors), expected "
                "one set");
}

TEST_F(CheckpointHostileTest, F9TheIndexItself) {
  const std::string place = "model.safetensors.index.json: ";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "not JSON: at byte "},
      {"{", "not JSON: at byte "},
      {"[]", "expected a JSON object, found array"},
      {"{}", "weight_map is missing, expected an object of tensor and file names"},
      {R"({"weight_map":[]})", "weight_map is array, expected an object of tensor and file names"},
      {R"({"weight_map":{}})", "weight_map is object, expected an object of tensor and file names"},
      {R"({"weight_map":{"a":1}})",
       "weight_map of \"a\" is of type integer, expected the name of a file"},
      {R"({"weight_map":{"a":"x.safetensors","a":"y.safetensors"}})",
       "the key \"a\" appears twice"},
  };
  for (const auto& [text, want] : cases) {
    dir.write(kIndexFileName, text);
    EXPECT_TRUE(refusal().starts_with(place + want)) << refusal() << "\nexpected " << want;
  }
}

// --- directories that are no model
// ----------------------------------------------------------------

TEST_F(CheckpointHostileTest, DirectoriesWithoutAModel) {
  const auto refusal_at = [](const std::string& path) {
    return error_of([&] { Checkpoint::open(path, {}); });
  };
  EXPECT_EQ(refusal_at(dir.file("gone")),
            dir.file("gone") + ": no such directory, expected a model directory");
  EXPECT_EQ(
      refusal_at(dir.file("config.json")),
      dir.file("config.json") + ": is a file, expected a model directory with config.json in it");
  EXPECT_EQ(refusal_at("gone\x1b[31m\n"),
            "gone\\x1b[31m\\x0a: no such directory, expected a model directory");
  for (const char* name : {kIndexFileName, kShard1, kShard2}) remove(name);
  EXPECT_EQ(first_line_of(refusal()),
            dir.string() + ": has a config.json, but no weights (no *.safetensors)");
  dir.write("pytorch_model-00001-of-00002.bin", "");
  EXPECT_EQ(refusal(), dir.string() +
                           ": holds its weights as pytorch_model-00001-of-00002.bin only, expected "
                           ".safetensors: python3 scripts/bin_to_safetensors.py converts them");
  remove("pytorch_model-00001-of-00002.bin");
  dir.write("consolidated.safetensors", "");
  EXPECT_EQ(refusal(), dir.string() +
                           ": no model.safetensors and no model.safetensors.index.json that says "
                           "which of its files belong to the model: consolidated.safetensors");
  remove("config.json");
  EXPECT_EQ(refusal(), dir.string() + ": has no config.json, expected a model directory");
}

TEST_F(CheckpointHostileTest, TheConfigIsABoundedJsonObject) {
  dir.write("config.json", "[1]");
  EXPECT_EQ(refusal(), "config.json: expected a JSON object, found array");
  dir.write("config.json", "{\"a\": 1,}");
  EXPECT_TRUE(refusal().starts_with("config.json: not JSON: at byte 9: ")) << refusal();
  dir.write("config.json", std::string(16'000'001, ' '));
  EXPECT_EQ(refusal(),
            dir.file("config.json") + ": is 16,000,001 bytes, at most 16,000,000 are accepted");
}

}  // namespace
}  // namespace dsr::test
