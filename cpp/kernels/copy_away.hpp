// Copies that nobody reads soon.
#pragma once

#include "core/types.hpp"

namespace fastopt {

// `bytes` to memory that begins with a cache line: past the caches where the processor can, so that no line is fetched only to be written
// over, and what is at hand stays there. By all threads.
void copy_away(const void* from, Index bytes, void* to);

}  // namespace fastopt
