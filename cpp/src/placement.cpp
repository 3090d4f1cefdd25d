#include "placement.h"

#include <sched.h>

#include <vector>

namespace nnpar {
namespace {

std::vector<std::size_t> allowed_cores() {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    sched_getaffinity(0, sizeof(allowed), &allowed);
    std::vector<std::size_t> cores;
    for (std::size_t core = 0; core < CPU_SETSIZE; ++core) {
        if (CPU_ISSET(core, &allowed)) {
            cores.push_back(core);
        }
    }
    return cores;
}

void bind_this_thread(std::size_t core) {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(core, &only);
    sched_setaffinity(0, sizeof(only), &only);
}

}  // namespace

std::size_t num_cores() {
    static const std::size_t count =
        allowed_cores().size();  // as the launcher left them, before anything is bound
    return count;
}

Placement place(const Options& options, const Communicator& communicator) {
    const std::vector<std::size_t> cores = allowed_cores();
    const bool fits = options.num_threads * communicator.node_size() <= num_cores();
    const bool bound = fits && options.binding == "core";
    const std::size_t first = communicator.node_rank() * options.num_threads;
    const auto num_threads = static_cast<int>(options.num_threads);
#pragma omp parallel for schedule(static, 1) num_threads(num_threads)
    for (int thread = 0; thread < num_threads; ++thread) {
        if (bound) {
            bind_this_thread(cores[first + static_cast<std::size_t>(thread)]);
        }
    }
    return {.bound = bound, .oversubscribed = !fits};
}

}  // namespace nnpar
