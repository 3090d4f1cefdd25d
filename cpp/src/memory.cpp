#include "memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

#include "problem.h"
#include "training.h"

namespace nnpar {
namespace {

constexpr std::size_t kUnlimited = std::numeric_limits<std::size_t>::max();

// The number after a word at the start of a line, such as "MemAvailable:"; `otherwise` without one.
std::size_t read_number(const std::string& path, const std::string& word, std::size_t otherwise) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with(word)) {
            std::istringstream rest(line.substr(word.size()));
            std::size_t value = otherwise;
            return rest >> value ? value : otherwise;  // "max" is no number
        }
    }
    return otherwise;
}

std::size_t left_in_group(const std::string& folder, const std::string& limit_file,
                          const std::string& usage_file) {
    const std::size_t limit = read_number(folder + "/" + limit_file, "", kUnlimited);
    const std::size_t usage = read_number(folder + "/" + usage_file, "", 0);
    const std::size_t reclaimable =
        std::max(read_number(folder + "/memory.stat", "inactive_file ", 0),
                 read_number(folder + "/memory.stat", "total_inactive_file ", 0));
    return limit == kUnlimited || limit + reclaimable < usage ? limit : limit + reclaimable - usage;
}

// The path of this process in a hierarchy of /proc/self/cgroup, such as "0::" or ":memory:".
std::string group_path(const std::string& hierarchy) {
    std::ifstream file("/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {
        const std::size_t at = line.find(hierarchy);
        if (at != std::string::npos) {
            return line.substr(at + hierarchy.size());
        }
    }
    return "";
}

// What is left in the control groups of version 1 and 2 that this process belongs to.
std::size_t left_in_groups() {
    std::size_t left = kUnlimited;
    for (std::string path = group_path("0::"); !path.empty(); path.resize(path.rfind('/'))) {
        left =
            std::min(left, left_in_group("/sys/fs/cgroup" + path, "memory.max", "memory.current"));
    }
    left = std::min(left, left_in_group("/sys/fs/cgroup", "memory.max", "memory.current"));
    for (std::string path = group_path(":memory:"); !path.empty(); path.resize(path.rfind('/'))) {
        left = std::min(left, left_in_group("/sys/fs/cgroup/memory" + path, "memory.limit_in_bytes",
                                            "memory.usage_in_bytes"));
    }
    return std::min(left, left_in_group("/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                        "memory.usage_in_bytes"));
}

std::size_t available_bytes() {
    const std::size_t kibibytes = read_number("/proc/meminfo", "MemAvailable:", kUnlimited / 1024);
    return std::min(kibibytes * 1024, left_in_groups());
}

// What each rank holds: weights as they came, initial weights, a velocity for each thread, the
// weights that are trained and their sum, the activations and their gradients, and the order.
double bytes_of_a_rank(const Options& options, const DataSet& data,
                       const std::vector<Layer>& layers, std::size_t num_ranks) {
    const auto num_parameters = static_cast<double>(layers.back().end());
    const auto num_threads = static_cast<double>(options.num_threads);
    double num_values = num_parameters * (num_threads + 3);
    auto width = static_cast<double>(layers.front().num_in);
    for (const Layer& layer : layers) {
        width += 2 * static_cast<double>(layer.num_out);
    }
    num_values += num_threads * width * static_cast<double>(worker_examples(options, num_ranks));
    const auto num_examples = static_cast<double>(data.train.size());
    const std::size_t num_steps = total_steps(options, data.train.size());
    const double num_epochs = static_cast<double>(num_steps) *
                              static_cast<double>(options.global_batch_size) / num_examples;
    num_values += num_examples * num_epochs + 2 * static_cast<double>(num_steps);
    return sizeof(float) * num_values;
}

}  // namespace

void check_memory(const Options& options, const DataSet& data, const std::vector<Layer>& layers,
                  std::size_t num_ranks, std::size_t node_size) {
    const double needed =
        static_cast<double>(node_size) * bytes_of_a_rank(options, data, layers, num_ranks);
    const std::size_t available = available_bytes();
    if (needed > static_cast<double>(available)) {
        throw Problem("the run needs at least " + std::to_string(static_cast<std::size_t>(needed)) +
                      " bytes of memory on this machine, which has " + std::to_string(available) +
                      " left; take narrower layers, or fewer threads, ranks or epochs");
    }
}

}  // namespace nnpar
