#include "stall_watch.h"

#include <unistd.h>

#include <array>
#include <cmath>

namespace nnpar {
namespace {

constexpr std::chrono::milliseconds kLookInterval{500};
constexpr double kAnswerSeconds = 2.5;  // in which a rank that runs has looked at least once
constexpr double kTurnSeconds = 3.0;    // in which a waiting rank lets a lower one report
constexpr int kExitStatus = 75;

constexpr std::array<const char*, 7> kOperations = {
    "the start of MPI", "a barrier",   "a barrier of a node's shared memory",
    "an all-reduce",    "a broadcast", "an allocation of shared memory",
    "the end of MPI"};

bool is_waiting(std::uint32_t num_changes) {
    return num_changes % 2 == 1;
}

void append(std::string& list, const std::string& item) {
    list.append(list.empty() ? "" : ", ").append(item);
}

}  // namespace

StallWatch::StallWatch(std::size_t rank, double seconds) : rank_(rank), seconds_(seconds) {
    if (seconds_ > 0) {
        thread_ = std::thread([this] { run(); });
    }
}

StallWatch::~StallWatch() {
    {
        const std::scoped_lock lock(mutex_);
        is_over_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) {
        thread_.join();
    }
}

void StallWatch::enter(Operation operation) {
    RankState& state = *state_.load(std::memory_order_relaxed);
    state.operation.store(static_cast<std::uint32_t>(operation), std::memory_order_relaxed);
    leave();
}

// One thread alone writes num_changes: a load and a store are enough.
void StallWatch::leave() {
    RankState& state = *state_.load(std::memory_order_relaxed);
    const std::uint32_t num_changes = state.num_changes.load(std::memory_order_relaxed);
    state.num_changes.store(num_changes + 1, std::memory_order_release);
}

void StallWatch::show(std::size_t num_ranks, std::vector<SeenRank> seen, RankState* state) {
    const std::scoped_lock lock(mutex_);
    num_ranks_ = num_ranks;
    seen_ = std::move(seen);
    move_to(state);
}

void StallWatch::hide() {
    const std::scoped_lock lock(mutex_);
    num_ranks_ = 0;
    seen_.clear();
    move_to(&private_state_);
}

void StallWatch::move_to(RankState* state) {
    const RankState& previous = *state_.load();
    state->operation.store(previous.operation.load());
    state->num_changes.store(previous.num_changes.load());
    state_.store(state);
    is_asked_ = false;
}

void StallWatch::run() {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, kLookInterval, [this] { return is_over_; })) {
        look();
    }
}

void StallWatch::look() {
    const Clock::time_point now = Clock::now();
    RankState& state = *state_.load(std::memory_order_relaxed);
    state.num_looks.fetch_add(1, std::memory_order_relaxed);
    const std::uint32_t num_changes = state.num_changes.load(std::memory_order_acquire);
    if (num_changes != num_changes_ || !is_waiting(num_changes)) {
        num_changes_ = num_changes;
        since_ = now;
        is_asked_ = false;
        return;
    }
    const double waited = std::chrono::duration<double>(now - since_).count();
    if (waited < seconds_) {
        return;
    }
    if (!is_asked_) {
        is_asked_ = true;
        asked_ = now;
        num_looks_.clear();
        for (const SeenRank& seen : seen_) {
            num_looks_.push_back(seen.state->num_looks.load(std::memory_order_relaxed));
        }
        return;
    }
    bool lower_rank_waits = false;
    const std::string message = describe(waited, lower_rank_waits);
    const double limit = kAnswerSeconds + (lower_rank_waits ? kTurnSeconds : 0);
    if (std::chrono::duration<double>(now - asked_).count() > limit) {
        // the launcher ends the other ranks; nothing that waits for them may be called here
        [[maybe_unused]] const ssize_t written =
            write(STDERR_FILENO, message.data(), message.size());
        _exit(kExitStatus);
    }
}

// The line that the library's ranks in Python print, too.
std::string StallWatch::describe(double waited_seconds, bool& lower_rank_waits) const {
    const RankState& state = *state_.load(std::memory_order_relaxed);
    std::string missing = num_ranks_ == 0 ? "a rank that has not started" : "";
    std::string waiting;
    std::vector<bool> is_in_sight(num_ranks_, false);
    for (std::size_t i = 0; i < seen_.size(); ++i) {
        const auto& [rank, seen] = seen_[i];
        is_in_sight[rank] = true;
        if (rank == rank_) {
            continue;
        }
        const std::string name = "rank " + std::to_string(rank);
        if (seen->num_looks.load(std::memory_order_relaxed) == num_looks_[i]) {
            append(missing, name + " (does not answer)");
        } else if (!is_waiting(seen->num_changes.load(std::memory_order_acquire))) {
            append(missing, name + " (is busy elsewhere)");
        } else {
            lower_rank_waits = lower_rank_waits || rank < rank_;
            const std::uint32_t operation = seen->operation.load(std::memory_order_relaxed);
            append(waiting, name + " in " + kOperations.at(operation));
        }
    }
    for (std::size_t rank = 0; rank < num_ranks_; ++rank) {
        if (!is_in_sight[rank]) {
            append(missing, "rank " + std::to_string(rank) + " (on another machine, out of sight)");
        }
    }
    return "\nnnpar: stalled: rank " + std::to_string(rank_) + " has waited " +
           std::to_string(std::lround(waited_seconds)) + " s in " +
           kOperations.at(state.operation.load(std::memory_order_relaxed)) +
           "; missing: " + (missing.empty() ? "none, the ranks wait for each other" : missing) +
           (waiting.empty() ? "" : "; waiting too: ") + waiting +
           ". If a step may take that long, raise stall_seconds\n";
}

}  // namespace nnpar
