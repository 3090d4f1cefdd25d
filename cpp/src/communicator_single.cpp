#include <algorithm>
#include <cstdlib>

#include "communicator.h"

namespace nnpar {

bool is_launched() {
    return false;
}

struct Communicator::Implementation {
    std::vector<std::vector<float>> buffers;
};

Communicator::Communicator(double /*stall_seconds*/) : state_(std::make_unique<Implementation>()) {}
Communicator::~Communicator() = default;
// NOLINTBEGIN(readability-convert-member-functions-to-static): with MPI they need the object
std::size_t Communicator::rank() const {
    return 0;
}
std::size_t Communicator::size() const {
    return 1;
}
std::size_t Communicator::node_rank() const {
    return 0;
}
std::size_t Communicator::node_size() const {
    return 1;
}
void Communicator::barrier() {}
double Communicator::sum(double value) {
    return value;
}
double Communicator::max(double value) {
    return value;
}
void Communicator::sum(std::vector<double>& /*values*/) {}
void Communicator::sum(float* /*values*/, std::size_t /*size*/) {}
void Communicator::sum(const float* from, float* to, std::size_t size) {
    std::copy_n(from, size, to);
}
void Communicator::start_sum(const float* from, float* to, std::size_t size) {
    if (from != to) {
        std::copy_n(from, size, to);
    }
}
void Communicator::progress() {}
void Communicator::finish() {}
std::vector<float*> Communicator::share(std::size_t size) {
    return {state_->buffers.emplace_back(size).data()};
}
void Communicator::node_barrier() {}
std::string Communicator::first_message(const std::string& message) {
    return message;
}
void Communicator::abort() {
    std::_Exit(EXIT_FAILURE);
}
// NOLINTEND(readability-convert-member-functions-to-static)
std::string Communicator::description() {
    return "none";
}

}  // namespace nnpar
