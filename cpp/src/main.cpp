// Trains the network as the command line says and writes one record.
#include <exception>
#include <fstream>
#include <iostream>
#include <memory>
#include <new>

#include "blas.h"
#include "communicator.h"
#include "data.h"
#include "options.h"
#include "parameters.h"
#include "placement.h"
#include "problem.h"
#include "record.h"
#include "training.h"

namespace {

constexpr int kWrongUse = 2;

void write_results(const nnpar::Options& options, nnpar::Training& training, const std::string& record) {
    if (!options.save_weights.empty()) {
        nnpar::write_values(options.save_weights, training.update().weights(),
                            training.update().num_parameters() * sizeof(float));
    }
    if (!options.save_losses.empty()) {
        nnpar::write_values(options.save_losses, training.losses().data(), training.num_steps() * sizeof(double));
    }
    if (options.out.empty()) {
        std::cout << record << '\n' << std::flush;
        return;
    }
    std::ofstream file(options.out, std::ios::app);
    file << record << '\n';
    if (!file.flush()) {
        throw nnpar::Problem(options.out + " cannot be written; name a file in a folder that you may write to");
    }
}

// What can be wrong on one rank alone is agreed on by all: otherwise the others would wait for it for ever.
template <typename Action>
bool all_succeed(nnpar::Communicator& communicator, Action action) {
    std::string problem;
    try {
        action();
    } catch (const nnpar::Problem& error) {
        problem = error.what();
    } catch (const std::bad_alloc&) {
        problem = "there is not enough memory for this network and batch; take smaller ones";
    } catch (const std::length_error&) {
        problem = "there is not enough memory for this network and batch; take smaller ones";
    }
    problem = communicator.first_message(problem);
    if (!problem.empty() && communicator.rank() == 0) {
        std::cerr << "nnpar: " << problem << '\n';
    }
    return problem.empty();
}

int run(const std::vector<std::string>& words, nnpar::Communicator& communicator) {
    nnpar::Options options;
    nnpar::Inputs inputs;
    const bool ready = all_succeed(communicator, [&] {
        options = nnpar::parse_options(words);
        inputs = nnpar::load_inputs(options, communicator.size(), communicator.node_size());
    });
    if (!ready) {
        return kWrongUse;
    }
    const nnpar::Placement placement = nnpar::place(options, communicator);
    nnpar::Training training(options, inputs, communicator);
    training.run();
    const std::string record = nnpar::make_record(options, placement, training, communicator);
    const bool written = all_succeed(communicator, [&] {
        if (communicator.rank() == 0) {
            write_results(options, training, record);
        }
    });
    return written ? 0 : kWrongUse;
}

}  // namespace

int main(int num_words, char** words) {
    const std::vector<std::string> arguments(words + 1, words + num_words);
    if (nnpar::wants_help(arguments)) {
        std::cout << nnpar::help();
        return 0;
    }
    nnpar::blas::use_one_thread();
    (void)nnpar::num_cores();
    nnpar::Communicator communicator;
    try {
        return run(arguments, communicator);
    } catch (const std::exception& error) {
        std::cerr << "nnpar: rank " << communicator.rank() << ": " << error.what() << '\n';
        communicator.abort();
    }
    return 1;
}
