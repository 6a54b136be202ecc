// The whole table of docs/seal.md: every operation, in every state that a file can be in, by its
// holder and by others, with the seal made by each interface.
//
// The table stands here a second time, as the contract prints it, and knows nothing of the
// engine's.
//
// Holds docs/seal.md "The promise", "Two levels", "What a sealed file allows", "Holding a file
// without sealing it" and docs/grants.md "By what it costs others".
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include "fixture.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

// [0, 4): pinned, leased, granted.  [8, 12): a hole.  16 blocks in all.
constexpr std::uint64_t kHeld = 4, kHoleFrom = 8, kHoleTo = 12, kBlocks = 16;
constexpr As kHolder{1000, 1000, 100};
constexpr As kOther{1000, 1000, 200};
constexpr int kBreak = -1;  // the leases are asked for, lost, and then it goes
constexpr unsigned kBreakMs = 15;

struct State {
    bool p = false, t = false, b = false, r = false;
    std::string name() const {
        std::string text;
        for (const auto &[in, letter] : {std::pair{p, 'P'}, {t, 'T'}, {b, 'B'}, {r, 'R'}})
            if (in) text += letter;
        return text.empty() ? "U" : text;
    }
};

struct Asked {  // by whom, and through which open file
    Wire &wire;
    OpenFile file;
    As as;
    std::string name;
    int open_flags = 0;
};

enum class Kind { map, other };
struct Attempt {
    const char *name;
    Kind kind;
    int u, p, t, b, r;
    bool keeps_map;  // also where it succeeds
    std::function<int(const Asked &)> run;
};

int grant(const Asked &a, std::uint32_t kind, std::uint64_t *id = nullptr) {
    pmfs_io_grant io{};
    io.version = PMFS_ABI_VERSION;
    io.kind = kind;
    io.length = kHeld * kBlock;
    const int error = a.wire.ioctl(a.file, PMFS_IOC_GRANT, &io, a.as);
    if (id != nullptr) *id = io.grant;
    return error;
}

int truncate_to(const Asked &a, std::uint64_t size) {
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE | FATTR_FH;
    in.size = size;
    in.fh = a.file.handle;
    return a.wire.setattr(a.file.node, in, a.as);
}

auto falloc(unsigned mode, std::uint64_t block, std::uint64_t blocks = 1) {
    return [=](const Asked &a) {
        return a.wire.fallocate(a.file, mode, block * kBlock, blocks * kBlock, a.as);
    };
}

