#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>

#include "communicator.h"

namespace nnpar {
namespace {

constexpr int kNumSpins = 2000;  // before a rank that waits lets go of its core

struct alignas(64) Gate {
    std::atomic<std::uint32_t> num_arrived;
    std::atomic<std::uint32_t> generation;
};

}  // namespace

struct Communicator::Implementation {
    MPI_Comm node = MPI_COMM_NULL;
    int rank = 0;
    int size = 1;
    int node_rank = 0;
    int node_size = 1;
    Gate* gate = nullptr;
    std::vector<MPI_Win> windows;
    std::vector<MPI_Request> requests;

    void* allocate(MPI_Aint num_bytes) {
        void* own = nullptr;
        windows.emplace_back();
        MPI_Win_allocate_shared(num_bytes, 1, MPI_INFO_NULL, node, static_cast<void*>(&own), &windows.back());
        return own;
    }

    [[nodiscard]] void* address(int of_rank) const {
        MPI_Aint num_bytes = 0;
        int unit = 0;
        void* base = nullptr;
        MPI_Win_shared_query(windows.back(), of_rank, &num_bytes, &unit, static_cast<void*>(&base));
        return base;
    }
};

Communicator::Communicator() : own_(std::make_unique<Implementation>()) {
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &own_->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &own_->size);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, own_->rank, MPI_INFO_NULL, &own_->node);
    MPI_Comm_rank(own_->node, &own_->node_rank);
    MPI_Comm_size(own_->node, &own_->node_size);
    if (own_->node_size > 1) {
        void* mine = own_->allocate(own_->node_rank == 0 ? static_cast<MPI_Aint>(sizeof(Gate)) : 0);
        own_->gate = own_->node_rank == 0 ? new (mine) Gate{} : static_cast<Gate*>(own_->address(0));
        MPI_Barrier(own_->node);
    }
}

Communicator::~Communicator() {
    for (MPI_Win& window : own_->windows) {
        MPI_Win_free(&window);
    }
    MPI_Comm_free(&own_->node);
    MPI_Finalize();
}

std::size_t Communicator::rank() const {
    return static_cast<std::size_t>(own_->rank);
}
std::size_t Communicator::size() const {
    return static_cast<std::size_t>(own_->size);
}
std::size_t Communicator::node_rank() const {
    return static_cast<std::size_t>(own_->node_rank);
}
std::size_t Communicator::node_size() const {
    return static_cast<std::size_t>(own_->node_size);
}

// NOLINTBEGIN(readability-convert-member-functions-to-static): without MPI_COMM_WORLD they would need the object
void Communicator::barrier() {
    MPI_Barrier(MPI_COMM_WORLD);
}

double Communicator::sum(double value) {
    MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    return value;
}

double Communicator::max(double value) {
    MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return value;
}

void Communicator::sum(std::vector<double>& values) {
    MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}

void Communicator::sum(float* values, std::size_t size) {
    MPI_Allreduce(MPI_IN_PLACE, values, static_cast<int>(size), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

void Communicator::sum(const float* from, float* to, std::size_t size) {
    const void* source = from == to ? MPI_IN_PLACE : static_cast<const void*>(from);
    MPI_Allreduce(source, to, static_cast<int>(size), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

void Communicator::abort() {
    MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
}
// NOLINTEND(readability-convert-member-functions-to-static)

void Communicator::start_sum(const float* from, float* to, std::size_t size) {
    const void* source = from == to ? MPI_IN_PLACE : static_cast<const void*>(from);
    own_->requests.emplace_back();
    MPI_Iallreduce(source, to, static_cast<int>(size), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &own_->requests.back());
}

void Communicator::progress() {
    int done = 0;
    MPI_Testall(static_cast<int>(own_->requests.size()), own_->requests.data(), &done, MPI_STATUSES_IGNORE);
}

void Communicator::finish() {
    MPI_Waitall(static_cast<int>(own_->requests.size()), own_->requests.data(), MPI_STATUSES_IGNORE);
    own_->requests.clear();
}

std::vector<float*> Communicator::share(std::size_t size) {
    auto* mine = static_cast<float*>(own_->allocate(static_cast<MPI_Aint>(size * sizeof(float))));
    std::fill_n(mine, size, 0.0F);
    std::vector<float*> buffers;
    for (int rank = 0; rank < own_->node_size; ++rank) {
        buffers.push_back(static_cast<float*>(own_->address(rank)));
    }
    MPI_Barrier(own_->node);
    return buffers;
}

void Communicator::node_barrier() {
    if (own_->gate == nullptr) {
        return;
    }
    Gate& gate = *own_->gate;
    const std::uint32_t generation = gate.generation.load(std::memory_order_acquire);
    if (gate.num_arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<std::uint32_t>(own_->node_size)) {
        gate.num_arrived.store(0, std::memory_order_relaxed);
        gate.generation.store(generation + 1, std::memory_order_release);
        return;
    }
    for (int spin = 0; gate.generation.load(std::memory_order_acquire) == generation; ++spin) {
        if (spin > kNumSpins) {
            sched_yield();
        }
    }
}

std::string Communicator::first_message(const std::string& message) {
    int mine = message.empty() ? own_->size : own_->rank;
    int first = mine;
    MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (first == own_->size) {
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
    const std::string all(text.data());
    return all.substr(0, all.find(','));
}

}  // namespace nnpar
