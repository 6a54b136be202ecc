// Quarantine on real media: ends that have to wait for the journal, and descriptors of the device
// of which the kernel says whether any process still maps by them.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <set>

#include "base/clock.h"
#include "fsck/check.h"
#include "fsck/print.h"
#include "mkfs/make.h"
#include "unit/files.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

constexpr std::uint32_t kHolder = 10, kOther = 20;

Caller caller(std::uint32_t pid = kOther) {
    Caller caller;
    caller.pid = pid;
    return caller;
}

// A volume in a file, with the smallest journal, and a world of invented processes.
class Volumes {
public:
    explicit Volumes(const char *directory = "/tmp", std::uint64_t size = 4 << 20)
        : path_(std::string(directory) + "/pmfs-quarantine-XXXXXX") {
        const FileDescriptor fd(::mkstemp(path_.data()));
        REQUIRE(fd.ok());
        REQUIRE(::posix_fallocate(fd.get(), 0, static_cast<off_t>(size)) == 0);
        auto region = std::move(pm::open_region(path_, {})).take();
        REQUIRE(mkfs::make(*region, {}).ok());
        region.reset();
        open();
    }
    ~Volumes() { ::unlink(path_.c_str()); }
    Volume *operator->() { return volume_.get(); }
    void crash() {
        volume_.reset();
        open();
    }

    // The volume is in another inode after a crash.
    void move() {
        REQUIRE(volume_->commit_group().ok());
        volume_.reset();
        const std::string copy = path_ + "-copy";
        REQUIRE(std::filesystem::copy_file(path_, copy));
        REQUIRE(::rename(copy.c_str(), path_.c_str()) == 0);
        open();
    }

    // Until it need not wait any more.
    template <class F>
    void patiently(F act) {
        for (;;) {
            const int error = act();
            if (error != kParkErrno) {
                REQUIRE(error == 0);
                return;
            }
            REQUIRE(volume_->commit_group().ok());
        }
    }
    struct File {
        InodeNo ino;
        HandleId handle;
    };
    InodeNo make(const std::string &name, std::uint64_t blocks) {
        InodeNo ino;
        patiently([&] {
            const auto made = volume_->make(kRoot, name, S_IFREG | 0666, 0, caller());
            if (made.ok()) ino = made.value().ino;
            return errno_of(made);
        });
        const std::string text(blocks * kBlock, 'x');
        patiently([&] {
            return errno_of(
                volume_->write(ino, 0, std::as_bytes(std::span(text)), false, caller()));
        });
        return ino;
    }
    File held(const std::string &name, std::uint64_t blocks) {
        File file{make(name, blocks), 0};
        OpenRequest request;
        request.write = request.direct = true;
        request.caller = caller(kHolder);
        file.handle = std::move(volume_->open_file(file.ino, request)).take().handle;
        return file;
    }
    GrantId take(const File &file, bool lent = false) {
        GrantRequest request;
        request.maps = request.may_store = true;
        request.lent = lent;
        GrantId id = 0;
        patiently([&] {
            std::uint64_t bad = 0;
            const auto taken = volume_->take_grant(file.handle, request, caller(kHolder), &bad);
            if (taken.ok()) id = taken.value();
            return errno_of(taken);
        });
        return id;
    }
    void truncate(InodeNo ino) {
        patiently([&] {
            SetAttr set;
            set.size = 0;
            return errno_of(volume_->setattr(ino, set, caller()));
        });
    }
    // Until the next transaction has to wait.
    void fill_journal(InodeNo ino) {
        for (std::uint32_t i = 0;; ++i) {
            SetAttr set;
            set.mode = i & 0777;
            const int error = errno_of(volume_->setattr(ino, set, caller()));
            if (error == kParkErrno) return;
            REQUIRE(error == 0);
        }
    }
    std::set<BlockNo> blocks_of(InodeNo ino) {
        std::set<BlockNo> blocks;
        Extent page[200];
        const std::size_t count = volume_->extents(ino, FileBlock(0), page).take();
        for (std::size_t i = 0; i < count; ++i)
            for (std::uint64_t b = 0; b < page[i].blocks; ++b) blocks.insert(page[i].start + b);
        return blocks;
    }
    // What new files get, of twelve that want 48 blocks.
    std::set<BlockNo> blocks_of_new_files() {
        std::set<BlockNo> all;
        for (int i = 0; i < 12; ++i) all.merge(blocks_of(make("new" + std::to_string(made_++), 4)));
        return all;
    }
    void later(unsigned times = 3) {
        for (; times != 0; --times) {
            REQUIRE(volume_->commit_group().ok());
            volume_->tend(now_ += 1'000'000'000);
        }
    }
    void check() {
        REQUIRE(volume_->commit_group().ok());
        volume_.reset();
        auto region = std::move(pm::open_region(path_, {})).take();
        const auto report = fsck::check(*region);
        REQUIRE(report.ok());
        INFO(fsck::text_of(report.value(), "volume"));
        CHECK(report.value().clean());
        region.reset();
        open();
    }

    std::set<std::uint32_t> dead;

private:
    void open() {
        auto region = std::move(pm::open_region(path_, {})).take();
        MountOptions options;
        options.no_background = true;
        options.processes.of_thread = [](std::uint32_t thread) {
            return thread == 0 ? Process{} : Process{thread, 7};
        };
        options.processes.life = [this](const Process &process) {
            return dead.contains(process.pid) ? Life::ended : Life::alive;
        };
        auto opened = Volume::open(std::move(region), options);
        REQUIRE(opened.ok());
        volume_ = std::move(opened).take();
    }
    std::string path_;
    std::unique_ptr<Volume> volume_;
    int made_ = 0;
    std::uint64_t now_ = monotonic_ns();
};

std::size_t common(const std::set<BlockNo> &a, const std::set<BlockNo> &b) {
    std::size_t count = 0;
    for (const BlockNo block : a) count += b.count(block);
    return count;
}

// A mapping as libpmfs makes it: the descriptor is closed.
struct Mapping {
    void *at = MAP_FAILED;
    explicit Mapping(const FileDescriptor &device, std::uint64_t size = kBlock)
        : at(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, device.get(), 0)) {
        REQUIRE(at != MAP_FAILED);
    }
    ~Mapping() { unmap(); }
    void unmap() {
        if (at != MAP_FAILED) ::munmap(at, kBlock);
        at = MAP_FAILED;
    }
};

}  // namespace

