// Inputs of the requests fuzzer: where it begins, and how one becomes another.
#include <linux/falloc.h>
#include <linux/fuse.h>

#include <algorithm>
#include <cstring>

#include "client/pmfs_ioctl.h"
#include "front/requests/statx.h"
#include "fuzz/steps.h"

namespace pmfs::test {
namespace {

constexpr std::uint8_t kOpcodes[] = {
    FUSE_LOOKUP, FUSE_FORGET, FUSE_GETATTR, FUSE_SETATTR, FUSE_READLINK, FUSE_SYMLINK, FUSE_MKNOD,
    FUSE_MKDIR, FUSE_UNLINK, FUSE_RMDIR, FUSE_RENAME, FUSE_LINK, FUSE_OPEN, FUSE_READ, FUSE_WRITE,
    FUSE_STATFS, FUSE_RELEASE, FUSE_FSYNC, FUSE_SETXATTR, FUSE_GETXATTR, FUSE_LISTXATTR,
    FUSE_REMOVEXATTR, FUSE_FLUSH, FUSE_INIT, FUSE_OPENDIR, FUSE_READDIR, FUSE_RELEASEDIR,
    FUSE_FSYNCDIR, FUSE_GETLK, FUSE_SETLK, FUSE_SETLKW, FUSE_CREATE, FUSE_INTERRUPT, FUSE_DESTROY,
    FUSE_IOCTL, FUSE_BATCH_FORGET, FUSE_FALLOCATE, FUSE_READDIRPLUS, FUSE_RENAME2, FUSE_LSEEK,
    FUSE_SYNCFS, FUSE_TMPFILE, FUSE_SETUPMAPPING, FUSE_REMOVEMAPPING, front::kFuseStatx,
    FUSE_ACCESS, FUSE_COPY_FILE_RANGE, kMonitorMode, kResetDevice, kReconnect, kStopQueues, kPause,
    kWaitAll,
    // These again: most of the rest depends on them.
    FUSE_CREATE, FUSE_WRITE, FUSE_IOCTL, FUSE_IOCTL, FUSE_FALLOCATE, FUSE_SETUPMAPPING, FUSE_LOOKUP,
    FUSE_OPEN, FUSE_RENAME2, FUSE_SETATTR};

std::uint8_t byte(std::mt19937 &random) {
    return static_cast<std::uint8_t>(random());
}

Step any_step(std::mt19937 &random) {
    Step step{};
    step.what = kOpcodes[random() % std::size(kOpcodes)];
    step.who = byte(random) & (random() % 4 == 0 ? 0x8f : 0x03);
    step.node = byte(random) & (random() % 8 == 0 ? 0xff : 0x1f);
    step.handle = byte(random) & (random() % 8 == 0 ? 0xff : 0x1f);
    step.name = byte(random) & (random() % 8 == 0 ? 0xff : 0x0f);
    step.other = byte(random) & 0x1f;
    for (std::uint8_t *field : {&step.offset, &step.size, &step.a, &step.b, &step.c, &step.d})
        *field = byte(random) & (random() % 2 == 0 ? 0xff : random() % 2 == 0 ? 0x0f : 0x00);
    if (step.what == FUSE_SETUPMAPPING || step.what == FUSE_REMOVEMAPPING || step.what >= kControls)
        step.who = random() % 8 == 0 ? 2 : 1;  // the guest that has a window
    step.twist_where = byte(random) & 0x3f;
    if (random() % 8 == 0) step.twist = byte(random) % kTwists;
    step.value = byte(random);
    step.more = byte(random);
    return step;
}

void change(Step *step, std::mt19937 &random) {
    auto *const bytes = reinterpret_cast<std::uint8_t *>(step);
    std::uint8_t &field = bytes[random() % sizeof *step];
    switch (random() % 4) {
        case 0:
            field = byte(random);
            break;
        case 1:
            field = static_cast<std::uint8_t>(field + (random() % 2 == 0 ? 1 : -1));
            break;
        case 2:
            field ^= static_cast<std::uint8_t>(1 << random() % 8);
            break;
        default:
            step->what = kOpcodes[random() % std::size(kOpcodes)];
            break;
    }
}

Step of(std::uint8_t what, Step step = {}) {
    step.what = what;
    return step;
}

constexpr std::uint8_t kDaxAlways = 64, kImage = 128;  // requests.cc
constexpr std::uint8_t kFourKi = 5, kTwoMi = 14;       // places in number()'s table
// ioctls, by their place in ioctl_of()
constexpr std::uint8_t kInfo = 0, kHolders = 2, kSeal = 3, kUnseal = 5, kPrepare = 6, kGrant = 7,
                       kReleaseGrant = 9, kRevoke = 10, kCompact = 18, kSetFlags = 20;

std::vector<Step> files(std::uint8_t who) {
    return {of(FUSE_CREATE, {.who = who, .name = 4}),
            of(FUSE_WRITE, {.who = who, .size = kFourKi, .value = 'x'}),
            of(FUSE_WRITE, {.who = who, .offset = 70, .size = 70, .value = 'y'}),
            of(FUSE_READ, {.who = who, .size = 8}),
            of(FUSE_FALLOCATE, {.who = who, .size = 9}),
            of(FUSE_FALLOCATE, {.who = who,
                                .offset = kFourKi,
                                .size = kFourKi,
                                .a = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE}),
            of(FUSE_LSEEK, {.who = who, .a = 4}),
            of(FUSE_SETATTR, {.who = who, .size = 2, .a = FATTR_SIZE}),
            of(FUSE_LINK, {.who = who, .name = 5, .other = 1}),
            of(FUSE_RENAME, {.who = who, .name = 5, .d = 2}),
            of(FUSE_UNLINK, {.who = who, .name = 4}),
            of(FUSE_FSYNC, {.who = who}),
            of(FUSE_RELEASE, {.who = who}),
            of(FUSE_FORGET, {.who = who, .node = 1, .size = 1})};
}

std::vector<Step> names(std::uint8_t who) {
    return {of(FUSE_MKDIR, {.who = who, .name = 1, .a = 0xff}),
            of(FUSE_MKDIR, {.who = who, .name = 2, .a = 0xff}),
            of(FUSE_MKNOD, {.who = who, .node = 1, .name = 3}),
            of(FUSE_SYMLINK, {.who = who, .node = 1, .name = 4, .size = 70}),
            of(FUSE_RENAME2, {.who = who, .name = 1, .other = 2, .d = 5}),
            of(FUSE_RENAME2, {.who = who, .name = 2, .a = 2, .d = 1}),
            of(FUSE_RENAME2, {.who = who, .node = 1, .name = 3, .other = 2, .a = 4, .d = 3}),
            of(FUSE_READDIRPLUS, {.who = who, .size = kFourKi}),
            of(FUSE_READDIR, {.who = who, .node = 1, .size = kFourKi}),
            of(FUSE_TMPFILE, {.who = who, .name = 0}),
            of(FUSE_LINK, {.who = who, .name = 0, .other = 5}),
            of(FUSE_RMDIR, {.who = who, .name = 2}),
            of(FUSE_LOOKUP, {.who = who, .node = 1, .name = 252}),
            of(FUSE_BATCH_FORGET, {.who = who, .node = 1, .size = 1, .a = 4})};
}

std::vector<Step> seals(std::uint8_t who) {
    const auto ioctl = [who](std::uint8_t which, Step step = {}) {
        step.who = who;
        step.value = which;
        return of(FUSE_IOCTL, step);
    };
    return {of(FUSE_CREATE, {.who = who, .name = 4, .b = 4}),
            of(FUSE_WRITE, {.who = who, .size = 8, .value = 'x'}),
            ioctl(kPrepare),
            ioctl(kSeal, {.a = 2}),
            of(FUSE_WRITE, {.who = who, .offset = 8, .size = 8}),
            ioctl(kGrant, {.a = PMFS_GRANT_BREAKABLE}),
            ioctl(kHolders),
            ioctl(kInfo),
            ioctl(kUnseal),
            of(kPause),
            ioctl(kUnseal),
            ioctl(kGrant, {.size = kFourKi, .a = PMFS_GRANT_PIN}),
            of(FUSE_SETATTR, {.who = who, .a = FATTR_SIZE}),
            ioctl(kReleaseGrant, {.more = 1}),
            ioctl(kGrant, {.a = PMFS_GRANT_TEMPORARY, .b = PMFS_GRANT_STORE}),
            ioctl(kRevoke),
            ioctl(kCompact),
            ioctl(kSetFlags, {.a = 8}),
            of(FUSE_SETXATTR, {.who = who, .node = 1, .name = 7, .value = 1})};
}

std::vector<Step> window(std::uint8_t who) {
    return {of(FUSE_LOOKUP, {.who = who, .name = 0}),
            of(FUSE_OPEN, {.who = who, .node = 1, .a = 2}),
            of(FUSE_SETUPMAPPING, {.who = who, .node = 1, .a = 1}),
            of(FUSE_SETUPMAPPING, {.who = who, .node = 1, .a = 3, .b = 1}),
            of(FUSE_WRITE, {.who = who, .offset = 70, .size = kFourKi, .twist = kWindowSource}),
            of(FUSE_READ, {.who = who, .size = kFourKi, .twist = kWindowTarget}),
            of(FUSE_SETATTR, {.who = who, .size = kTwoMi, .a = FATTR_SIZE}),
            of(FUSE_SETATTR, {.who = who, .a = FATTR_SIZE}),
            of(FUSE_REMOVEMAPPING, {.who = who, .a = 1, .b = 1}),
            of(kMonitorMode, {.who = who, .a = kLies}),
            of(FUSE_REMOVEMAPPING, {.who = who, .a = 1}),
            of(FUSE_UNLINK, {.who = who, .name = 0}),
            of(kResetDevice, {.who = who}),
            of(kReconnect, {.who = who})};
}

std::vector<Step> locks() {
    constexpr std::uint8_t kRead = 0, kWrite = 1;
    return {of(FUSE_LOOKUP, {.who = 1, .name = 0}),
            of(FUSE_OPEN, {.who = 1, .node = 1, .a = 2}),
            of(FUSE_LOOKUP, {.name = 0}),
            of(FUSE_OPEN, {.node = 1, .a = 2}),
            of(FUSE_SETLK, {.who = 1, .size = 8, .a = kWrite, .c = 1}),
            of(FUSE_SETLKW, {.size = 8, .a = kWrite, .c = 1, .more = 1}),
            of(FUSE_SETLKW, {.who = 1, .size = 8, .a = kRead, .c = 0}),
            of(FUSE_GETLK, {.size = 9, .a = kWrite, .c = 1}),
            of(FUSE_INTERRUPT, {.a = 0}),
            of(FUSE_FLUSH, {.who = 1}),
            of(FUSE_RELEASE, {.who = 1, .a = 2})};
}

std::vector<Step> attributes(std::uint8_t who) {
    return {of(FUSE_CREATE, {.who = who, .name = 4}),
            of(FUSE_SETXATTR, {.who = who, .node = 1, .value = 5}),
            of(FUSE_SETXATTR, {.who = who, .node = 1, .name = 5, .value = 3, .more = 3}),
            of(FUSE_SETXATTR, {.who = who, .name = 6, .value = 3, .more = 1}),
            of(FUSE_MKDIR, {.who = who, .name = 2, .a = 0xff}),
            of(FUSE_GETXATTR, {.who = who, .node = 1, .name = 5, .size = 255}),
            of(FUSE_LISTXATTR, {.who = who, .node = 1, .size = 255}),
            of(FUSE_REMOVEXATTR, {.who = who, .node = 1}),
            of(FUSE_SETATTR, {.who = who, .a = 7, .c = 0xff, .d = 0x0f, .value = 2}),
            of(front::kFuseStatx, {.who = who}),
            of(FUSE_SYNCFS, {.who = who}),
            of(FUSE_STATFS, {.who = who}),
            of(FUSE_DESTROY, {.who = who}),
            of(FUSE_INIT, {.who = who})};
}

}  // namespace

std::vector<Step> steps_of(ConstBytes input) {
    std::vector<Step> steps;
    for (std::size_t at = 1; at + sizeof(Step) <= input.size() && steps.size() < kStepsMax;
         at += sizeof(Step))
        steps.push_back(load<Step>(input, at));
    return steps;
}

std::string input_of(std::uint8_t options, const std::vector<Step> &steps) {
    std::string input(1, static_cast<char>(options));
    input.append(reinterpret_cast<const char *>(steps.data()), steps.size() * sizeof(Step));
    return input;
}

void mutate_steps(std::string *input, std::mt19937 &random) {
    auto options = input->empty() ? std::uint8_t{0} : static_cast<std::uint8_t>(input->front());
    auto steps = steps_of(std::as_bytes(std::span(*input)));
    for (unsigned count = 1 + random() % 4; count > 0; --count) {
        const std::size_t at = steps.empty() ? 0 : random() % steps.size();
        const auto there = steps.begin() + static_cast<std::ptrdiff_t>(at);
        switch (steps.empty() ? 0 : random() % 8) {
            case 0:
            case 1:
                steps.insert(there, any_step(random));
                break;
            case 2:
                steps.erase(there);
                break;
            case 3:
                steps.insert(there, steps[random() % steps.size()]);
                break;
            case 4:
                std::swap(steps[at], steps[random() % steps.size()]);
                break;
            case 5:
                options ^= static_cast<std::uint8_t>(1 << random() % 8);
                break;
            default:
                change(&steps[at], random);
                break;
        }
    }
    if (steps.size() > kStepsMax) steps.resize(kStepsMax);
    *input = input_of(options, steps);
}

std::vector<std::string> request_seeds() {
    std::vector<std::string> seeds = {input_of(0, locks()), input_of(1, locks())};
    for (const std::uint8_t who : {0, 1, 2})
        for (const auto &steps : {files(who), names(who), seals(who), window(who), attributes(who)})
            for (const std::uint8_t medium : {std::uint8_t{0}, kImage})
                seeds.push_back(input_of(who | medium, steps));
    seeds.push_back(input_of(kDaxAlways, window(1)));
    return seeds;
}

}  // namespace pmfs::test
