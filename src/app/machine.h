// Facts about the machine and this process, from the files in which Linux tells them.
#pragma once

#include <cstdint>
#include <string>

namespace dsr {

// What follows "key" and a colon in the first such line of a file; empty if none does.
std::string field_of(const std::string& path, const std::string& key);
// The same as a number; 0 if there is none.
double number_of(const std::string& path, const std::string& key);

double clock_mhz();

// Seconds since the kernel started this process, in steps of 0.01; 0 if unknown.
double process_seconds();

// Of this process, not of a GPU: the most memory it has had since reset_peak_memory, or ever where
// Linux refuses that. Pages of mapped files count as far as they were touched.
int64_t peak_memory_bytes();
void reset_peak_memory();
// From now on large memory that is freed goes back to the system at once, so that what was resident
// before does not count again. Slower for whoever frees often.
void give_memory_back();

}  // namespace dsr
