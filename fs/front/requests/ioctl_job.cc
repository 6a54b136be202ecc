// Running ioctls: see ioctl_job.h.
#include "front/requests/ioctl_job.h"

#include <algorithm>

namespace pmfs::front {
namespace {

using enum Command::Way;

void run(const Command &command, const std::shared_ptr<Job> &job);

// A lengthy job remains lengthy after it has waited.
void go_on(const Command &command, const std::shared_ptr<Job> &job) {
    if (job->context.client.gone()) {
        job->progress.drop();
        return job->done({.error = EINTR, .out = {}});
    }
    if (command.way != flushed_lengthy) return run(command, job);
    job->context.volume.run_later(job->caller.uid, job->ino.value(), true,
                                  [&command, job] { run(command, job); });
}

void run(const Command &command, const std::shared_ptr<Job> &job) {
    const pm::FaultScope faults;
    std::vector<std::byte> bytes = job->in;
    auto used = command.run(*job, bytes);
    if (pm::take_fault()) used = Error(EIO, "the medium has a bad page here");
    if (!used.ok() && used.error().errno_value() == kClaimErrno && !job->sits())
        used = Error(EAGAIN, "too many requests are waiting");
    if (!used.ok() && must_park(used.error())) {
        job->context.volume.when_ready(
            used.error(), [&command, job] { go_on(command, job); }, job->caller.uid);
        return;
    }
    IoctlReply reply;
    reply.error = used.ok() ? 0 : used.error().errno_value();
    if (used.ok()) bytes.resize(std::min(used.value(), bytes.size()));
    bytes.resize(std::min(bytes.size(), job->out_size));
    reply.out = std::move(bytes);
    if (!command.changes) return job->done(std::move(reply));
    // Also after an error: a part may have been changed.
    job->context.clients.forget_attributes(job->context.client, job->ino,
                                           [job, reply = std::move(reply)] { job->done(reply); });
}

int forbidden(const Command &command, const Policy &policy) {
    if (command.needs == Command::Needs::host && !policy.is_host) return EPERM;
    if (command.needs != Command::Needs::nothing && policy.read_only) return EROFS;
    return command.needs == Command::Needs::freeze && !policy.may_seal ? EPERM : 0;
}

}  // namespace

// `command` lives for ever: it is in a table.
void start(const Command &command, IoctlContext &context, const IoctlRequest &request,
           IoctlDone done) {
    if (const int error = forbidden(command, context.client.policy()))
        return done({.error = error, .out = {}});
    auto job = std::make_shared<Job>(Job{.context = context,
                                         .ino = request.ino,
                                         .handle = request.handle,
                                         .caller = request.caller,
                                         .in = {request.in.begin(), request.in.end()},
                                         .out_size = request.out_size,
                                         .done = std::move(done),
                                         .take_seat = request.take_seat});
    // A waiting ioctl could not be interrupted: libpmfs repeats it until the leases are gone.
    job->caller.nonblocking = true;
    job->caller.progress = &job->progress;
    if (command.way == at_once) return run(command, job);
    if (!job->sits()) return job->done({.error = EAGAIN, .out = {}});
    if (command.way == elsewhere)
        return job->context.volume.run_later(job->caller.uid, 0, false,
                                             [&command, job] { run(command, job); });
    // What follows the flush runs elsewhere, so that this thread is free for the next flush.
    const Notifier::Pages all{.ino = request.ino, .thread = request.caller.pid};
    context.clients.flush(context.client, all, request.caller.uid, [&command, job] {
        job->context.volume.run_later(job->caller.uid, job->ino.value(),
                                      command.way == flushed_lengthy,
                                      [&command, job] { run(command, job); });
    });
}

}  // namespace pmfs::front
