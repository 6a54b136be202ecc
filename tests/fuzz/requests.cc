// See requests.h.
#include "fuzz/requests.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/xattr.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "fsck/check.h"
#include "fuzz/monitor.h"
#include "mkfs/make.h"
#include "virtio/front_end.h"

namespace pmfs::test {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kMedium = 32 * kMiB;
constexpr std::uint64_t kWindowSize = 8 * front::DaxWindow::kRange;
constexpr unsigned kLeaseMs = 1;
constexpr auto kEndMax = 10s;

// Bits of an input's first byte.
constexpr std::uint8_t kRemoveAll = 1;     // every file is removed in the end
constexpr std::uint8_t kOwnersSeal = 2;    // mount -o seal=owner
constexpr std::uint8_t kSealedDirect = 4;  // mount -o sealed_reads=direct
constexpr std::uint8_t kWriteback = 8;     // mount -o writeback
constexpr std::uint8_t kReadOnlyGuest = 16;
constexpr std::uint8_t kHostLocks = 32;  // mount -o local_lock=none
constexpr std::uint8_t kDaxAlways = 64;  // in the first guest: mount -o dax=always
constexpr std::uint8_t kImage = 128;     // a volume in an image file, not in memory

[[noreturn]] void fail(const std::string &sentence) {
    std::fprintf(stderr, "fuzz_requests: %s\n", sentence.c_str());
    std::abort();
}

std::unique_ptr<pm::Region> new_region(bool image) {
    if (!image) return pm::memory_region(kMedium).take();
    const char *const directory = std::getenv("TMPDIR");
    const FileDescriptor file(
        ::open(directory != nullptr ? directory : "/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!file.ok() || ::posix_fallocate(file.get(), 0, kMedium) != 0) fail("there is no image");
    return pm::open_region("/proc/self/fd/" + std::to_string(file.get()), {}).take();
}

bool comes(const std::function<bool()> &condition) {
    const auto end = std::chrono::steady_clock::now() + kEndMax;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) return false;
        std::this_thread::sleep_for(100us);
    }
    return true;
}

// A request that was sent: what its answer must be like.
struct Expected {
    Step step;
    std::uint64_t unique = 0, node = 0;
    bool wants_reply = false;  // of a client that stays
};

// Whether a kernel would wait for an answer.
bool is_answered(const std::string &message) {
    const auto header = load<fuse_in_header>(std::as_bytes(std::span(message)));
    return header.unique != 0 && header.opcode != FUSE_FORGET &&
           header.opcode != FUSE_BATCH_FORGET && header.opcode != FUSE_INTERRUPT &&
           header.opcode != FUSE_NOTIFY_REPLY;
}

// `medium_may_fail`: EIO may have another reason.
void check_answer(const Expected &asked, ConstBytes bytes, bool medium_may_fail) {
    const std::string what = "opcode " + std::to_string(asked.step.what) + ": ";
    if (bytes.size() < sizeof(fuse_out_header)) fail(what + "the answer is too short");
    const auto header = load<fuse_out_header>(bytes);
    if (header.len != bytes.size()) fail(what + "the answer has another length than it says");
    if (header.unique != asked.unique) fail(what + "the answer has another request's number");
    if (header.error > 0 || header.error <= -512)  // linux fs/fuse/dev.c, fuse_dev_do_write()
        fail(what + "a kernel would not accept error " + std::to_string(header.error));
    if (header.error == -EUCLEAN) fail(what + "the volume contradicts itself");
    // (INIT: a second one.)
    if (header.error == -EIO && asked.step.what != FUSE_INIT && !medium_may_fail)
        fail(what + "the medium is said to have failed");
}

// The twists that concern the message itself.
void spoil(const Step &step, const Known &known, std::string *message) {
    const std::size_t size = message->size(), at = step.twist_where % size;
    auto header = load<fuse_in_header>(std::as_bytes(std::span(*message)));
    switch (step.twist % kTwists) {
        case kCut:
            message->resize(at);
            header.len = static_cast<std::uint32_t>(at);
            break;
        case kLonger:
            message->append(1 + step.twist_where, '\0');
            header.len = static_cast<std::uint32_t>(message->size());
            break;
        case kOtherByte:
            if (at >= sizeof header) (*message)[at] = static_cast<char>(step.more);
            break;
        case kWrongLength:
            header.len += step.twist_where;
            break;
        case kNoNumber:
            header.unique = 0;
            break;
        case kSameNumber:
            header.unique = known.unique;
            break;
        default:
            break;
    }
    std::memcpy(message->data(), &header, std::min(message->size(), sizeof header));
}

// The host's kernel.
class Local : public front::ReplyPort {
public:
    Local(front::Clients &clients, const front::DispatchOptions &options, bool keeps_locks) {
        front::Policy policy = front::Policy::host();
        policy.shares_ranges = policy.shares_wholes = keeps_locks;
        auto client = clients.admit(policy).take();
        dispatcher_ = front::Dispatcher::create(clients, client, options).take();
        dispatcher_->set_notification_port(this);
    }
    ssize_t send(std::span<const iovec> message) override {
        std::vector<std::byte> bytes;
        for (const iovec &piece : message) {
            const auto *start = static_cast<const std::byte *>(piece.iov_base);
            bytes.insert(bytes.end(), start, start + piece.iov_len);
        }
        const auto size = static_cast<ssize_t>(bytes.size());
        const std::lock_guard held(mutex_);
        if (load<fuse_out_header>(bytes).unique != 0) answers_.push_back(std::move(bytes));
        return size;
    }
    void send_message(const std::string &message) {
        // Of its exact size, so that a sanitizer sees reads behind it.
        std::vector<std::byte> own(message.size());
        std::memcpy(own.data(), message.data(), message.size());
        dispatcher_->dispatch(*this, own);
    }
    std::vector<std::vector<std::byte>> answers() {
        const std::lock_guard held(mutex_);
        return std::exchange(answers_, {});
    }
    front::Dispatcher &dispatcher() { return *dispatcher_; }

private:
    std::mutex mutex_;
    std::vector<std::vector<std::byte>> answers_;
    std::shared_ptr<front::Dispatcher> dispatcher_;
};

class Run {
public:
    explicit Run(std::uint8_t options);
    ~Run();
    void step(const Step &step);

private:
    struct Guest {
        std::unique_ptr<front::VhostFs> device;
        std::unique_ptr<FuzzGuest> guest;
        Known known;
        std::map<unsigned, Expected> expected;  // by sequence
        bool monitor_obeys = true;
        bool begun = false;  // INIT was answered well
    };
    void plant();
    void add_guest(front::GuestOptions options);
    void control(const Step &step, Guest *guest);
    void send_local(const Step &step, std::string message);
    void send_guest(const Step &step, std::string message, Guest &guest);
    void read_local();
    void read_guest(Guest &guest);
    void client_ends(Guest &guest);
    std::set<std::uint64_t> named();
    void remove(InodeNo dir);
    void check_nothing_is_held();

