// How many cores this process may keep busy.
#pragma once

#include <string>

namespace fastopt {

// Processors that the calling thread may run on.
int affinity_cores();
// CPU time that its control groups leave this process, in cores; 0 when none of them limits it. `root` is put before the paths of /proc and
// /sys (tests bring their own).
int quota_cores(const std::string& root = {});

}  // namespace fastopt
