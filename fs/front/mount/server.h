// The server of one mounted volume, from opening the region to closing it.
//
// Order of life: region, volume, dispatcher, mount, handshake, broker, threads.  It ends when the
// filesystem is unmounted, or by SIGTERM or SIGINT, which unmount it.
#pragma once
#include <functional>
#include <string>

#include "front/mount/options.h"

namespace pmfs::front {

// mount(8)'s exit codes.
enum class Exit { done = 0, usage = 1, system = 2, failed = 32 };

// Why a mount failed, or did not end well: one sentence, without the program's name.
struct Outcome {
    Exit exit = Exit::done;
    std::string sentence;
};

// Checks and serves.  `mounted` is called once when the filesystem can be used, with its threads
// running; a failure before that is returned, and nothing is left mounted.
Outcome serve(const ServeOptions &options, const std::function<void()> &mounted);

}  // namespace pmfs::front
