// Ends a run whose ranks wait in vain, and says which rank they wait for.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace nnpar {

enum class Operation : std::uint32_t {
    kStart,
    kBarrier,
    kNodeBarrier,
    kAllreduce,
    kBroadcast,
    kAllocation,
    kEnd,
};

// What a rank shows of itself to the watches of all ranks of its machine, in shared memory.
struct alignas(64) RankState {
    std::atomic<std::uint32_t> num_changes;  // odd while the rank waits for others
    std::atomic<std::uint32_t> operation;    // what it waits in
    std::atomic<std::uint32_t> num_looks;    // grows for as long as the rank's watch is running
};

struct SeenRank {
    std::size_t rank;
    RankState* state;
};

// A rank marks when it waits, which costs two stores; a thread looks now and then whether it still
// waits in the same operation. The thread calls no MPI: the ranks of a machine read each other's
// state in shared memory, and those of other machines are reported as out of sight.
class StallWatch {
  public:
    // 0 seconds: wait for as long as it takes.
    StallWatch(std::size_t rank, double seconds);
    ~StallWatch();
    StallWatch(const StallWatch&) = delete;
    StallWatch& operator=(const StallWatch&) = delete;
    StallWatch(StallWatch&&) = delete;
    StallWatch& operator=(StallWatch&&) = delete;

    void enter(Operation operation);
    void leave();

    // From now on this rank shows its state, and sees those of the ranks of its machine.
    void show(std::size_t num_ranks, std::vector<SeenRank> seen, RankState* state);
    // The shared memory is about to go: back to a state that only this rank sees.
    void hide();

  private:
    using Clock = std::chrono::steady_clock;
    void move_to(RankState* state);
    void run();
    void look();
    [[nodiscard]] std::string describe(double waited_seconds, bool& lower_rank_waits) const;

    std::size_t rank_;
    double seconds_;
    RankState private_state_{};
    std::atomic<RankState*> state_{&private_state_};
    std::size_t num_ranks_ = 0;
    std::vector<SeenRank> seen_;

    std::uint32_t num_changes_ = 0;  // at the last look
    Clock::time_point since_;        // when the current wait was first seen
    bool is_asked_ = false;          // whether the ranks have been asked to show that they run
    Clock::time_point asked_;
    std::vector<std::uint32_t> num_looks_;  // of all ranks of this machine when they were asked

    std::mutex mutex_;  // of what show() and hide() change
    std::condition_variable wake_;
    bool is_over_ = false;
    std::thread thread_;
};

// Marks that this rank waits for others while the object lives.
class Waiting {
  public:
    Waiting(StallWatch& watch, Operation operation) : watch_(watch) { watch_.enter(operation); }
    ~Waiting() { watch_.leave(); }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;
    Waiting(Waiting&&) = delete;
    Waiting& operator=(Waiting&&) = delete;

  private:
    StallWatch& watch_;
};

}  // namespace nnpar
