// Trains the network as the command line says and writes one record.
#include <sys/prctl.h>

#include <csignal>
#include <exception>
#include <iostream>
#include <memory>
#include <new>

#include "blas.h"
#include "communicator.h"
#include "data.h"
#include "files.h"
#include "options.h"
#include "parameters.h"
#include "placement.h"
#include "problem.h"
#include "record.h"
#include "training.h"

namespace {

constexpr int kWrongUse = 2;

// A record that has no place in its file is printed: it must not be lost.
void write_record(const std::string& path, const std::string& record) {
    if (!path.empty() && nnpar::append_line(path, record)) {
        return;
    }
    std::cout << record << '\n' << std::flush;
    if (!path.empty()) {
        throw nnpar::Problem("the record could not be written to " + path +
                             " and is printed instead; make room there");
    }
}

void write_results(const nnpar::Options& options, nnpar::Training& training,
                   const std::string& record) {
    write_record(options.out, record);
    if (!options.save_weights.empty()) {
        nnpar::write_values(options.save_weights, training.update().weights(),
                            training.update().num_parameters() * sizeof(float));
    }
    if (!options.save_losses.empty()) {
        nnpar::write_values(options.save_losses, training.losses().data(),
                            training.num_steps() * sizeof(double));
    }
}

std::string describe(const std::exception& error) {
    const bool is_memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr ||
                           dynamic_cast<const std::length_error*>(&error) != nullptr;
    return is_memory ? "there is not enough memory for this network and batch; take smaller ones"
                     : error.what();
}

// A problem that one rank alone may have is agreed on by all: the others would wait for that rank
// for ever. Only the first one is printed, and by the first rank.
template <typename Action>
bool all_succeed(nnpar::Communicator& communicator, Action action) {
    std::string problem;
    try {
        action();
    } catch (const std::exception& error) {
        problem = describe(error);
    }
    problem = communicator.first_message(problem);
    if (!problem.empty() && communicator.rank() == 0) {
        std::cerr << "nnpar: " << problem << '\n';
    }
    return problem.empty();
}

struct CommandLine {
    nnpar::Options options;
    std::string problem;
};

CommandLine parse(const std::vector<std::string>& words) {
    CommandLine command_line;
    try {
        command_line.options = nnpar::parse_options(words);
    } catch (const nnpar::Problem& error) {
        command_line.problem = error.what();
    }
    return command_line;
}

int run(const CommandLine& command_line, nnpar::Communicator& communicator) {
    const nnpar::Options& options = command_line.options;
    nnpar::Inputs inputs;
    const bool is_possible = all_succeed(communicator, [&] {
        if (!command_line.problem.empty()) {
            throw nnpar::Problem(command_line.problem);
        }
        if (communicator.rank() == 0) {
            nnpar::check_outputs(options);
        }
        inputs.data =
            nnpar::load_checked_data(options, communicator.size(), communicator.node_size());
    });
    if (!is_possible || !all_succeed(communicator, [&] { nnpar::load_start(options, inputs); })) {
        return kWrongUse;
    }
    const nnpar::Placement placement = nnpar::place(options, communicator);
    nnpar::Training training(options, inputs, communicator);
    training.run();
    const std::string record = nnpar::make_record(options, placement, training, communicator);
    const bool is_written = all_succeed(communicator, [&] {
        if (communicator.rank() == 0) {
            write_results(options, training, record);
        }
    });
    return is_written ? 0 : EXIT_FAILURE;
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
    const CommandLine command_line = parse(arguments);
    if (nnpar::is_launched()) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);  // a rank whose launcher is gone would wait for ever
    }
    try {
        nnpar::Communicator communicator(command_line.options.stall_seconds);
        try {
            return run(command_line, communicator);
        } catch (const std::exception& error) {
            // on a line of its own, whatever MPI has printed before
            std::cerr << "\nnnpar: rank " << communicator.rank() << ": " << describe(error) << '\n';
            communicator.abort();
        }
    } catch (const std::exception& error) {
        std::cerr << "nnpar: " << error.what() << '\n';
    }
    return EXIT_FAILURE;
}
