// A file under torture: what it is to hold, who has it open and maps it, and the comparisons.
#pragma once
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace torture {

constexpr std::size_t kPage = 4096;

struct Words {
    std::string directory;
    std::uint64_t seed = 1;
    unsigned steps = 2000;
    unsigned workers = 1;
    std::size_t room = 384 << 10;  // the file, or a worker's part of it, has at most so many bytes
    bool behind_end = false;
    std::string survive;  // where to write what is known when the server has gone
    // The file is there already: its size and where its blocks are cannot change.
    bool frozen = false;
    bool uncached = false;  // nobody maps it
    // The file is there already, and these bytes of it stay where they are.
    std::size_t pinned_from = 0, pinned_upto = 0;
    // The file is there already, and whatever needs another block map may be refused, any time.
    bool refusals = false;
    bool trace = false;

    bool is_there() const { return frozen || pinned_upto != 0 || refusals; }
};

// What may become of a call.  Who is refused gets ETXTBSY, and has changed nothing.
enum class Fate : std::uint8_t { done, refused, either };

struct Kind {
    const char *name;
    int flags;
};
constexpr std::array kKinds = {
    Kind{"buffered", O_RDWR},      Kind{"buffered too", O_RDWR}, Kind{"direct", O_RDWR | O_DIRECT},
    Kind{"sync", O_RDWR | O_SYNC}, Kind{"read-only", O_RDONLY},  Kind{"append", O_RDWR | O_APPEND},
};
constexpr unsigned kBuffered = 0, kDirect = 2, kReadOnly = 4, kAppend = 5;

// Pages for one request; O_DIRECT elsewhere wants them aligned.
class Buffer {
public:
    explicit Buffer(std::size_t size) : size_(std::max(size, kPage)) {
        bytes_ = static_cast<std::uint8_t *>(
            std::aligned_alloc(kPage, (size_ + kPage - 1) / kPage * kPage));
    }
    Buffer(Buffer &&from) noexcept
        : size_(from.size_), bytes_(std::exchange(from.bytes_, nullptr)) {}
    Buffer(const Buffer &) = delete;
    Buffer &operator=(Buffer &&) = delete;
    Buffer &operator=(const Buffer &) = delete;
    ~Buffer() { std::free(bytes_); }
    std::uint8_t *data() { return bytes_; }

private:
    std::size_t size_;
    std::uint8_t *bytes_;
};

class Target {
public:
    // `base`: where this worker's part of the file begins.  Alone it may change the size.
    Target(const Words &words, std::string path, std::uint64_t seed, std::size_t base, bool alone)
        : words_(words), path_(std::move(path)), random_(seed), base_(base), alone_(alone) {
        if (words_.is_there())
            load();
        else if (!alone_)
            bytes_.assign(words_.room, 0);
        for (unsigned kind = 0; kind < kKinds.size(); ++kind) open_again(kind);
        other_ = open((path_ + ".other" + std::to_string(base)).c_str(), O_RDWR | O_CREAT | O_TRUNC,
                      0600);
        if (other_ < 0) fail("open of another file: %s", std::strerror(errno));
        if (takes_any_direct()) return;
        direct_ = 0;
        open_again(kDirect);
    }
    Target(const Target &) = delete;
    Target &operator=(const Target &) = delete;

protected:
    // --- chance

    std::size_t below(std::size_t limit) { return limit == 0 ? 0 : random_() % limit; }
    bool one_in(unsigned n) { return below(n) == 0; }
    std::size_t offset_below(std::size_t limit) {
        std::size_t at = below(limit);
        if (one_in(2)) at = at / kPage * kPage;
        if (one_in(8)) at += at > 0 && one_in(2) ? -1 : 1;
        return std::min(at, limit == 0 ? 0 : limit - 1);
    }
    std::size_t length_upto(std::size_t limit) {
        if (limit == 0) return 0;
        std::size_t most = std::min<std::size_t>(limit, one_in(8)   ? limit
                                                        : one_in(2) ? 3 * kPage
                                                                    : 48 << 10);
        std::size_t length = 1 + below(most);
        if (one_in(3)) length = std::max(kPage, length / kPage * kPage);
        return std::min(length, limit);
    }
    unsigned writer() {
        static constexpr std::array kWriters = {0u, 1u, 2u, 3u};
        return kWriters[below(kWriters.size())];
    }
    unsigned reader() { return static_cast<unsigned>(below(kKinds.size())); }
    // A range to write to; it may make the file longer.
    bool range_to_write(std::size_t *offset, std::size_t *length) {
        *offset =
            offset_below(alone_ ? std::min(words_.room, bytes_.size() + 3 * kPage) : words_.room);
        *length = length_upto(words_.room - *offset);
        return *length != 0;
    }
    // A place for so many bytes.
    std::size_t place_for(std::size_t length) { return offset_below(words_.room - length + 1); }
    bool range_inside(std::size_t *offset, std::size_t *length) {
        if (bytes_.empty()) return false;
        *offset = offset_below(bytes_.size());
        *length = length_upto(bytes_.size() - *offset);
        return true;
    }
    Buffer fresh(std::size_t length) {
        Buffer made(length);
        const std::uint64_t mark = random_();
        for (std::size_t i = 0; i < length; ++i)
            made.data()[i] = static_cast<std::uint8_t>(1 + (mark + i * 7 + (i >> 8)) % 255);
        return made;
    }

    // --- what is to be

    void load() {
        const int fd = open(path_.c_str(), O_RDONLY);
        struct stat found {};
        if (fd < 0 || fstat(fd, &found) != 0) fail("no file: %s", std::strerror(errno));
        file_size_ = static_cast<std::size_t>(found.st_size);
        bytes_.resize(alone_ ? std::min(file_size_, words_.room) : words_.room);
        if (pread(fd, bytes_.data(), bytes_.size(), place(0)) !=
            static_cast<ssize_t>(bytes_.size()))
            fail("it cannot be read, or is too short");
        written_.assign(words_.room / kPage, false);
        for (std::size_t page = 0; page < written_.size(); ++page)
            written_[page] = lseek(fd, place(page * kPage), SEEK_DATA) == place(page * kPage);
        close(fd);
    }
    Fate fate_of_write(std::size_t offset, std::size_t length) const {
        if (words_.refusals) return Fate::either;
        if (!words_.frozen) return Fate::done;
        for (std::size_t page = offset / kPage; page * kPage < offset + length; ++page)
            if (!written_[page]) return Fate::refused;
        return Fate::done;
    }
    Fate fate_of_allocation(std::size_t offset, std::size_t length) const {
        const bool pinned = offset < words_.pinned_upto && offset + length > words_.pinned_from;
        if (words_.refusals) return Fate::either;
        return words_.frozen || pinned ? Fate::refused : Fate::done;
    }
    Fate fate_of_size(std::size_t size) const {
        if (words_.refusals) return Fate::either;
        // (It is whole pages that are pinned.)
        return size < bytes_.size() && size < words_.pinned_upto ? Fate::refused : Fate::done;
    }

    void put(std::size_t offset, const std::uint8_t *data, std::size_t length) {
        if (bytes_.size() < offset + length) bytes_.resize(offset + length);
        std::memcpy(bytes_.data() + offset, data, length);
    }
    void zero(std::size_t offset, std::size_t length) {
        const std::size_t end = std::min(offset + length, bytes_.size());
        if (offset < end) std::memset(bytes_.data() + offset, 0, end - offset);
    }
    off_t place(std::size_t offset) const { return static_cast<off_t>(base_ + offset); }

    // --- telling

    __attribute__((format(printf, 2, 3))) void did(const char *form, ...) {
        char text[256];
        va_list list;
        va_start(list, form);
        vsnprintf(text, sizeof text, form, list);
        va_end(list);
        if (words_.trace) printf("%u: %s\n", step_, text);
        last_.push_back(std::to_string(step_) + ": " + text);
        if (last_.size() > 40) last_.pop_front();
    }
    // The server may end at any moment: then that range, and no other byte, may be anything, and
    // the file may have any size from one to the other.
    void doubt(std::size_t from, std::size_t upto, std::size_t size_min, std::size_t size_max) {
        doubt_ = {from, upto, size_min, size_max};
    }
    void doubt_range(std::size_t offset, std::size_t length) {
        doubt(offset, offset + length, bytes_.size(), std::max(bytes_.size(), offset + length));
    }
    __attribute__((format(printf, 2, 3), noreturn)) void fail(const char *form, ...) {
        if (!words_.survive.empty() && server_is_gone()) write_known();
        va_list list;
        va_start(list, form);
        for (const std::string &text : last_) printf("  %s\n", text.c_str());
        printf("seed %llu, part at %zu, step %u: ", static_cast<unsigned long long>(words_.seed),
               base_, step_);
        vprintf(form, list);
        printf("\n");
        va_end(list);
        fflush(stdout);
        _exit(1);
    }
    // What fails first when it goes may be a part of a request, or cancelled.  (The kernel answers
    // stat(2) from its cache, statfs(2) never.)
    bool server_is_gone() const {
        struct statfs found {};
        for (unsigned tries = 0; tries < 100; ++tries) {
            if (statfs(path_.c_str(), &found) != 0 && errno == ENOTCONN) return true;
            usleep(10000);
        }
        return false;
    }
    // See check_known().
    __attribute__((noreturn)) void write_known() {
        FILE *file = fopen(words_.survive.c_str(), "w");
        const std::size_t numbers[] = {step_,           doubt_.from,     doubt_.upto,
                                       doubt_.size_min, doubt_.size_max, bytes_.size()};
        const bool written = file != nullptr && fwrite(numbers, sizeof numbers, 1, file) == 1 &&
                             fwrite(bytes_.data(), 1, bytes_.size(), file) == bytes_.size();
        if (!written || fclose(file) != 0) perror(words_.survive.c_str());
        _exit(written ? 3 : 2);
    }
    // Whether it was refused, as it may be.
    bool refused(ssize_t result, int error, Fate fate, const char *call) {
        if (result < 0 && error == ETXTBSY && fate != Fate::done) return true;
        if (fate == Fate::refused) fail("%s: %zd, and was to be refused", call, result);
        return false;
    }
    bool refused(ssize_t result, Fate fate, const char *call) {
        return refused(result, errno, fate, call);
    }
    // How much a write has done.  (Through the cache it may be more than one request, and the later
    // one refused.)
    std::size_t written(ssize_t result, std::size_t wanted, const char *call) {
        if (words_.refusals && result > 0 && static_cast<std::size_t>(result) < wanted)
            return static_cast<std::size_t>(result);
        expect(result, wanted, call);
        return wanted;
    }
    // Before a write up to there.  If it passes the end and is refused, FUSE's kernel side forgets
    // what was stored in its pages and is not written back yet (docs/coherence.md).
    void settle_for(std::size_t upto) {
        if (words_.refusals && upto > bytes_.size() && fsync(fds_[kBuffered]) != 0)
            fail("fsync: %s", std::strerror(errno));
    }
    void expect(ssize_t result, std::size_t wanted, const char *call) {
        if (result < 0) fail("%s: %s", call, std::strerror(errno));
        if (static_cast<std::size_t>(result) != wanted)
            fail("%s: %zd, not %zu", call, result, wanted);
    }

    // Whether O_DIRECT takes any place and length here; on ext4 it does not.
    bool takes_any_direct() {
        const int fd = open(("/proc/self/fd/" + std::to_string(other_)).c_str(), O_RDWR | O_DIRECT);
        const bool takes = fd >= 0 && pwrite(fd, "a byte", 1, 1) == 1;
        if (fd >= 0) close(fd);
        return takes;
    }
    void open_again(unsigned kind) {
        if (fds_[kind] >= 0) close(fds_[kind]);
        fds_[kind] = open(path_.c_str(),
                          (kKinds[kind].flags & (direct_ | ~O_DIRECT)) | O_CREAT | O_CLOEXEC, 0600);
        if (fds_[kind] < 0) fail("open %s: %s", kKinds[kind].name, std::strerror(errno));
    }

    // --- mappings

    // A store that was not written back dies with the server, and so does who touches a page then.
    bool maps() const { return words_.survive.empty(); }
    std::size_t map_size() const {
        return (base_ + words_.room + kPage - 1) / kPage * kPage - base_;
    }
    std::uint8_t *map_now(int protection, int kind) {
        const unsigned by = words_.frozen ? kReadOnly : kBuffered + below(2);
        void *map = mmap(nullptr, map_size(), protection, kind, fds_[by], place(0));
        if (map == MAP_FAILED) fail("mmap: %s", std::strerror(errno));
        return static_cast<std::uint8_t *>(map);
    }
    std::uint8_t *lasting_map() {
        if (lasting_ == nullptr) lasting_ = map_now(PROT_READ | PROT_WRITE, MAP_SHARED);
        return lasting_;
    }
    void drop_lasting_map() {
        if (lasting_ != nullptr && one_in(2)) {
            munmap(lasting_, map_size());
            lasting_ = nullptr;
        }
    }

    // --- comparing

    __attribute__((noreturn)) void differs(const char *how, const std::uint8_t *found,
                                           std::size_t offset, std::size_t length) {
        std::size_t first = 0, wrong = 0;
        for (std::size_t i = length; i-- > 0;)
            if (found[i] != bytes_[offset + i]) first = i, ++wrong;
        Buffer again(length);
        const bool kept = pread(fds_[kDirect], again.data(), length, place(offset)) ==
                              static_cast<ssize_t>(length) &&
                          std::memcmp(again.data(), bytes_.data() + offset, length) == 0;
        fail(
            "%s of %zu + %zu has %zu wrong bytes, the first at %zu: %u, not %u; past the cache "
            "%s",
            how, offset, length, wrong, offset + first, found[first], bytes_[offset + first],
            kept ? "all of it is there" : "it is wrong, too");
    }
    void look(std::size_t offset, std::size_t length) { look(offset, length, reader()); }
    void look(std::size_t offset, std::size_t length, unsigned kind) {
        if (offset >= bytes_.size()) return;
        length = std::min(length, bytes_.size() - offset);
        Buffer found(length + kPage);
        const std::size_t asked =
            alone_ && offset + length == bytes_.size() ? length + 100 : length;
        const ssize_t result = pread(fds_[kind], found.data(), asked, place(offset));
        if (result != static_cast<ssize_t>(length))
            fail("pread %s of %zu + %zu: %zd, %s", kKinds[kind].name, offset, asked, result,
                 std::strerror(errno));
        if (std::memcmp(found.data(), bytes_.data() + offset, length) != 0) {
            did("(read by %s)", kKinds[kind].name);
            differs("a read", found.data(), offset, length);
        }
    }
    void check_size() {
        struct stat by_fd {
        }, by_name{};
        if (fstat(fds_[reader()], &by_fd) != 0 || stat(path_.c_str(), &by_name) != 0)
            fail("stat: %s", std::strerror(errno));
        const std::size_t size = words_.frozen ? file_size_ : bytes_.size();
        if (static_cast<std::size_t>(by_fd.st_size) != size || by_name.st_size != by_fd.st_size)
            fail("the size is %lld, by name %lld, not %zu", static_cast<long long>(by_fd.st_size),
                 static_cast<long long>(by_name.st_size), size);
    }
    void check_all() {
        if (bytes_.empty()) return;
        for (unsigned kind = 0; kind < kKinds.size(); ++kind) look(0, bytes_.size(), kind);
        if (!maps() || words_.uncached) return;
        std::uint8_t *map = map_now(PROT_READ, MAP_SHARED);
        if (std::memcmp(map, bytes_.data(), bytes_.size()) != 0)
            differs("a mapping", map, 0, bytes_.size());
        munmap(map, map_size());
        if (lasting_ != nullptr && std::memcmp(lasting_, bytes_.data(), bytes_.size()) != 0)
            differs("the lasting mapping", lasting_, 0, bytes_.size());
    }

    const Words words_;
    const std::string path_;
    std::mt19937_64 random_;
    const std::size_t base_;
    const bool alone_;
    bool stored_behind_ = false;
    int direct_ = O_DIRECT;
    unsigned step_ = 0;
    std::vector<std::uint8_t> bytes_;  // as the file is to be
    std::size_t file_size_ = 0;        // of a file that was there
    std::vector<bool> written_;        // which of its pages had bytes of their own
    std::array<int, kKinds.size()> fds_ = {-1, -1, -1, -1, -1, -1};
    int other_ = -1;
    std::uint8_t *lasting_ = nullptr;  // lives through many steps
    std::deque<std::string> last_;
    struct {
        std::size_t from = 0, upto = 0, size_min = 0, size_max = 0;
    } doubt_;
};

}  // namespace torture
