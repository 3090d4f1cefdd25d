#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "communicator.h"
#include "problem.h"
#include "stall_watch.h"

namespace nnpar {
namespace {

constexpr int kNumSpins = 2000;  // before a rank that waits lets go of its core

struct alignas(64) Gate {
    std::atomic<std::uint32_t> num_arrived;
    std::atomic<std::uint32_t> generation;
};

// The rank that a launcher gave to this process; nothing for a process that was started alone.
std::optional<std::size_t> launched_rank() {
    for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
        if (const char* value = std::getenv(name)) {  // NOLINT(concurrency-mt-unsafe)
            return std::strtoul(value, nullptr, 10);
        }
    }
    return std::nullopt;
}

}  // namespace

bool is_launched() {
    return launched_rank().has_value();
}

// A process that was started alone uses no MPI, which would leave files behind.
struct Communicator::Implementation {
    Implementation(std::optional<std::size_t> launched, double stall_seconds)
        : has_mpi(launched.has_value()), watch(launched.value_or(0), has_mpi ? stall_seconds : 0) {}

    bool has_mpi;
    MPI_Comm node = MPI_COMM_NULL;
    int rank = 0;
    int size = 1;
    int node_rank = 0;
    int node_size = 1;
    Gate* gate = nullptr;
    StallWatch watch;
    std::vector<MPI_Win> windows;
    std::vector<MPI_Request> requests;
    std::vector<std::vector<float>> private_memory;  // what share() gives without MPI

    void start() {
        const Waiting waiting(watch, Operation::kStart);
        int provided = 0;
        MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        MPI_Comm_size(MPI_COMM_WORLD, &size);
        MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node);
        MPI_Comm_set_errhandler(node, MPI_ERRORS_RETURN);
        MPI_Comm_rank(node, &node_rank);
        MPI_Comm_size(node, &node_size);
    }

    void share_states() {
        void* memory = allocate(static_cast<MPI_Aint>(sizeof(RankState)));
        auto* state = new (memory) RankState{};
        std::vector<int> ranks(static_cast<std::size_t>(node_size));
        MPI_Allgather(&rank, 1, MPI_INT, ranks.data(), 1, MPI_INT, node);
        std::vector<SeenRank> seen;
        for (int i = 0; i < node_size; ++i) {
            seen.push_back({.rank = static_cast<std::size_t>(ranks[static_cast<std::size_t>(i)]),
                            .state = static_cast<RankState*>(address(i))});
        }
        watch.show(static_cast<std::size_t>(size), std::move(seen), state);
    }

    void share_gate() {
        const bool is_first = node_rank == 0;
        void* memory = allocate(is_first ? static_cast<MPI_Aint>(sizeof(Gate)) : 0);
        gate = is_first ? new (memory) Gate{} : static_cast<Gate*>(address(0));
        MPI_Barrier(node);
    }

    void* allocate(MPI_Aint num_bytes) {
        void* memory = nullptr;
        MPI_Win window = MPI_WIN_NULL;
        const int status = MPI_Win_allocate_shared(num_bytes, 1, MPI_INFO_NULL, node,
                                                   static_cast<void*>(&memory), &window);
        if (status != MPI_SUCCESS) {
            throw Problem("the ranks cannot share " + std::to_string(num_bytes) +
                          " bytes each: there is no room where MPI keeps shared memory, often "
                          "/dev/shm; make room there, or choose --allreduce mpi");
        }
        windows.push_back(window);
        return memory;
    }

    [[nodiscard]] void* address(int of_rank) const {
        MPI_Aint num_bytes = 0;
        int unit = 0;
        void* base = nullptr;
        MPI_Win_shared_query(windows.back(), of_rank, &num_bytes, &unit, static_cast<void*>(&base));
        return base;
    }

    void allreduce(const void* from, void* to, std::size_t count, MPI_Datatype type, MPI_Op op) {
        if (!has_mpi) {
            if (from != to) {
                std::memcpy(to, from, count * (type == MPI_FLOAT ? sizeof(float) : sizeof(double)));
            }
            return;
        }
        const Waiting waiting(watch, Operation::kAllreduce);
        const void* source = from == to ? MPI_IN_PLACE : from;
        MPI_Allreduce(source, to, static_cast<int>(count), type, op, MPI_COMM_WORLD);
    }

    // The window with the states of the ranks, which is the first one, goes last.
    void end() {
        const Waiting waiting(watch, Operation::kEnd);
        while (!windows.empty()) {
            if (windows.size() == 1) {
                watch.hide();
            }
            MPI_Win_free(&windows.back());
            windows.pop_back();
        }
        MPI_Comm_free(&node);
        MPI_Finalize();
    }
};

Communicator::Communicator(double stall_seconds)
    : state_(std::make_unique<Implementation>(launched_rank(), stall_seconds)) {
    if (!state_->has_mpi) {
        return;
    }
    state_->start();
    const Waiting waiting(state_->watch, Operation::kAllocation);
    if (state_->size > 1) {
        state_->share_states();
    }
    if (state_->node_size > 1) {
        state_->share_gate();
    }
}

