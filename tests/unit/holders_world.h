// A volume in memory that can be killed, and a world of invented processes that can die on command:
// what tests of leases, pins and lost grants play in.
#pragma once
#include <doctest/doctest.h>
#include <linux/falloc.h>

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "mkfs/make.h"
#include "unit/files.h"

namespace pmfs::test {

inline constexpr std::uint64_t kSecond = 1'000'000'000;

class World : public GrantWatcher {
public:
    explicit World(std::uint64_t size = 16 << 20, std::size_t grants_max = 8192)
        : grants_max_(grants_max) {
        auto region = std::move(pm::memory_region(size)).take();
        REQUIRE(mkfs::make(*region, {}).ok());
        open(std::move(region));
    }
    Volume *operator->() { return volume_.get(); }

    // The server dies; what was stored stays.
    void crash() {
        const std::vector<std::byte> bytes(volume_->region().meta(),
                                           volume_->region().meta() + volume_->region().size());
        volume_.reset();
        auto region = std::move(pm::memory_region(bytes.size())).take();
        region->fence(region->write(0, bytes));
        open(std::move(region));
    }
    void check() { check_clean(*region_); }
    void later(std::uint64_t seconds) { volume_->tend(monotonic_ns() + seconds * kSecond); }

    static Caller user(std::uint32_t pid, std::uint32_t uid = 1000) {
        Caller caller;
        caller.uid = caller.gid = uid;
        caller.pid = pid;
        return caller;
    }
    struct File {
        InodeNo ino;
        HandleId handle;
    };
    File make(const std::string &name, std::uint64_t blocks, std::uint32_t pid = 10) {
        const auto made = volume_->make(kRoot, name, S_IFREG | 0666, 0, user(pid));
        REQUIRE(made.ok());
        const std::string text(blocks * kBlock, 'x');
        REQUIRE(
            volume_->write(made.value().ino, 0, std::as_bytes(std::span(text)), false, user(pid))
                .ok());
        REQUIRE(volume_->prepare(made.value().ino, 0, 0, 0, user(pid)).ok());
        return open(made.value().ino, pid);
    }
    File open(InodeNo ino, std::uint32_t pid = 10, bool write = true) {
        OpenRequest request;
        request.write = write;
        request.direct = true;
        request.caller = user(pid);
        const auto opened = volume_->open_file(ino, request);
        REQUIRE(opened.ok());
        return {ino, opened.value().handle};
    }
    Result<GrantId> take(const File &file, GrantKind kind, std::uint32_t pid, bool maps = false,
                         std::uint64_t offset = 0, std::uint64_t length = 0,
                         std::uint32_t uid = 1000, bool bound = false) {
        std::uint64_t bad = 0;
        GrantRequest request;
        request.bound = bound;
        request.kind = kind;
        request.offset = offset;
        request.length = length;
        request.maps = request.may_store = maps;
        return volume_->take_grant(file.handle, request, user(pid, uid), &bad);
    }
    Result<> truncate(const File &file, std::uint64_t size, std::uint32_t pid,
                      bool nonblocking = false) {
        SetAttr set;
        set.size = size;
        Caller caller = user(pid);
        caller.nonblocking = nonblocking;
        auto done = volume_->setattr(file.ino, set, caller);
        if (!done.ok()) return done.error();
        return {};
    }
    std::set<BlockNo> blocks_of(InodeNo ino) {
        std::set<BlockNo> blocks;
        Extent page[64];
        for (FileBlock from;;) {
            const std::size_t n = volume_->extents(ino, from, page).take();
            for (std::size_t i = 0; i < n; ++i)
                for (std::uint64_t b = 0; b < page[i].blocks; ++b) blocks.insert(page[i].start + b);
            if (n < 64) return blocks;
            from = page[n - 1].end();
        }
    }
    // Writes files until the volume is full, and gives all their blocks.
    std::set<BlockNo> fill(const std::string &prefix) {
        std::set<BlockNo> all;
        const std::string text(kBlock, 'f');
        for (int i = 0;; ++i) {
            const auto made =
                volume_->make(kRoot, prefix + std::to_string(i), S_IFREG | 0666, 0, user(10));
            if (!made.ok()) return all;
            std::uint64_t at = 0;
            while (
                volume_
                    ->write(made.value().ino, at, std::as_bytes(std::span(text)), false, user(10))
                    .ok() &&
                at < 64 * kBlock)
                at += kBlock;
            all.merge(blocks_of(made.value().ino));
            if (at == 0) return all;
        }
    }

    std::set<std::uint32_t> dead;       // process ids
    std::function<void()> while_asked;  // once, behind an answer whether a process lives
    std::function<void()> while_named;  // once, before it is said which process a thread is of
    std::uint64_t lockable = ~std::uint64_t{0};
    unsigned lives_asked = 0;  // whether a process lives
    std::vector<GrantId> asked, revoked;

private:
    void lease_breaking(HandleId, GrantId grant, std::uint32_t) override { asked.push_back(grant); }
    void grant_revoked(HandleId, GrantId grant) override { revoked.push_back(grant); }

    void open(std::unique_ptr<pm::Region> region) {
        MountOptions options;
        options.no_background = true;
        options.lease_break_ms = 10'000;
        options.grants_max = grants_max_;
        options.processes.of_thread = [this](std::uint32_t thread) {
            if (const auto also = std::exchange(while_named, nullptr)) also();
            return thread == 0 ? Process{} : Process{thread / 10 * 10, 7};
        };
        options.processes.life = [this](const Process &process) {
            ++lives_asked;
            const Life answer = process.pid == 0             ? Life::unknown
                                : dead.contains(process.pid) ? Life::ended
                                                             : Life::alive;
            if (const auto also = std::exchange(while_asked, nullptr)) also();
            return answer;
        };
        options.processes.lockable_bytes = [this](std::uint32_t) { return lockable; };
        region_ = region.get();
        auto opened = Volume::open(std::move(region), options);
        REQUIRE(opened.ok());
        volume_ = std::move(opened).take();
        volume_->set_watcher(this);
    }
    const std::size_t grants_max_;
    pm::Region *region_ = nullptr;
    std::unique_ptr<Volume> volume_;
};

inline bool disjoint(const std::set<BlockNo> &a, const std::set<BlockNo> &b) {
    for (const BlockNo block : a)
        if (b.contains(block)) return false;
    return true;
}

}  // namespace pmfs::test
