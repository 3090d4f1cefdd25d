// How items are divided among ranks, threads or slices.
#pragma once

#include <algorithm>
#include <cstddef>

namespace nnpar {

struct Range {
    std::size_t begin;
    std::size_t size;
};

inline std::size_t divide_up(std::size_t number, std::size_t divisor) {
    return (number + divisor - 1) / divisor;
}

// This worker's contiguous part; all parts cover every item once, and their sizes differ by at most
// one.
inline Range part(std::size_t num_items, std::size_t num_workers, std::size_t worker) {
    const std::size_t base = num_items / num_workers;
    const std::size_t extra = num_items % num_workers;
    return {.begin = worker * base + std::min(worker, extra),
            .size = base + (worker < extra ? 1 : 0)};
}

// The part of a part that belongs to one of its workers.
inline Range part(Range items, std::size_t num_workers, std::size_t worker) {
    const Range inner = part(items.size, num_workers, worker);
    return {.begin = items.begin + inner.begin, .size = inner.size};
}

}  // namespace nnpar
