// The files of a batch: OUT, OUT.lock, OUT.manifest.json, OUT.stats.jsonl.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/json.h"
#include "base/timer.h"

namespace dsr {

// Keeps a second process away from OUT for as long as it lives, under whatever name: OUT.lock is
// locked, and OUT itself, which may have hard links.
class BatchLock {
 public:
  explicit BatchLock(const std::string& output);  // Error(kUsage) where another has it
  BatchLock(const BatchLock&) = delete;
  BatchLock& operator=(const BatchLock&) = delete;
  ~BatchLock() { close(); }

 private:
  void close();

  int fd_;
  int output_fd_ = -1;  // none where there is no OUT yet: BatchOutput locks it when it makes it
};

// What answers depend on. Throws Error(kUsage) naming the first member that differs from the
// manifest beside OUT; without one OUT must be empty or missing, and the manifest is written by
// save(). Members of `wanted` that are null are not compared, but taken from the file.
class BatchManifest {
 public:
  // `restart`: save() removes what an earlier run left.
  BatchManifest(const std::string& output, const Json& wanted, bool restart);

  const Json* find(std::string_view key) const { return json_.find(key); }
  // Of everything but what may differ between the parts of one batch: context and shard.
  const std::string& id() const { return id_; }
  // With the members that were null.
  void save(const Json& complete);

 private:
  std::string output_, path_;
  Json json_;
  std::string id_;
  bool restart_, exists_ = false;
};

// OUT itself: whole records, one a line.
class BatchOutput {
 public:
  struct Record {
    int64_t offset = 0, size_bytes = 0;  // with its line break
    bool is_error = false;
  };

  // Reads which records there are. A torn one at the end, as a killed process leaves it, is
  // dropped; with `drop_errors` all error records are.
  BatchOutput(const std::string& path, bool drop_errors);
  BatchOutput(const BatchOutput&) = delete;
  BatchOutput& operator=(const BatchOutput&) = delete;
  ~BatchOutput();

  const std::unordered_map<std::string, Record>& records() const { return records_; }
  // Appends a record with one write(2). Where that fails nothing of it stays. On disk within a
  // second or 64 records.
  void append(const std::string& id, const std::string& line, bool is_error);
  void sync_if_due();
  void sync();
  // Puts the records in the order of `ids`, whole or not at all.
  void put_in_order(const std::vector<std::string>& ids);

 private:
  void read_records();
  void open();
  void rewrite(const std::vector<Record>& records);
  [[noreturn]] void fail_io(const char* what) const;

  std::string path_;
  int fd_ = -1;
  int64_t size_bytes_ = 0;
  std::unordered_map<std::string, Record> records_;  // by id
  int64_t unsynced_ = 0;                             // records
  Timer since_sync_;
};

// OUT.stats.jsonl: lost lines matter to nobody, so nothing is synced or checked but the opening.
class BatchStats {
 public:
  BatchStats(const std::string& output, bool restart);
  BatchStats(const BatchStats&) = delete;
  BatchStats& operator=(const BatchStats&) = delete;
  ~BatchStats();
  void append(const Json& line);

 private:
  int fd_;
};

}  // namespace dsr