std::vector<Attempt> operations() {
    constexpr int x = ETXTBSY, i = EINVAL, n = EOPNOTSUPP;
    constexpr unsigned punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    const auto write_at = [](std::uint64_t at) {
        return [at](const Asked &a) { return a.wire.write(a.file, at, "xyz", a.as); };
    };
    const auto size = [](std::uint64_t to) {
        return [to](const Asked &a) { return truncate_to(a, to); };
    };
    std::vector<Attempt> all = {
        // operation                       U  P  T  B       R  keeps the map
        {"read", Kind::other, 0, 0, 0, 0, 0, true,
         [](const Asked &a) { return a.wire.read(a.file, 0, 100).error; }},
        {"write in place", Kind::other, 0, 0, 0, 0, 0, true, write_at(kBlock)},
        {"append", Kind::map, 0, x, x, kBreak, 0, false, write_at(kBlocks * kBlock)},
        {"write past the end", Kind::map, 0, x, x, kBreak, 0, false, write_at(99 * kBlock)},
        {"write into a hole", Kind::map, 0, x, x, kBreak, 0, false, write_at(9 * kBlock)},
        {"truncate, away from the pin", Kind::map, 0, x, x, kBreak, 0, false, size(13 * kBlock)},
        {"truncate, into the pin", Kind::map, 0, x, x, kBreak, x, false, size(2 * kBlock)},
        {"truncate to more", Kind::map, 0, x, x, kBreak, 0, false, size(20 * kBlock)},
        {"truncate to the same size", Kind::other, 0, 0, 0, 0, 0, true, size(kBlocks * kBlock)},
        {"open with O_TRUNC", Kind::map, 0, x, x, kBreak, x, false,
         [](const Asked &a) {
             const OpenFile again =
                 a.wire.open(a.file.node, O_RDWR | O_TRUNC | O_DIRECT | a.open_flags, a.as);
             if (again.error == 0) a.wire.release(again);
             return again.error;
         }},
        {"allocate the hole", Kind::map, 0, x, x, kBreak, 0, false, falloc(0, kHoleFrom, 4)},
        {"punch, away from the pin", Kind::map, 0, x, x, kBreak, 0, false, falloc(punch, 13)},
        {"punch, the pin", Kind::map, 0, x, x, kBreak, x, false, falloc(punch, 1)},
        {"zero, away from the pin", Kind::map, 0, x, x, kBreak, 0, false,
         falloc(FALLOC_FL_ZERO_RANGE, 13)},
        {"zero, the pin", Kind::map, 0, x, x, kBreak, x, false, falloc(FALLOC_FL_ZERO_RANGE, 1)},
        {"collapse before the pin", Kind::map, n, x, x, kBreak, x, true,
         falloc(FALLOC_FL_COLLAPSE_RANGE, 0)},
        {"insert behind the pin", Kind::map, n, x, x, kBreak, n, true,
         falloc(FALLOC_FL_INSERT_RANGE, 13)},
        {"relocate", Kind::map, 0, i, i, i, i, false,
         [](const Asked &a) { return prepare_ioctl(a.wire, a.file, 2 << 20, a.as); }},
        {"chmod", Kind::other, 0, 0, 0, 0, 0, true,
         [](const Asked &a) {
             fuse_setattr_in in{};
             in.valid = FATTR_MODE;
             in.mode = S_IFREG | 0640;
             return a.wire.setattr(a.file.node, in, a.as);
         }},
        {"setxattr", Kind::other, 0, 0, 0, 0, 0, true,
         [](const Asked &a) { return a.wire.setxattr(a.file.node, "user.a", "b", a.as); }},
        {"link", Kind::other, 0, 0, 0, 0, 0, true,
         [](const Asked &a) { return a.wire.link(a.file.node, a.name + ".link"); }},
        {"rename", Kind::other, 0, 0, 0, 0, 0, true,
         [](const Asked &a) { return a.wire.rename(a.name, a.name + ".new"); }},
        {"unlink of the last link", Kind::other, 0, 0, 0, 0, 0, true,
         [](const Asked &a) { return a.wire.unlink(a.name); }},
        {"take T", Kind::other, 0, 0, 0, EBUSY, 0, true,
         [](const Asked &a) { return grant(a, PMFS_GRANT_TEMPORARY); }},
        {"take B", Kind::other, 0, 0, EBUSY, 0, 0, true,
         [](const Asked &a) { return grant(a, PMFS_GRANT_BREAKABLE); }},
        {"pin", Kind::other, 0, 0, 0, 0, 0, true,
         [](const Asked &a) { return grant(a, PMFS_GRANT_PIN); }},
    };
    for (const Interface by : kInterfaces) {
        if (!has_level(by, PMFS_SEAL_AS_IS)) continue;
        all.push_back({name_of(by), Kind::other, 0, 0, 0, EBUSY, 0, true, [by](const Asked &a) {
                           return seal_by(by, a.wire, a.file, PMFS_SEAL_AS_IS, {0, 0, a.as.pid});
                       }});
    }
    return all;
}

// What the table says to a state of several letters.
int expected(const Attempt &op, const State &s) {
    if (op.kind == Kind::other) {
        if (s.p && op.p != 0) return op.p;
        if (s.t && op.t != 0) return op.t;
        if (s.b && op.b != 0 && !(s.p && std::string(op.name).find("take") == std::string::npos))
            return op.b;  // SEAL of what is sealed is 0
        return op.u;
    }
    if (s.p) return op.p;
    if (s.t) return op.t;
    if (s.r && op.r != op.u) return op.r;
    if (s.b && op.b == kBreak) return s.r ? ETXTBSY : kBreak;  // the pin blocks the break
    return s.b ? op.b : op.u;
}

