#include "app/batch_output.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "app/output_file.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "base/sha256.h"

namespace dsr {
namespace {

constexpr mode_t kMode = 0666;  // less the umask
constexpr int64_t kSyncRecords = 64;
constexpr double kSyncSeconds = 1;
constexpr int64_t kMaxManifestBytes = 1 << 20;

bool is_there(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

int64_t size_of_file(const std::string& path) {
  struct stat s {};
  return ::stat(path.c_str(), &s) == 0 ? s.st_size : 0;
}

void remove_file(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    fail(ErrorKind::kOutput, escaped(path), ": cannot be removed: ", std::strerror(errno));
}

[[noreturn]] void fail_path(const std::string& path, const char* what) {
  fail(ErrorKind::kOutput, escaped(path), ": cannot be ", what, ": ", std::strerror(errno));
}

int open_for_append(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, kMode);
  if (fd < 0) fail_path(path, "created");
  return fd;
}

Json read_manifest(const std::string& path) {
  try {
    return parse_json(read_file(path, kMaxManifestBytes), path);
  } catch (const Error& e) {  // the file is the batch's, not a model's
    fail_usage(e.what(), "\n  try: another -o, or --restart");
  }
}

// False where this kind of file cannot be locked.
bool has_lock(int fd, const std::string& path, const std::string& output) {
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return true;
  if (errno != EWOULDBLOCK) return false;
  fail_usage(escaped(output), ": another process is writing it (it holds ", escaped(path), ")");
}

// The id of a record, or empty for a line that is none.
struct ReadRecord {
  std::string id;
  bool is_error = false;
};
ReadRecord read_record(std::string_view line) {
  try {
    const Json json = parse_json(line, "record");
    const Json* id = json.is_object() ? json.find("id") : nullptr;
    const Json* error = json.is_object() ? json.find("error") : nullptr;
    if (id == nullptr || !id->is_string() || error == nullptr) return {};
    return {id->as_string(), !error->is_null()};
  } catch (const Error&) {
    return {};
  }
}

}  // namespace

BatchLock::BatchLock(const std::string& output) {
  struct stat s {};
  const bool exists = ::stat(output.c_str(), &s) == 0;
  if (exists && !S_ISREG(s.st_mode))
    fail_usage(escaped(output), ": a batch needs a regular file to write");
  const std::string path = output + ".lock";
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, kMode);
  if (fd_ < 0) fail_path(path, "created");
  // NFS locks files that are open for writing only. One that cannot be locked has the other lock.
  if (exists) output_fd_ = ::open(output.c_str(), O_RDWR | O_CLOEXEC);
  try {
    if (!has_lock(fd_, path, output)) fail_path(path, "locked");
    if (output_fd_ >= 0) has_lock(output_fd_, output, output);
  } catch (...) {
    close();
    throw;
  }
}

void BatchLock::close() {
  if (output_fd_ >= 0) ::close(output_fd_);
  ::close(fd_);
}

BatchManifest::BatchManifest(const std::string& output, const Json& wanted, bool restart)
    : output_(output), path_(output + ".manifest.json"), json_(wanted), restart_(restart) {
  exists_ = is_there(path_);
  if (!exists_ && size_of_file(output) > 0)
    fail_usage(escaped(output), " is not empty, and there is no ", escaped(path_),
               " that says what is in it\n  try: another -o");
  if (restart) exists_ = false;
  Json identity = Json::object();
  for (const auto& [key, value] : wanted.as_object().members)
    if (key != "shard" && !value.is_null()) identity.set(key, value);
  Sha256 hash;
  hash.update(identity.dump());
  id_ = hash.finish();
  if (!exists_) return;
  const Json before = read_manifest(path_);
  for (const auto& [key, value] : wanted.as_object().members) {
    const Json* old = before.is_object() ? before.find(key) : nullptr;
    const std::string text = old == nullptr ? "missing" : old->dump();
    if (!value.is_null() && text != value.dump())
      fail_usage(escaped(path_), ": ", key, " is ", escaped(text), ", now ", escaped(value.dump()),
                 ": these are not the same answers\n  try: another -o, or --restart");
  }
  json_ = before;
}

void BatchManifest::save(const Json& complete) {
  if (exists_) return;
  if (restart_) {
    remove_file(output_);
    remove_file(path_);
  }
  OutputFile file(path_);
  file.write(complete.pretty() + "\n");
  file.commit();
  json_ = complete;
  exists_ = true;
}

