// The ranks: messages between them and memory that those of one machine share. Built with MPI, or
// for one process.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace nnpar {

// Whether a launcher, such as mpiexec, started this process as one of its ranks.
bool is_launched();

class Communicator {
  public:
    // Ranks that wait `stall_seconds` for others end the run; 0: they wait for as long as it takes.
    explicit Communicator(double stall_seconds);
    ~Communicator();
    Communicator(const Communicator&) = delete;
    Communicator& operator=(const Communicator&) = delete;
    Communicator(Communicator&&) = delete;
    Communicator& operator=(Communicator&&) = delete;

    [[nodiscard]] std::size_t rank() const;
    [[nodiscard]] std::size_t size() const;
    [[nodiscard]] std::size_t node_rank() const;  // among the ranks of this machine
    [[nodiscard]] std::size_t node_size() const;

    void barrier();
    double sum(double value);
    double max(double value);
    void sum(std::vector<double>& values);
    void sum(float* values, std::size_t size);  // in place
    void sum(const float* from, float* to, std::size_t size);

    // A sum that goes on while others compute, as long as progress() is called; finish() waits for
    // all of them.
    void start_sum(const float* from, float* to, std::size_t size);
    void progress();
    void finish();

    // `size` floats, zero at first, for each rank of this machine, in memory that all of them see
    // (collective).
    std::vector<float*> share(std::size_t size);
    // A barrier of the ranks of one machine, through shared memory: what share() gave is in order
    // behind it.
    void node_barrier();

    // The first message, in the order of ranks, that is not empty; the same on all ranks
    // (collective).
    std::string first_message(const std::string& message);
    void abort();
    [[nodiscard]] static std::string description();

  private:
    struct Implementation;
    std::unique_ptr<Implementation> state_;
};

}  // namespace nnpar