class Table {
public:
    explicit Table(Mounted &mounted) : volume_(mounted.volume()), wire_(mounted.wire()) {}

    void cell_of(const Attempt &op, const State &state, Interface interface, bool own,
                 bool nonblocking) {
        const std::string name = "f" + std::to_string(++files_);
        OpenFile holder = make(name, state, interface);
        const int flags = nonblocking ? O_NONBLOCK : 0;
        const OpenFile other = wire_.open(holder.node, O_RDWR | O_DIRECT | flags, kOther);
        const Asked asked{wire_, own ? holder : other, own ? kHolder : kOther, name, flags};
        const Snapshot before = look(wire_, holder);
        int wanted = expected(op, state);
        const bool breaks = wanted == kBreak;
        if (breaks && own) wanted = EDEADLK;
        if (breaks && !own) wanted = nonblocking ? EAGAIN : op.u;
        const int got = op.run(asked);
        const std::string what = std::string(op.name) + " in " + state.name() + " (" +
                                 name_of(interface) + "), " + (own ? "own" : "foreign") +
                                 (nonblocking ? ", O_NONBLOCK" : "");
        cell(what, got == wanted);
        CHECK_MESSAGE(got == wanted, what << ": " << got << ", not " << wanted);
        const Snapshot after = look(wire_, holder);
        const bool changed = got == 0 && !op.keeps_map;
        cell(what + ": map", changed || after.same_map(before));
        cell(what + ": bytes",
             changed || std::string(op.name) == "write in place" || after.data == before.data);
        if (breaks && !own && !nonblocking)
            cell(what + ": the lease is lost", info_of(wire_, holder).grants == 0);
        wire_.release(other);
        wire_.release(holder);
        for (const char *suffix : {"", ".new", ".link"}) (void)wire_.unlink(name + suffix);
        volume_.forget(InodeNo(holder.node), ~0ull);  // this kernel does not: its blocks are wanted
    }

private:
    OpenFile make(const std::string &name, const State &state, Interface interface) {
        const OpenFile made = wire_.create(name, kHolder);
        REQUIRE(made.error == 0);
        REQUIRE(wire_.write(made, 0, pattern(kHoleFrom * kBlock, 1), kHolder) == 0);
        REQUIRE(wire_.write(made, kHoleTo * kBlock, pattern((kBlocks - kHoleTo) * kBlock, 2),
                            kHolder) == 0);
        wire_.release(made);
        const OpenFile file = wire_.open(made.node, O_RDWR | O_DIRECT, kHolder);
        const Asked holder{wire_, file, kHolder, name};
        if (state.p) REQUIRE(seal_by(interface, wire_, file, PMFS_SEAL_AS_IS) == 0);
        if (state.t) REQUIRE(grant(holder, PMFS_GRANT_TEMPORARY) == 0);
        if (state.b) REQUIRE(grant(holder, PMFS_GRANT_BREAKABLE) == 0);
        if (state.r) REQUIRE(grant(holder, PMFS_GRANT_PIN) == 0);
        return file;
    }

    Volume &volume_;
    Wire &wire_;
    unsigned files_ = 0;
};

constexpr State kStates[] = {
    {},
    {.p = true},
    {.t = true},
    {.b = true},
    {.r = true},
    {.p = true, .t = true},
    {.p = true, .b = true},
    {.p = true, .r = true},
    {.t = true, .r = true},
    {.b = true, .r = true},
    {.p = true, .t = true, .r = true},
    {.p = true, .b = true, .r = true},
};

MountOptions options() {
    MountOptions options;
    options.lease_break_ms = kBreakMs;
    options.owner_may_seal = true;
    options.pin_quota = 1 << 30;
    options.processes.of_thread = [](std::uint32_t thread) { return Process{thread, 1}; };
    options.processes.life = [](const Process &) { return Life::alive; };
    return options;
}

}  // namespace

