#include "options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>

#include "problem.h"

namespace nnpar {
namespace {

struct Option {
    std::string name;
    std::string text;
    std::function<void(Options&, const std::string&)> set;
};

constexpr std::size_t kLargestNumber = 1U << 30U;  // sizes of messages and matrices are ints
constexpr std::size_t kLargestSeed = (std::size_t{1} << 63U) - 1;
constexpr std::size_t kMostThreads = 1024;  // of a rank: OpenMP crashes without a word above some

Problem bad_value(const std::string& name, const std::string& value, const std::string& remedy) {
    return Problem{"--" + name + " " + value + ": " + remedy};
}

struct Bounds {
    std::size_t minimum = 0;
    std::size_t maximum = kLargestNumber;
};

std::size_t parse_count(const std::string& name, const std::string& text, Bounds bounds) {
    std::size_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < bounds.minimum ||
        value > bounds.maximum) {
        throw bad_value(name, text,
                        "give a whole number from " + std::to_string(bounds.minimum) + " to " +
                            std::to_string(bounds.maximum));
    }
    return value;
}

Option count(const std::string& name, std::size_t Options::* field, Bounds bounds,
             const std::string& text) {
    return {.name = name, .text = text, .set = [=](Options& options, const std::string& value) {
                options.*field = parse_count(name, value, bounds);
            }};
}

Option number(const std::string& name, double Options::* field, double low, double high,
              const std::string& text) {
    return {.name = name, .text = text, .set = [=](Options& options, const std::string& value) {
                double parsed = NAN;
                const auto [end, error] =
                    std::from_chars(value.data(), value.data() + value.size(), parsed);
                if (error != std::errc() || end != value.data() + value.size() ||
                    std::isnan(parsed) || parsed < low || parsed >= high) {
                    throw bad_value(name, value, "give " + text);
                }
                options.*field = parsed;
            }};
}

Option choice(const std::string& name, std::string Options::* field,
              const std::vector<std::string>& choices) {
    std::string all;
    for (const std::string& name_of_choice : choices) {
        all += (all.empty() ? "one of " : ", ") + name_of_choice;
    }
    return {.name = name, .text = all, .set = [=](Options& options, const std::string& value) {
                if (std::ranges::find(choices, value) == choices.end()) {
                    throw bad_value(name, value, "choose " + all);
                }
                options.*field = value;
            }};
}

Option words(const std::string& name, std::string Options::* field, const std::string& text) {
    return {.name = name, .text = text, .set = [=](Options& options, const std::string& value) {
                options.*field = value;
            }};
}

void set_hidden(Options& options, const std::string& value) {
    options.hidden.clear();
    std::size_t start = 0;
    while (start <= value.size()) {
        const std::size_t comma = std::min(value.find(',', start), value.size());
        options.hidden.push_back(
            parse_count("hidden", value.substr(start, comma - start), {.minimum = 1}));
        start = comma + 1;
    }
}

std::vector<Option> training_options() {
    return {
        choice("strategy", &Options::strategy, {"cpp", "cpp_weight_averaging"}),
        words("dataset", &Options::dataset, "name of the data set in the record"),
        count("num-threads", &Options::num_threads, {.minimum = 1, .maximum = kMostThreads},
              "threads a rank"),
        count("global-batch-size", &Options::global_batch_size, {.minimum = 1},
              "examples a step, over all ranks"),
        count("num-epochs", &Options::num_epochs, {.minimum = 1}, "passes over the training set"),
        count("num-steps", &Options::num_steps, {}, "stop after this many steps; 0: no limit"),
        choice("optimizer", &Options::optimizer, {"sgd", "momentum"}),
        number("lr", &Options::lr, 1e-30, 1e30, "a positive learning rate, such as 0.1"),
        number("momentum", &Options::momentum, 0, 1, "a momentum from 0 to below 1, such as 0.9"),
        choice("lr-schedule", &Options::lr_schedule, {"constant", "linear", "cosine"}),
        choice("allreduce", &Options::allreduce, {"shared", "mpi", "overlapped"}),
        count("average-every", &Options::average_every, {},
              "cpp_weight_averaging: steps between averages; 0: an epoch"),
        {.name = "hidden",
         .text = "widths of the hidden layers, such as 256,128",
         .set = set_hidden},
        count("seed", &Options::seed, {.maximum = kLargestSeed},
              "seed of weights and order where no files are given"),
        choice("binding", &Options::binding, {"core", "none"}),
        count("num-warmup-steps", &Options::num_warmup_steps, {},
              "steps taken and undone before the clock starts"),
        number("stall-seconds", &Options::stall_seconds, 0, 1e9,
               "the seconds that a rank waits for others before it ends the run, such as 60; "
               "0: for ever"),
        count("evaluate-every", &Options::evaluate_every, {},
              "epochs between two evaluations; 0: never"),
    };
}

std::vector<Option> all_options() {
    std::vector<Option> options = training_options();
    const std::vector<Option> files = {
        words("data", &Options::data,
              "folder of train-images-idx3-ubyte and its siblings (required)"),
        words("weights", &Options::weights,
              "file of initial weights: float32, flat; default: drawn from the seed"),
        words("order", &Options::order,
              "file of examples, epoch after epoch: uint32; default: drawn from the seed"),
        words("out", &Options::out, "append the record to this file; default: print it"),
        words("save-weights", &Options::save_weights,
              "write the final weights to this file: float32, flat"),
        words("save-losses", &Options::save_losses,
              "write the mean loss of each step to this file: float64"),
        {.name = "measure-sgemm",
         .text = "yes: measure the rate of the largest product too",
         .set = [](Options& chosen, const std::string& value) {
             chosen.measure_sgemm = value == "yes";
         }}};
    options.insert(options.end(), files.begin(), files.end());
    return options;
}

}  // namespace