BatchOutput::BatchOutput(const std::string& path, bool drop_errors) : path_(path) {
  read_records();
  const auto is_error = [](const auto& entry) { return entry.second.is_error; };
  if (drop_errors && std::any_of(records_.begin(), records_.end(), is_error)) {
    std::erase_if(records_, is_error);
    std::vector<Record> kept;
    for (const auto& [id, record] : records_) kept.push_back(record);
    std::sort(kept.begin(), kept.end(),
              [](const Record& a, const Record& b) { return a.offset < b.offset; });
    rewrite(kept);
    records_.clear();
    read_records();
  }
  open();
}

BatchOutput::~BatchOutput() {
  if (fd_ >= 0) ::close(fd_);
}

void BatchOutput::fail_io(const char* what) const { fail_path(path_, what); }

void BatchOutput::open() {
  const bool is_new = !is_there(path_);
  fd_ = open_for_append(path_);
  // Records that are on disk in a file without a name would be lost.
  if (is_new && !sync_name(path_)) fail_io("written");
  struct stat s {};
  if (::fstat(fd_, &s) != 0) fail_io("read");
  if (!S_ISREG(s.st_mode)) fail_usage(escaped(path_), ": a batch needs a regular file to write");
  // For hard links. It fails where the BatchLock has the lock, as it does of a file that was there.
  ::flock(fd_, LOCK_EX | LOCK_NB);
  // What follows the last whole record was cut short.
  if (s.st_size != size_bytes_ && ::ftruncate(fd_, size_bytes_) != 0) fail_io("written");
}

void BatchOutput::read_records() {
  size_bytes_ = 0;
  if (size_of_file(path_) == 0) return;
  const MappedFile file = MappedFile::open(path_);
  const std::string_view all = file.text();
  int64_t line = 0;
  for (size_t at = 0; at < all.size();) {
    const size_t end = all.find('\n', at);
    if (end == all.npos) break;  // torn
    ++line;
    const ReadRecord record = read_record(all.substr(at, end - at));
    if (record.id.empty()) {
      // After a power failure the end may be anything; a record after it would be lost.
      const size_t next = all.find("\n{\"id\":", at);
      if (next == all.npos) break;
      fail_usage(escaped(path_), ": line ", line, " is not a record of a batch");
    }
    const auto size = static_cast<int64_t>(end + 1 - at);
    records_.try_emplace(record.id, Record{static_cast<int64_t>(at), size, record.is_error});
    at = end + 1;
    size_bytes_ = static_cast<int64_t>(at);
  }
}

void BatchOutput::append(const std::string& id, const std::string& line, bool is_error) {
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = ::write(fd_, line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error = errno;
      // Half a record helps nobody. If even this fails, the next run drops it.
      if (done > 0 && ::ftruncate(fd_, size_bytes_) != 0) errno = error;
      errno = error;
      fail_io("written");
    }
    done += static_cast<size_t>(n);
  }
  records_[id] = {size_bytes_, static_cast<int64_t>(line.size()), is_error};
  size_bytes_ += static_cast<int64_t>(line.size());
  ++unsynced_;
  sync_if_due();
}

void BatchOutput::sync_if_due() {
  if (unsynced_ >= kSyncRecords || (unsynced_ > 0 && since_sync_.seconds() >= kSyncSeconds)) sync();
}

void BatchOutput::sync() {
  if (unsynced_ > 0 && ::fsync(fd_) != 0 && errno != EINVAL && errno != EROFS) fail_io("written");
  unsynced_ = 0;
  since_sync_ = Timer();
}

void BatchOutput::rewrite(const std::vector<Record>& records) {
  const MappedFile file = MappedFile::open(path_);
  OutputFile out(path_);
  for (const Record& r : records)
    out.write(file.text().substr(static_cast<size_t>(r.offset), static_cast<size_t>(r.size_bytes)));
  out.commit();
}

void BatchOutput::put_in_order(const std::vector<std::string>& ids) {
  sync();
  std::vector<Record> wanted;
  int64_t offset = 0;
  bool in_order = true;
  for (const std::string& id : ids) {
    const auto at = records_.find(id);
    DSR_CHECK(at != records_.end(), id);
    in_order = in_order && at->second.offset == offset;
    offset += at->second.size_bytes;
    wanted.push_back(at->second);
  }
  if (in_order && offset == size_bytes_) return;
  rewrite(wanted);
}

BatchStats::BatchStats(const std::string& output, bool restart) {
  const std::string path = output + ".stats.jsonl";
  if (restart) remove_file(path);
  fd_ = open_for_append(path);
}

BatchStats::~BatchStats() { ::close(fd_); }

void BatchStats::append(const Json& line) {
  const std::string text = line.dump() + "\n";
  [[maybe_unused]] const ssize_t written = ::write(fd_, text.data(), text.size());
}

}  // namespace dsr
