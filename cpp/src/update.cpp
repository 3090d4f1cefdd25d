#include "update.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>

namespace nnpar {
namespace {

constexpr std::size_t kBlock = 1024;  // floats that are summed at a time, in the first-level cache

// Calls action(begin, sum, size) for the sum of the buffers, block by block.
template <typename Action>
void sum_blocks(const std::vector<float*>& buffers, Range range, Action action) {
    std::array<float, kBlock> sum;  // NOLINT(cppcoreguidelines-pro-type-member-init): filled below
    for (std::size_t begin = range.begin; begin < range.begin + range.size; begin += kBlock) {
        const std::size_t size = std::min(kBlock, range.begin + range.size - begin);
        std::copy_n(buffers.front() + begin, size, sum.data());
        for (std::size_t b = 1; b < buffers.size(); ++b) {
            const float* buffer = buffers[b] + begin;
#pragma omp simd
            for (std::size_t i = 0; i < size; ++i) {
                sum[i] += buffer[i];
            }
        }
        action(begin, sum.data(), size);
    }
}

template <typename Action>
void on_threads(std::size_t num_threads, Range range, Action action) {
    const auto count = static_cast<int>(num_threads);
#pragma omp parallel for schedule(static, 1) num_threads(count)
    for (int thread = 0; thread < count; ++thread) {
        action(part(range, num_threads, static_cast<std::size_t>(thread)));
    }
}

}  // namespace

Update::Update(const Options& options, std::vector<Layer> layers, std::vector<float> initial,
               Communicator& communicator, Timeline& timeline)
    : layers_(std::move(layers)),
      initial_(std::move(initial)),
      communicator_(communicator),
      timeline_(timeline),
      num_threads_(options.num_threads),
      averages_through_memory_(options.averages_weights() && options.allreduce == "shared") {
    const std::map<std::string, Sums> kinds = {
        {"shared", Sums::kShared}, {"mpi", Sums::kBlocking}, {"overlapped", Sums::kOverlapped}};
    if (communicator.size() > 1 && !options.averages_weights()) {
        sums_ = kinds.at(options.allreduce);
    }
    allocate();
    reset();
}

void Update::allocate() {
    const std::size_t size = initial_.size();
    const std::size_t num_private = sums_ == Sums::kShared ? 0 : num_threads_ + 2;
    private_buffers_.assign(num_private, std::vector<float>(size));
    if (sums_ == Sums::kShared) {
        weights_ = communicator_.share(communicator_.node_rank() == 0 ? size : 0).front();
        const std::vector<float*> ranks = communicator_.share(size * num_threads_);
        for (std::size_t worker = 0; worker < ranks.size() * num_threads_; ++worker) {
            all_shares_.push_back(ranks[worker / num_threads_] + size * (worker % num_threads_));
        }
        const auto first = all_shares_.begin() +
                           static_cast<std::ptrdiff_t>(communicator_.node_rank() * num_threads_);
        local_shares_.assign(first, first + static_cast<std::ptrdiff_t>(num_threads_));
        return;
    }
    for (std::size_t thread = 0; thread < num_threads_; ++thread) {
        local_shares_.push_back(private_buffers_[thread].data());
    }
    all_shares_ = local_shares_;
    weights_ = private_buffers_[num_threads_].data();
    total_ = private_buffers_[num_threads_ + 1].data();
    if (averages_through_memory_) {
        exchange_ = communicator_.share(size);
    }
}

void Update::sum_local(Range range) {
    on_threads(num_threads_, range, [&](Range slice) {
        sum_blocks(local_shares_, slice,
                   [&](std::size_t begin, const float* sum, std::size_t size) {
                       std::copy_n(sum, size, total_ + begin);
                   });
    });
}

void Update::descend(const std::vector<float*>& shares, Range range, float lr) {
    on_threads(num_threads_, range, [&](Range slice) {
        sum_blocks(shares, slice, [&](std::size_t begin, const float* sum, std::size_t size) {
            float* weights = weights_ + begin;
#pragma omp simd
            for (std::size_t i = 0; i < size; ++i) {
                weights[i] -= lr * sum[i];
            }
        });
    });
}

void Update::layer_done(std::size_t layer) {
    const Layer& here = layers_[layer];
    const bool is_single = num_threads_ == 1;
    if (!is_single) {
        sum_local({.begin = here.offset, .size = here.size()});
    }
    communicator_.start_sum((is_single ? local_shares_.front() : total_) + here.offset,
                            total_ + here.offset, here.size());
    timeline_.lap(Activity::kCommunicate);
}

void Update::apply(float lr) {
    const Range all = {.begin = 0, .size = initial_.size()};
    if (sends_messages()) {
        if (sums_ == Sums::kOverlapped) {
            communicator_.finish();
        } else {
            if (num_threads_ > 1) {
                sum_local(all);
            }
            communicator_.sum(num_threads_ > 1 ? total_ : local_shares_.front(), total_, all.size);
        }
        timeline_.lap(Activity::kCommunicate);
        descend({total_}, all, lr);
        timeline_.lap(Activity::kUpdate);
        return;
    }
    const bool shared = sums_ == Sums::kShared;
    if (shared) {
        communicator_.node_barrier();
        timeline_.lap(Activity::kWait);
    }
    descend(all_shares_,
            shared ? part(all, communicator_.node_size(), communicator_.node_rank()) : all, lr);
    timeline_.lap(Activity::kUpdate);
    if (shared) {
        communicator_.node_barrier();
        timeline_.lap(Activity::kWait);
    }
}

void Update::average_weights(float share_of_examples) {
    const std::size_t size = initial_.size();
    float* target = averages_through_memory_ ? exchange_[communicator_.node_rank()] : weights_;
    for (std::size_t i = 0; i < size; ++i) {
        target[i] = weights_[i] * share_of_examples;
    }
    timeline_.lap(Activity::kUpdate);
    if (averages_through_memory_) {
        communicator_.node_barrier();
        timeline_.lap(Activity::kWait);
        sum_blocks(exchange_, {.begin = 0, .size = size},
                   [&](std::size_t begin, const float* sum, std::size_t count) {
                       std::copy_n(sum, count, weights_ + begin);
                   });
        communicator_.node_barrier();
    } else {
        communicator_.sum(weights_, size);
    }
    timeline_.lap(Activity::kCommunicate);
}

void Update::reset() {
    for (float* share : local_shares_) {
        std::fill_n(share, initial_.size(), 0.0F);
    }
    if (sums_ != Sums::kShared || communicator_.node_rank() == 0) {
        std::ranges::copy(initial_, weights_);
    }
    communicator_.barrier();
}

}  // namespace nnpar
