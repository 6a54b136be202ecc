// What all ioctls have in common: a command says how it is run, and a job is a call that is under
// way.
#pragma once
#include "front/requests/ioctl.h"

namespace pmfs::front {

// A call that is under way, in a shared_ptr, because it may wait for write-back or for a
// checkpoint.
struct Job {
    IoctlContext &context;
    InodeNo ino;
    HandleId handle;
    Caller caller;
    std::vector<std::byte> in;  // as it came, so that it can be run again
    std::size_t out_size;
    IoctlDone done;
    std::function<Seats::Seat()> take_seat = {};
    Seats::Seat seat = {};
    Progress progress = {};

    // Called before it waits; false: it must not.
    bool sits() {
        if (!seat && take_seat) seat = take_seat();
        return seat != nullptr || !take_seat;
    }
};

// A handler's result besides an error: how much of the structure to copy out.
inline constexpr std::size_t kAll = ~std::size_t{0};

struct Command {
    unsigned number;
    // flushed: runs on a thread of Volume::run_later, after the kernel's dirty pages of the file
    // are written back: for what needs that, and for what may wait for a disk (an fdatasync on an
    // image file).  elsewhere: on such a thread, beside others of the file: for what takes longer
    // the more others hold, and must not keep a thread from requests.
    enum class Way { at_once, elsewhere, flushed, flushed_lengthy } way;
    bool changes;  // times, blocks or mode of the file: the kernel is told before the answer
    // What the client's policy must allow: nothing, changes, freezing maps, or what only the host
    // may do.
    enum class Needs { nothing, change, freeze, host } needs;
    Result<std::size_t> (*run)(Job &job, std::vector<std::byte> &bytes);
};

// Runs it as the command says, where the client's policy allows that, and calls `done` once.
void start(const Command &command, IoctlContext &context, const IoctlRequest &request,
           IoctlDone done);

}  // namespace pmfs::front