TEST_CASE("quarantine: root's release takes effect at once on a full journal, and frees once") {
    Volumes v;
    const auto file = v.held("f", 16);
    const InodeNo other = v.make("t", 1);
    v.take(file);
    const auto held = v.blocks_of(file.ino);
    v.crash();
    REQUIRE(v->quarantine().take().size() == 1);
    v.fill_journal(other);
    REQUIRE(v->release_quarantine(v->quarantine().take()[0].id, caller()).ok());
    CHECK(v->quarantine().take().empty());
    v.truncate(file.ino);
    v.later();
    const auto now = v.blocks_of_new_files();
    v.later();
    CHECK(common(v.blocks_of(v.make("h", 16)), now) == 0);
    CHECK(common(held, now) != 0);
    v.check();
}

TEST_CASE("quarantine: an end that has to wait changes nothing until it is done") {
    Volumes v;
    const auto file = v.held("f", 16);
    const InodeNo other = v.make("t", 1);
    const GrantId grant = v.take(file, true);
    Mapping mapping(v->lend_device(file.handle, grant).take());
    const auto held = v.blocks_of(file.ino);
    v->release(file.handle);
    v.later();  // it may have had to wait
    REQUIRE(v->quarantine().take().size() == 1);
    mapping.unmap();
    v.fill_journal(other);
    v->tend(monotonic_ns() + 10'000'000'000);  // sees that no process maps, and has to wait
    REQUIRE(v->quarantine().take().size() == 1);
    REQUIRE(v->commit_group().ok());  // there is room again, and others come first
    v.truncate(file.ino);
    REQUIRE(v->commit_group().ok());
    const auto now = v.blocks_of_new_files();
    CHECK(common(held, now) == 0);  // not free yet
    const std::uint64_t free = v->info().blocks_free;
    v.later();
    CHECK(v->quarantine().take().empty());
    CHECK(v->info().blocks_free >= free + 16);
    CHECK(common(v.blocks_of(v.make("h", 16)), now) == 0);
    v.check();
}

TEST_CASE(
    "quarantine: a handle that is closed while the journal is full keeps its grants until then") {
    Volumes v;
    const auto file = v.held("f", 16);
    const InodeNo other = v.make("t", 1);
    v.take(file);
    const auto held = v.blocks_of(file.ino);
    v.fill_journal(other);
    v->release(file.handle);
    SetAttr set;
    set.size = 0;
    REQUIRE(v->commit_group().ok());
    CHECK(errno_of(v->setattr(file.ino, set, caller())) == ETXTBSY);  // the grant stands
    v.later();
    REQUIRE(v->quarantine().take().size() == 1);
    CHECK(v->quarantine().take()[0].reason == GrantReason::handle_closed);
    v.truncate(file.ino);
    v.later();
    CHECK(common(held, v.blocks_of_new_files()) == 0);
    v.check();
}

TEST_CASE("quarantine: a lost grant whose end has to wait holds back all that it maps") {
    Volumes v;
    const auto file = v.held("f", 16);
    const InodeNo other = v.make("t", 1);
    const GrantId grant = v.take(file);
    const auto held = v.blocks_of(file.ino);
    v.fill_journal(other);
    v->lose_grant(file.handle, grant);
    v.later();
    REQUIRE(v->quarantine().take().size() == 1);
    v.truncate(file.ino);
    v.later();
    CHECK(common(held, v.blocks_of_new_files()) == 0);
    v.check();
}

namespace {

const char *const kMedia[] = {"/tmp", "/dev/shm"};

struct Way {
    const char *words;
    std::function<void(Volumes &, const Volumes::File &, GrantId, Mapping &)> go;
};

// How a grant ends while a process maps by it.
const Way kLost[] = {
    {"the connection ends", [](Volumes &v, const auto &file, GrantId grant,
                               Mapping &) { v->lose_grant(file.handle, grant); }},
    {"the handle is closed",
     [](Volumes &v, const auto &file, GrantId, Mapping &) { v->release(file.handle); }},
    {"the grant is given back",
     [](Volumes &v, const auto &file, GrantId grant, Mapping &) {
         REQUIRE(v->drop_grant(file.handle, grant).ok());
         const auto rows = v->quarantine().take();
         REQUIRE(rows.size() == 1);
         CHECK(rows[0].reason == GrantReason::still_mapped);
     }},
    {"root revokes it",
     [](Volumes &v, const auto &file, GrantId, Mapping &) {
         CHECK(v->revoke(file.ino, 0, 0, caller()).take() == 1);
         CHECK(errno_of(v->revoke(file.ino, 0, 0, caller())) == ENOENT);
     }},
    {"the server dies", [](Volumes &v, const auto &, GrantId, Mapping &) { v.crash(); }},
};

// How the last mapping ends, while the process lives on.
const Way kUnmapped[] = {
    {"the connection ends: an exec, for instance",
     [](Volumes &v, const auto &file, GrantId grant, Mapping &mapping) {
         mapping.unmap();
         v->lose_grant(file.handle, grant);
     }},
    {"the server dies first",
     [](Volumes &v, const auto &, GrantId, Mapping &mapping) {
         v.crash();
         REQUIRE(v->quarantine().take().size() == 1);
         mapping.unmap();
         v.later();
     }},
    {"it unmaps while there is no server",
     [](Volumes &v, const auto &, GrantId, Mapping &mapping) {
         mapping.unmap();
         v.crash();
     }},
};

}  // namespace

TEST_CASE(
    "lent: the blocks of a grant are not reused while any process maps by it, whatever it claims") {
    for (const char *where : kMedia) {
        for (const Way &way : kLost) {
            CAPTURE(where);
            CAPTURE(way.words);
            Volumes v(where);
            const auto file = v.held("f", 16);
            const GrantId grant = v.take(file, true);
            Mapping mapping(v->lend_device(file.handle, grant).take());
            const auto held = v.blocks_of(file.ino);
            v.dead.insert(kHolder);  // its process is gone, but another one shares its memory
            way.go(v, file, grant, mapping);
            REQUIRE(v->quarantine().take().size() == 1);
            CHECK(v->quarantine().take()[0].mapped);
            v.truncate(file.ino);
            v.later();
            CHECK(common(held, v.blocks_of_new_files()) == 0);
            v.crash();
            REQUIRE(v->quarantine().take().size() == 1);
            mapping.unmap();
            v.later();
            CHECK(v->quarantine().take().empty());
            CHECK(common(held, v.blocks_of_new_files()) != 0);
            v.check();
        }
    }
}

TEST_CASE("lent: a grant is over when no process maps by it, even if its holder lives") {
    for (const char *where : kMedia) {
        for (const Way &way : kUnmapped) {
            CAPTURE(where);
            CAPTURE(way.words);
            Volumes v(where);
            const auto file = v.held("f", 16);
            const GrantId grant = v.take(file, true);
            Mapping mapping(v->lend_device(file.handle, grant).take());
            way.go(v, file, grant, mapping);
            CHECK(v->quarantine().take().empty());
            v.check();
        }
    }
}

// docs/seal.md "Quarantine": four times a second.
TEST_CASE("lent: the end of the last mapping is noticed a quarter of a second later at most") {
    constexpr std::uint64_t kNow = 1'000'000'000, kQuarter = 250'000'000;
    for (const char *where : kMedia) {
        CAPTURE(where);
        Volumes v(where);
        const auto file = v.held("f", 16);
        const GrantId grant = v.take(file, true);
        Mapping mapping(v->lend_device(file.handle, grant).take());
        v->lose_grant(file.handle, grant);
        v->tend(kNow);
        REQUIRE(v->quarantine().take().size() == 1);
        mapping.unmap();
        v->tend(kNow + kQuarter - 1);
        CHECK(v->quarantine().take().size() == 1);  // it has not looked again
        v->tend(kNow + kQuarter);
        CHECK(v->quarantine().take().empty());
        v.check();
    }
}

TEST_CASE("lent: if the device was not handed out, nothing is held back") {
    Volumes v;
    const auto file = v.held("f", 16);
    const GrantId grant = v.take(file, true);
    SUBCASE("the token lapses") {
        v->lose_grant(file.handle, grant);
        CHECK(errno_of(v->lend_device(file.handle, grant)) == ENOENT);
    }
    SUBCASE("the server dies") {
        v.crash();
    }
    CHECK(v->quarantine().take().empty());
    v.check();
}

TEST_CASE("lent: on another inode only the process can be checked") {
    Volumes v;
    const auto file = v.held("f", 16);
    const GrantId grant = v.take(file, true);
    const auto device = v->lend_device(file.handle, grant).take();
    v.move();  // as when an image is copied
    REQUIRE(v->quarantine().take().size() == 1);
    CHECK_FALSE(v->quarantine().take()[0].mapped);
    v.later();
    CHECK(v->quarantine().take().size() == 1);  // it lives
    v.dead.insert(kHolder);
    v.crash();
    CHECK(v->quarantine().take().empty());
}

namespace {

// A child that shares our memory, until it is told.
struct Sharer {
    int tell[2];
    pid_t pid;
    alignas(16) char stack[65536];
    static int run(void *self) {
        char word;
        (void)!::read(static_cast<Sharer *>(self)->tell[0], &word, 1);
        return 0;
    }
};

}  // namespace

TEST_CASE("lent: a process that shares the memory, or was forked with the mapping, counts") {
    Volumes v;
    const auto file = v.held("f", 16);
    const GrantId grant = v.take(file, true);
    auto device = v->lend_device(file.handle, grant).take();
    int ready[2], tell[2];
    REQUIRE(::pipe(ready) == 0);
    REQUIRE(::pipe(tell) == 0);
    bool shares = false;
    SUBCASE("clone(CLONE_VM)") {
        shares = true;
    }
    SUBCASE("fork()") {}
    CAPTURE(shares);
    const pid_t holder = ::fork();
    REQUIRE(holder >= 0);
    if (holder == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        ::alarm(60);
        (void)::mmap(nullptr, kBlock, PROT_READ | PROT_WRITE, MAP_SHARED, device.get(), 0);
        ::close(device.get());
        static Sharer sharer;
        sharer.tell[0] = tell[0];
        ::close(tell[1]);
        if (shares) {
            if (::clone(Sharer::run, sharer.stack + sizeof sharer.stack, CLONE_VM, &sharer) < 0)
                ::_exit(1);
        } else if (::fork() == 0) {
            Sharer::run(&sharer);
            ::_exit(0);
        }
        (void)!::write(ready[1], "+", 1);
        ::_exit(0);
    }
    device.reset();
    char word;
    REQUIRE(::read(ready[0], &word, 1) == 1);
    ::waitpid(holder, nullptr, 0);
    v.dead.insert(kHolder);
    v->lose_grant(file.handle, grant);
    CHECK(v->quarantine().take().size() == 1);
    v.later();
    CHECK(v->quarantine().take().size() == 1);
    ::close(tell[1]);  // it ends
    for (int i = 0; i < 500 && !v->quarantine().take().empty(); ++i) {
        ::usleep(10'000);
        v.later(1);
    }
    CHECK(v->quarantine().take().empty());
    for (const int fd : {ready[0], ready[1], tell[0]}) ::close(fd);
    v.check();
}