    const std::uint8_t options_;
    pm::Region *region_;
    std::unique_ptr<Volume> volume_;
    std::unique_ptr<front::Clients> clients_;
    std::unique_ptr<Local> local_;
    SocketPlace place_;
    std::array<Guest, 2> guests_;
    std::size_t guests_made_ = 0;
    Known known_;  // the host's
    std::map<std::uint64_t, Expected> expected_;
    bool destroyed_ = false;  // the host's kernel has unmounted
    bool lied_ = false;
    std::uint64_t inodes_first_ = 0;
};

const Step kInit{.what = FUSE_INIT};

Run::Run(std::uint8_t options) : options_(options) {
    auto region = new_region((options & kImage) != 0);
    mkfs::MakeOptions make;
    make.time = Timespec{1'000'000'000, 0};
    PMFS_ASSERT(mkfs::make(*region, make).ok());
    region_ = region.get();
    MountOptions mount;
    mount.lease_break_ms = kLeaseMs;
    mount.owner_may_seal = (options & kOwnersSeal) != 0;
    mount.sealed_direct = (options & kSealedDirect) != 0;
    mount.writeback = (options & kWriteback) != 0;
    volume_ = Volume::open(std::move(region), mount).take();
    inodes_first_ = volume_->info().inodes_used;
    clients_ = std::make_unique<front::Clients>(*volume_);
    front::DispatchOptions dispatch;
    dispatch.writeback = mount.writeback;
    local_ = std::make_unique<Local>(*clients_, dispatch, (options & kHostLocks) != 0);
    send_local(kInit, message_of(kInit, known_));
    plant();

    front::GuestOptions first;
    first.window = kWindowSize;
    add_guest(first);
    front::GuestOptions second;
    second.policy.root = volume_->lookup(InodeNo(1), "d").take().ino;
    volume_->forget(second.policy.root, 1);
    second.policy.users = second.policy.groups = front::IdMap({{0, 100'000, 5000}});
    second.policy.read_only = (options & kReadOnlyGuest) != 0;
    second.policy.lookups_max = 6;
    second.policy.handles_max = 3;
    second.policy.grants_max = 2;
    second.policy.locks_max = 8;
    add_guest(second);
}

// What the first steps of an input can name: a file of two pages, and one in a directory.
void Run::plant() {
    const Caller root;
    const auto file = volume_->make(InodeNo(1), "a", S_IFREG | 0666, 0, root);
    const auto dir = volume_->make(InodeNo(1), "d", S_IFDIR | 0777, 0, root);
    const auto inner = volume_->make(dir.value().ino, "a", S_IFREG | 0666, 0, root);
    for (const auto &made : {file, inner})
        PMFS_ASSERT(
            volume_->write(made.value().ino, 0, std::vector<std::byte>(8192), false, root).ok());
    for (const auto &made : {file, dir, inner}) volume_->forget(made.value().ino, 1);
}

void Run::add_guest(front::GuestOptions options) {
    Guest &guest = guests_[guests_made_++];
    options.socket = place_.path() + std::to_string(guests_made_);
    guest.device =
        front::VhostFs::start(*clients_, {}, options, virtio::Listener::bind(options.socket).take(),
                              [](auto &) {})
            .take();
    guest.guest = std::make_unique<FuzzGuest>(*guest.device);
    Step init = kInit;
    init.b = (options_ & kDaxAlways) != 0 ? 1 : 0;
    send_guest(init, message_of(init, guest.known), guest);
}

void Run::step(const Step &step) {
    const unsigned who = step.who % 4;
    Guest *const guest = who == 0 || who == 3 ? nullptr : &guests_[who - 1];
    if (step.what >= kControls) return control(step, guest);
    Known &known = guest == nullptr ? known_ : guest->known;
    std::string message = message_of(step, known);
    known.unique += 2;
    spoil(step, known, &message);
    if (guest != nullptr) return send_guest(step, std::move(message), *guest);
    send_local(step, std::move(message));
}

void Run::control(const Step &step, Guest *guest) {
    switch (step.what) {
        case kPause:
            std::this_thread::sleep_for(std::chrono::milliseconds(2 * kLeaseMs));
            break;
        case kWaitAll:
            for (Guest &each : guests_) each.guest->stop_waiting();
            local_->dispatcher().interrupt_all();
            break;
        default:
            break;
    }
    if (guest == nullptr) return;
    switch (step.what) {
        case kMonitorMode:
            guest->monitor_obeys = step.a % kModes == kObeys;
            guest->guest->monitor().set_mode(step.a % kModes);
            break;
        case kResetDevice:
            client_ends(*guest);
            guest->guest->reset();
            break;
        case kReconnect:
            client_ends(*guest);
            guest->guest->reconnect();
            break;
        case kStopQueues:
            guest->guest->stop_waiting();
            break;
        default:
            break;
    }
    read_guest(*guest);
}

// What was under way need not be answered any more.
void Run::client_ends(Guest &guest) {
    for (auto &[sequence, asked] : guest.expected) asked.wants_reply = false;
    guest.monitor_obeys = false;  // (a new one does; but some of its ranges may be gone)
}

void Run::send_local(const Step &step, std::string message) {
    if (destroyed_ || message.size() < sizeof(fuse_in_header)) return;
    const auto header = load<fuse_in_header>(std::as_bytes(std::span(message)));
    const bool answered = is_answered(message);
    // Two requests of one number at a time are not told apart here.
    if (answered && expected_.contains(header.unique)) return;
    if (answered) expected_[header.unique] = {step, header.unique, header.nodeid, true};
    if (step.what == FUSE_DESTROY) destroyed_ = true;
    local_->send_message(message);
    read_local();
}

void Run::read_local() {
    for (const auto &bytes : local_->answers()) {
        const auto header = load<fuse_out_header>(bytes);
        const auto found = expected_.find(header.unique);
        if (found == expected_.end()) fail("an answer that nobody waits for");
        check_answer(found->second, bytes, false);
        if (header.error == 0)
            learn(found->second.step, found->second.node, ConstBytes(bytes).subspan(sizeof header),
                  &known_);
        expected_.erase(found);
    }
}

void Run::send_guest(const Step &step, std::string message, Guest &guest) {
    // They end the client before they are executed.
    if (step.what == FUSE_INIT || step.what == FUSE_DESTROY) {
        client_ends(guest);
        guest.begun = false;
    }
    const std::size_t size = message.size();
    const auto sequence = guest.guest->send(message, step);
    if (!sequence) return read_guest(guest);
    Expected asked{.step = step};
    if (size >= sizeof(fuse_in_header)) {
        const auto header = load<fuse_in_header>(std::as_bytes(std::span(message)));
        const auto twist = step.twist % kTwists;
        asked.unique = header.unique;
        asked.node = header.nodeid;
        asked.wants_reply =
            is_answered(message) && twist != kLittleRoom && twist != kNoRoom && twist != kBadSource;
    }
    guest.expected[*sequence] = asked;
    read_guest(guest);
}

void Run::read_guest(Guest &guest) {
    for (const Answer &answer : guest.guest->answers()) {
        const auto found = guest.expected.find(answer.sequence);
        if (found == guest.expected.end()) fail("an answer that nobody waits for");
        const Expected &asked = found->second;
        if (answer.written == 0 && asked.wants_reply)
            fail("opcode " + std::to_string(asked.step.what) + ": no answer");
        if (answer.written >= sizeof(fuse_out_header) &&
            asked.step.twist % kTwists != kWindowTarget) {
            // (libfuse answers so before INIT; and a VMM may refuse to map.)
            const bool maps = asked.step.what == FUSE_SETUPMAPPING;
            check_answer(asked, answer.bytes, !guest.begun || (maps && !guest.monitor_obeys));
            const auto header = load<fuse_out_header>(answer.bytes);
            if (asked.step.what == FUSE_INIT && header.error == 0) guest.begun = true;
            if (header.error == 0)
                learn(asked.step, asked.node, ConstBytes(answer.bytes).subspan(sizeof header),
                      &guest.known);
        }
        guest.expected.erase(found);
    }
}

// --- the end

// The inodes that have a name.
std::set<std::uint64_t> Run::named() {
    std::set<std::uint64_t> all = {1};
    std::vector<InodeNo> directories = {InodeNo(1)};
    while (!directories.empty()) {
        const InodeNo dir = directories.back();
        directories.pop_back();
        const auto listed = volume_->readdir(dir, 0, [&](const DirEntry &entry) {
            if (entry.name == "." || entry.name == "..") return true;
            all.insert(entry.ino.value());
            if (entry.type == DT_DIR) directories.push_back(entry.ino);
            return true;
        });
        if (!listed.ok()) fail("a directory cannot be read");
    }
    return all;
}

void Run::remove(InodeNo dir) {
    std::vector<std::pair<std::string, DirEntry>> entries;
    const auto listed = volume_->readdir(dir, 0, [&](const DirEntry &entry) {
        if (entry.name != "." && entry.name != "..") entries.emplace_back(entry.name, entry);
        return true;
    });
    PMFS_ASSERT(listed.ok());
    (void)volume_->set_file_flags(dir, {}).ok();
    for (const auto &[name, entry] : entries) {
        (void)volume_->set_file_flags(entry.ino, {})
            .ok();  // of others than files and directories: no
        Result<> removed;
        if (entry.type == DT_DIR) {
            remove(entry.ino);
            removed = volume_->rmdir(dir, name);
        } else {
            removed = volume_->unlink(dir, name);
        }
        if (!removed.ok()) fail("a file cannot be removed: " + std::string(removed.error().what()));
    }
}

void Run::check_nothing_is_held() {
    // A VMM that lied is gone now, too, and root says so.
    const auto held = [&] {
        const auto all = volume_->quarantine();
        PMFS_ASSERT(all.ok());
        if (lied_)
            for (const Quarantined &one : all.value())
                (void)volume_->release_quarantine(one.id, {}).ok();
        return !all.value().empty();
    };
    if (!comes([&] { return !held(); })) fail("a quarantine does not end");
    if ((options_ & kRemoveAll) != 0) remove(InodeNo(1));
    const auto files = named();
    for (const std::uint64_t ino : files) {
        const auto holders = volume_->holders(InodeNo(ino));
        const auto handles = volume_->handles(InodeNo(ino));
        if (!holders.ok() || !holders.value().empty()) fail("a grant is left");
        if (!handles.ok() || !handles.value().empty()) fail("a handle is left");
    }
    for (ClientId id = 0; id < 32; ++id)
        if (clients_->locks().held_by(id) != 0) fail("a lock is left");
    if (!clients_->present().empty()) fail("a client is left");
    const std::uint64_t expected = inodes_first_ + files.size() - 1;  // it had the root
    if (!comes([&] { return volume_->info().inodes_used == expected; }))
        fail("a file without a name is left: " + std::to_string(volume_->info().inodes_used) +
             " inodes instead of " + std::to_string(expected));
    if (volume_->info().damaged) fail("the volume was taken for damaged");
}

Run::~Run() {
    for (Guest &guest : guests_) {
        guest.guest->stop_waiting();
        read_guest(guest);
        for (const auto &[sequence, asked] : guest.expected)
            if (asked.wants_reply)
                fail("opcode " + std::to_string(asked.step.what) + ": never answered");
        lied_ = lied_ || guest.guest->lied();
        guest.guest.reset();
        guest.device.reset();
    }
    local_->dispatcher().interrupt_all();
    if (!comes([&] {
            read_local();
            local_->dispatcher().interrupt_all();
            return expected_.empty();
        }))
        fail("opcode " + std::to_string(expected_.begin()->second.step.what) + ": never answered");
    local_->dispatcher().finish_notifications();
    local_->dispatcher().leave();
    check_nothing_is_held();
    if (!volume_->close().ok()) fail("the volume cannot be closed");
    const auto report = fsck::check(*region_);
    if (!report.ok()) fail("fsck cannot read the volume");
    for (const auto &problem : report.value().problems)
        std::fprintf(stderr, "fsck %s: %s %s\n", fsck::id_of(problem.code).c_str(),
                     fsck::info_of(problem.code).sentence, problem.detail.c_str());
    if (!report.value().clean()) fail("fsck found something");
    if (report.value().orphans != 0) fail("fsck found files without a name");
    if (report.value().grants != 0) fail("fsck found grants");
    local_.reset();
    volume_.reset();
    clients_.reset();
}

}  // namespace

void fuzz_requests(ConstBytes input) {
    if (input.empty()) return;
    Run run(static_cast<std::uint8_t>(input[0]));
    for (const Step &step : steps_of(input)) run.step(step);
}

}  // namespace pmfs::test