bool wants_help(const std::vector<std::string>& words) {
    return std::ranges::find(words, "--help") != words.end();
}

std::string help() {
    std::string text =
        "nnpar: trains a fully connected network; start it with mpiexec for several ranks\n\n";
    for (const Option& option : all_options()) {
        std::string name = "  --" + option.name + " VALUE";
        name.resize(std::max<std::size_t>(name.size() + 1, 32), ' ');
        text.append(name).append(option.text).append("\n");
    }
    return text + "\nDefaults are those of python -m nnpar_lib run.\n";
}

Options parse_options(const std::vector<std::string>& words) {
    const std::vector<Option> known = all_options();
    Options options;
    for (std::size_t i = 0; i < words.size(); i += 2) {
        const auto option = std::ranges::find_if(
            known, [&](const Option& candidate) { return "--" + candidate.name == words[i]; });
        if (option == known.end()) {
            throw Problem("unknown option " + words[i] + "; see --help");
        }
        if (i + 1 == words.size()) {
            throw Problem(words[i] + " needs a value; see --help");
        }
        option->set(options, words[i + 1]);
    }
    if (options.averages_weights() && options.allreduce == "overlapped") {
        throw Problem(
            "--allreduce overlapped: weights have no backward pass to hide behind; choose shared "
            "or mpi");
    }
    if (options.data.empty()) {
        throw Problem(
            "--data FOLDER is missing: the folder that holds train-images-idx3-ubyte and its "
            "siblings");
    }
    return options;
}

void check_sizes(const Options& options, std::size_t num_examples, std::size_t num_ranks,
                 std::size_t node_size) {
    if (options.global_batch_size > num_examples) {
        throw bad_value("global-batch-size", std::to_string(options.global_batch_size),
                        "there are " + std::to_string(num_examples) +
                            " training examples; take at most as many");
    }
    if (options.global_batch_size < num_ranks) {
        throw bad_value("global-batch-size", std::to_string(options.global_batch_size),
                        "each of " + std::to_string(num_ranks) +
                            " ranks needs an example; take a larger batch");
    }
    if (options.allreduce == "shared" && node_size != num_ranks) {
        throw bad_value("allreduce", "shared", "the ranks are on several machines; choose mpi");
    }
}

}  // namespace nnpar
