#include "core/cores.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace fastopt {

namespace {

constexpr double no_quota = std::numeric_limits<double>::infinity();
const char* const groups_of_process = "/proc/self/cgroup";
const char* const mount = "/sys/fs/cgroup";

double cores_of(double quota, double period) { return quota > 0 && period > 0 ? quota / period : no_quota; }

// What one group allows; a file that is not there limits nothing.
double limit_of_v2(const std::string& group) {
    std::ifstream file(group + "/cpu.max");
    std::string quota;
    double period = 0;
    return file >> quota >> period && quota != "max" ? cores_of(std::strtod(quota.c_str(), nullptr), period) : no_quota;
}

double limit_of_v1(const std::string& group) {
    std::ifstream quota_file(group + "/cpu.cfs_quota_us");
    std::ifstream period_file(group + "/cpu.cfs_period_us");
    double quota = 0;
    double period = 0;
    return quota_file >> quota && period_file >> period ? cores_of(quota, period) : no_quota;
}

// A group and all above it up to the mount limit what is in it. In a container the mount may be the group itself, whose path is not found
// below it.
template <class Limit>
double least_limit(const std::string& top, std::string path, Limit&& limit) {
    double least = limit(top);
    while (path.size() > 1) {
        least = std::min(least, limit(top + path));
        const std::size_t last = path.find_last_of('/');
        path.resize(last == std::string::npos ? 0 : last);
    }
    return least;
}

bool names(const std::string& controllers, const std::string& wanted) {
    std::istringstream list(controllers);
    for (std::string name; std::getline(list, name, ',');) {
        if (name == wanted) {
            return true;
        }
    }
    return false;
}

}  // namespace

int affinity_cores() {
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) == 0) {
        return std::max(1, CPU_COUNT(&set));
    }
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int quota_cores(const std::string& root) {
    double least = no_quota;
    // Lines of number:controllers:path; the one of version 2 names no controller.
    std::ifstream groups(root + groups_of_process);
    for (std::string line; std::getline(groups, line);) {
        const std::size_t first = line.find(':');
        const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos) {
            continue;
        }
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const std::string path = line.substr(second + 1);
        if (controllers.empty()) {
            least = std::min(least, least_limit(root + mount, path, limit_of_v2));
            least = std::min(least, least_limit(root + mount + "/unified", path, limit_of_v2));
        } else if (names(controllers, "cpu")) {
            least = std::min(least, least_limit(root + mount + "/cpu", path, limit_of_v1));
            least = std::min(least, least_limit(root + mount + "/" + controllers, path, limit_of_v1));
        }
    }
    return least < no_quota ? std::max(1, static_cast<int>(std::ceil(std::min(least, 1e6)))) : 0;
}

}  // namespace fastopt