Communicator::~Communicator() {
    if (state_->has_mpi) {
        state_->end();
    }
}

std::size_t Communicator::rank() const {
    return static_cast<std::size_t>(state_->rank);
}
std::size_t Communicator::size() const {
    return static_cast<std::size_t>(state_->size);
}
std::size_t Communicator::node_rank() const {
    return static_cast<std::size_t>(state_->node_rank);
}
std::size_t Communicator::node_size() const {
    return static_cast<std::size_t>(state_->node_size);
}

void Communicator::barrier() {
    if (state_->has_mpi) {
        const Waiting waiting(state_->watch, Operation::kBarrier);
        MPI_Barrier(MPI_COMM_WORLD);
    }
}

double Communicator::sum(double value) {
    state_->allreduce(&value, &value, 1, MPI_DOUBLE, MPI_SUM);
    return value;
}

double Communicator::max(double value) {
    state_->allreduce(&value, &value, 1, MPI_DOUBLE, MPI_MAX);
    return value;
}

void Communicator::sum(std::vector<double>& values) {
    state_->allreduce(values.data(), values.data(), values.size(), MPI_DOUBLE, MPI_SUM);
}

void Communicator::sum(float* values, std::size_t size) {
    state_->allreduce(values, values, size, MPI_FLOAT, MPI_SUM);
}

void Communicator::sum(const float* from, float* to, std::size_t size) {
    state_->allreduce(from, to, size, MPI_FLOAT, MPI_SUM);
}

void Communicator::abort() {
    if (state_->has_mpi) {
        MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
    }
    std::_Exit(EXIT_FAILURE);
}

void Communicator::start_sum(const float* from, float* to, std::size_t size) {
    if (!state_->has_mpi) {
        state_->allreduce(from, to, size, MPI_FLOAT, MPI_SUM);
        return;
    }
    const void* source = from == to ? MPI_IN_PLACE : static_cast<const void*>(from);
    state_->requests.emplace_back();
    MPI_Iallreduce(source, to, static_cast<int>(size), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD,
                   &state_->requests.back());
}

void Communicator::progress() {
    if (state_->requests.empty()) {
        return;
    }
    int done = 0;
    MPI_Testall(static_cast<int>(state_->requests.size()), state_->requests.data(), &done,
                MPI_STATUSES_IGNORE);
}

void Communicator::finish() {
    const Waiting waiting(state_->watch, Operation::kAllreduce);
    MPI_Waitall(static_cast<int>(state_->requests.size()), state_->requests.data(),
                MPI_STATUSES_IGNORE);
    state_->requests.clear();
}

std::vector<float*> Communicator::share(std::size_t size) {
    if (!state_->has_mpi) {
        return {state_->private_memory.emplace_back(size).data()};
    }
    const Waiting waiting(state_->watch, Operation::kAllocation);
    auto* mine = static_cast<float*>(state_->allocate(static_cast<MPI_Aint>(size * sizeof(float))));
    std::fill_n(mine, size, 0.0F);
    std::vector<float*> buffers;
    for (int rank = 0; rank < state_->node_size; ++rank) {
        buffers.push_back(static_cast<float*>(state_->address(rank)));
    }
    MPI_Barrier(state_->node);
    return buffers;
}

void Communicator::node_barrier() {
    if (state_->gate == nullptr) {
        return;
    }
    Gate& gate = *state_->gate;
    const std::uint32_t generation = gate.generation.load(std::memory_order_acquire);
    if (gate.num_arrived.fetch_add(1, std::memory_order_acq_rel) + 1 ==
        static_cast<std::uint32_t>(state_->node_size)) {
        gate.num_arrived.store(0, std::memory_order_relaxed);
        gate.generation.store(generation + 1, std::memory_order_release);
        return;
    }
    const Waiting waiting(state_->watch, Operation::kNodeBarrier);
    for (int spin = 0; gate.generation.load(std::memory_order_acquire) == generation; ++spin) {
        if (spin > kNumSpins) {
            sched_yield();
        }
    }
}

std::string Communicator::first_message(const std::string& message) {
    if (!state_->has_mpi) {
        return message;
    }
    const Waiting waiting(state_->watch, Operation::kBroadcast);
    int mine = message.empty() ? state_->size : state_->rank;
    int first = mine;
    MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (first == state_->size) {
        return {};
    }
    std::string text = message;
    auto length = static_cast<int>(text.size());
    MPI_Bcast(&length, 1, MPI_INT, first, MPI_COMM_WORLD);
    text.resize(static_cast<std::size_t>(length));
    MPI_Bcast(text.data(), length, MPI_CHAR, first, MPI_COMM_WORLD);
    return text;
}

std::string Communicator::description() {
    std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
    int length = 0;
    MPI_Get_library_version(text.data(), &length);
    const std::string version(text.data());
    return version.substr(0, version.find(','));
}

}  // namespace nnpar
