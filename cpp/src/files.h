// Files that the command line names: looked at before anything is read or trained.
#pragma once

#include <string>

#include "options.h"

namespace nnpar {

// A Problem where the path names no regular file: a pipe would block, a folder cannot be read.
// `remedy` ends the message.
void check_input(const std::string& path, const std::string& remedy);

// A Problem where an output file of the options cannot be written, is no regular file, is named
// twice, or (--out) holds something else than records. Files that are not there yet are created.
void check_outputs(const Options& options);

// Writes values as they lie in memory; a Problem where that fails.
void write_values(const std::string& path, const void* values, std::size_t num_bytes);

// Appends a line to a file; false where there is no room.
bool append_line(const std::string& path, const std::string& line);

}  // namespace nnpar
