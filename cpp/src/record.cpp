#include "record.h"

#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <sstream>

#include "blas.h"

namespace nnpar {
namespace {

constexpr std::array<const char*, kNumActivities> kActivities = {
    "load", "forward", "backward", "update", "communicate", "wait", "other"};

std::string text(const std::string& value) {
    std::string quoted = "\"";
    for (const char c : value) {
        if (c == '"' || c == '\\') {
            quoted += '\\';
        }
        quoted += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
    return quoted + '"';
}

std::string number(double value) {
    if (!std::isfinite(value)) {
        return "null";
    }
    std::ostringstream out;
    out.precision(17);
    out << value;
    return out.str();
}

std::string flag(bool value) {
    return value ? "true" : "false";
}

class Object {
  public:
    Object& add(const std::string& name, const std::string& json) {
        all_.append(all_.empty() ? "{" : ", ").append(text(name)).append(": ").append(json);
        return *this;
    }
    Object& add(const std::string& name, std::size_t value) {
        return add(name, std::to_string(value));
    }
    [[nodiscard]] std::string str() const { return all_ + "}"; }

  private:
    std::string all_;
};

std::string list(const std::vector<std::string>& items) {
    std::string all = "[";
    for (const std::string& item : items) {
        all.append(all.size() > 1 ? ", " : "").append(item);
    }
    return all + "]";
}

std::string config(const Options& options, std::size_t num_ranks) {
    std::vector<std::string> hidden;
    for (const std::size_t width : options.hidden) {
        hidden.push_back(std::to_string(width));
    }
    return Object()
        .add("strategy", text(options.strategy))
        .add("model", text("mlp"))
        .add("dataset", text(options.dataset))
        .add("num_ranks", num_ranks)
        .add("num_threads", options.num_threads)
        .add("global_batch_size", options.global_batch_size)
        .add("num_epochs", options.num_epochs)
        .add("num_steps", options.num_steps == 0 ? "null" : std::to_string(options.num_steps))
        .add("optimizer", text(options.optimizer))
        .add("lr", number(options.lr))
        .add("momentum", number(options.momentum))
        .add("lr_schedule", text(options.lr_schedule))
        .add("allreduce", text(options.allreduce))
        .add("average_every", options.average_every)
        .add("hidden", list(hidden))
        .add("seed", options.seed)
        .add("binding", text(options.binding))
        .add("num_warmup_steps", options.num_warmup_steps)
        .add("evaluate_every", options.evaluate_every)
        .str();
}

std::string cpu_model() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with("model name")) {
            return line.substr(line.find(':') + 2);
        }
    }
    return "unknown";
}

std::string provenance(double sgemm_rate) {
    std::array<char, 256> host{};
    gethostname(host.data(), host.size() - 1);
    double load = 0;
    getloadavg(&load, 1);
    const std::time_t now = std::time(nullptr);
    std::tm utc{};
    gmtime_r(&now, &utc);
    std::array<char, 32> started{};
    (void)std::strftime(started.data(), started.size(), "%Y-%m-%dT%H:%M:%S+00:00", &utc);
    return Object()
        .add("host", text(host.data()))
        .add("source_sha256", text(""))
        .add("cpu", text(cpu_model()))
        .add("num_cores", num_cores())
        .add("compiler", text(__VERSION__))
        .add("blas", text(blas::description()))
        .add("mpi", text(Communicator::description()))
        .add("load_average", number(load))
        .add("sgemm_flop_per_second", sgemm_rate > 0 ? number(sgemm_rate) : "null")
        .add("started_at", text(started.data()))
        .str();
}

std::string history(const std::vector<Epoch>& epochs) {
    std::vector<std::string> items;
    for (const Epoch& epoch : epochs) {
        items.push_back(Object()
                            .add("epoch", epoch.epoch)
                            .add("step", epoch.step)
                            .add("train_seconds", number(epoch.train_seconds))
                            .add("train_loss", number(epoch.train_loss))
                            .add("test_accuracy", number(epoch.test_accuracy))
                            .str());
    }
    return list(items);
}

}  // namespace

std::string make_record(const Options& options, const Placement& placement, Training& training,
                        Communicator& communicator) {
    std::vector<double> means = training.timeline().seconds();
    communicator.sum(means);
    Object activities;
    double total = 0;
    for (std::size_t i = 0; i < kNumActivities; ++i) {
        means[i] /= static_cast<double>(communicator.size());
        total += means[i];
        activities.add(kActivities.at(i), number(means[i]));
    }
    const double communicate = means[static_cast<std::size_t>(Activity::kCommunicate)];
    const double wait = means[static_cast<std::size_t>(Activity::kWait)];
    const double seconds = communicator.max(training.timeline().total());
    const Epoch& last = training.history().back();
    return Object()
        .add("strategy", text(options.strategy))
        .add("model", text("mlp"))
        .add("dataset", text(options.dataset))
        .add("num_ranks", communicator.size())
        .add("threads_per_rank", options.num_threads)
        .add("global_batch_size", options.global_batch_size)
        .add("optimizer", text(options.optimizer))
        .add("num_steps", training.num_steps())
        .add("num_examples", training.num_examples())
        .add("train_seconds", number(seconds))
        .add("samples_per_second", number(static_cast<double>(training.num_examples()) / seconds))
        .add("compute_seconds", number(total - communicate - wait))
        .add("communicate_seconds", number(communicate))
        .add("wait_seconds", training.update().measures_wait() ? number(wait) : "null")
        .add("activity_seconds", activities.str())
        .add("final_train_loss", number(last.train_loss))
        .add("final_test_accuracy", number(last.test_accuracy))
        .add("diverged", flag(training.diverged()))
        .add("weights_sha256", text(""))
        .add("num_parameters", training.update().num_parameters())
        .add("oversubscribed", flag(placement.oversubscribed))
        .add("bound", flag(placement.bound))
        .add("config", config(options, communicator.size()))
        .add("provenance", provenance(options.measure_sgemm ? training.sgemm_rate() : 0))
        .add("history", history(training.history()))
        .add("experiment", text(""))
        .add("repeat", 0)
        .add("kind", text("run"))
        .add("schema", 1)
        .str();
}

}  // namespace nnpar
