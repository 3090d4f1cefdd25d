#include "files.h"

#include <array>
#include <filesystem>
#include <fstream>
#include <vector>

#include "problem.h"

namespace nnpar {
namespace {

namespace fs = std::filesystem;

void check_output(const std::string& path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (fs::exists(status) && !fs::is_regular_file(status)) {
        throw Problem(path + " is no regular file; name a file in a folder that you may write to");
    }
    if (!std::ofstream(path, std::ios::app)) {
        throw Problem(path + " cannot be written; name a file in a folder that you may write to");
    }
}

void check_records(const std::string& path) {
    std::array<char, 1> first{};
    std::ifstream file(path, std::ios::binary);
    if (file.read(first.data(), 1) && first[0] != '{') {
        throw Problem(path + " holds something else than records; name another file with --out");
    }
}

}  // namespace

void check_input(const std::string& path, const std::string& remedy) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (fs::exists(status) && !fs::is_regular_file(status)) {
        throw Problem(path + " is no regular file; " + remedy);
    }
}

void check_outputs(const Options& options) {
    std::vector<std::string> outputs;
    for (const std::string& path : {options.out, options.save_weights, options.save_losses}) {
        if (!path.empty()) {
            check_output(path);
            outputs.push_back(path);
        }
    }
    for (const std::string& input : {options.weights, options.order}) {
        if (!input.empty()) {
            outputs.push_back(input);
        }
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) {
        for (std::size_t j = i + 1; j < outputs.size(); ++j) {
            std::error_code error;
            if (fs::equivalent(outputs[i], outputs[j], error)) {
                throw Problem(outputs[i] + " is named for two purposes; name a file for each");
            }
        }
    }
    if (!options.out.empty()) {
        check_records(options.out);
    }
}

void write_values(const std::string& path, const void* values, std::size_t num_bytes) {
    std::ofstream file(path, std::ios::binary);
    file.write(static_cast<const char*>(values), static_cast<std::streamsize>(num_bytes));
    if (!file.flush()) {
        throw Problem(path + " cannot be written; name a file in a folder that you may write to");
    }
}

bool append_line(const std::string& path, const std::string& line) {
    std::ofstream file(path, std::ios::app);
    file << line << '\n';
    return static_cast<bool>(file.flush());
}

}  // namespace nnpar