TEST_CASE("table: every operation in every state, own and foreign, is as the contract says") {
    Mounted mounted(Medium::memory, options());
    Table table(mounted);
    for (const Attempt &op : operations())
        for (const State &state : kStates)
            for (const Interface interface : kInterfaces) {
                if (state.p ? !has_level(interface, PMFS_SEAL_AS_IS)
                            : interface != Interface::ioctl)
                    continue;
                for (const bool own : {true, false})
                    for (const bool nonblocking : {false, true})
                        if (!nonblocking || (!own && state.b))
                            table.cell_of(op, state, interface, own, nonblocking);
            }
}

TEST_CASE("table: UNSEAL, by every interface and in every state, is as the contract says") {
    Mounted mounted(Medium::memory, options());
    Wire &wire = mounted.wire();
    unsigned files = 0;
    for (const State &state : kStates)
        for (const Interface interface : kInterfaces) {
            const OpenFile file = wire.create("u" + std::to_string(++files), kHolder);
            REQUIRE(wire.write(file, 0, pattern(8 * kBlock, 1), kHolder) == 0);
            wire.release(file);
            const OpenFile direct = wire.open(file.node, O_RDWR | O_DIRECT, kHolder);
            const Asked holder{wire, direct, kHolder, ""};
            if (state.p) REQUIRE(seal_by(interface, wire, direct, PMFS_SEAL_FULL) == 0);
            if (state.t) REQUIRE(grant(holder, PMFS_GRANT_TEMPORARY) == 0);
            if (state.b) REQUIRE(grant(holder, PMFS_GRANT_BREAKABLE) == 0);
            if (state.r) REQUIRE(grant(holder, PMFS_GRANT_PIN) == 0);
            const bool held = state.t || state.b || state.r;
            const int wanted = state.p && held ? EBUSY : 0;
            // Removing an attribute that is not there is the attribute's own error.
            const int got = unseal_by(interface, wire, direct);
            const bool absent = !state.p && got == ENODATA;
            cell(std::string("UNSEAL in ") + state.name() + " by " + name_of(interface),
                 got == wanted || absent);
            cell(std::string("UNSEAL in ") + state.name() + ": level",
                 info_of(wire, direct).seal == (state.p && held ? PMFS_SEAL_FULL : PMFS_SEAL_NONE));
            wire.release(direct);  // ends the grants
            CHECK(unseal_by(Interface::trusted_xattr, wire,
                            wire.open(file.node, O_RDWR | O_DIRECT)) <= ENODATA);
        }
}

TEST_CASE("table: a server's crash takes every grant, and leaves the seal") {
    Mounted mounted(Medium::memory, options());
    for (const State &state : kStates) {
        const std::string name = "c" + state.name();
        std::uint64_t node;
        Snapshot before;
        {
            Wire &wire = mounted.wire();
            const OpenFile file = wire.create(name, kHolder);
            REQUIRE(wire.write(file, 0, pattern(8 * kBlock, 1), kHolder) == 0);
            wire.release(file);
            const OpenFile direct = wire.open(file.node, O_RDWR | O_DIRECT, kHolder);
            const Asked holder{wire, direct, kHolder, ""};
            if (state.p) REQUIRE(seal_ioctl(wire, direct, PMFS_SEAL_FULL) == 0);
            if (state.t) REQUIRE(grant(holder, PMFS_GRANT_TEMPORARY) == 0);
            if (state.b) REQUIRE(grant(holder, PMFS_GRANT_BREAKABLE) == 0);
            if (state.r) REQUIRE(grant(holder, PMFS_GRANT_PIN) == 0);
            before = look(wire, direct);
        }
        mounted.crash();
        Wire &wire = mounted.wire();
        node = wire.lookup(name);
        const OpenFile file = wire.open(node, O_RDWR | O_DIRECT, kOther);
        cell("crash in " + state.name() + ": the map", look(wire, file) == before);
        const pmfs_info info = info_of(wire, file);
        cell("crash in " + state.name() + ": the seal",
             info.seal == (state.p ? PMFS_SEAL_FULL : PMFS_SEAL_NONE) && info.grants == 0);
        cell("crash in " + state.name() + ": truncate",
             wire.truncate(node, 1, kOther) == (state.p ? ETXTBSY : 0));
        wire.release(file);
    }
}
