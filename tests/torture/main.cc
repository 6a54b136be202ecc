// Torture of one file: random reads, writes, mappings, asynchronous requests, holes and sizes,
// through several descriptors of each kind at once, against a copy in memory.  After every step
// what was touched is compared, and now and then all of it, in every way that there is to read it.
//
//   torture DIRECTORY [--seed N] [--steps N] [--workers N] [--room BYTES] [--trace]
//           [--behind-end]     mappings also store behind the end, in its page; that must not show
//           [--survive FILE]   without mappings; when the server goes, what is known goes to FILE
//           [--check FILE]     does nothing but compare the file with that
//
// With more than one worker there is a process for each, in pages of its own of the same file,
// whose size none of them changes.  Knows nothing of pmfs: runs on any filesystem.  Exit code 1:
// a byte, a size or a result is wrong; the seed, the step and the last operations are printed.
// 3: the server went.
#include <liburing.h>
#include <linux/aio_abi.h>
#include <linux/falloc.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "torture/target.h"

namespace torture {
namespace {

class Torture : public Target {
public:
    Torture(const Words &words, std::string path, std::uint64_t seed, std::size_t base, bool alone)
        : Target(words, std::move(path), seed, base, alone) {
        if (io_uring_queue_init(32, &ring_, 0) != 0) fail("io_uring_queue_init");
        if (syscall(SYS_io_setup, 32, &aio_) != 0) fail("io_setup");
    }

    void run() {
        for (step_ = 0; step_ < words_.steps; ++step_) {
            one();
            doubt(0, 0, bytes_.size(), bytes_.size());
            if (alone_) check_size();
            if (step_ % 64 == 63) check_all();
        }
        check_all();
        for (unsigned kind = 0; kind < kKinds.size(); ++kind) open_again(kind);
        check_all();
    }

private:
    using Step = void (Torture::*)();

    void write_some() {
        std::size_t offset, length;
        if (!range_to_write(&offset, &length)) return;
        const unsigned kind = writer();
        Buffer data = fresh(length);
        did("write %s %zu + %zu", kKinds[kind].name, offset, length);
        doubt_range(offset, length);
        expect(pwrite(fds_[kind], data.data(), length, place(offset)), length, "pwrite");
        put(offset, data.data(), length);
        look(offset, length);
    }
    void write_pieces() {
        std::size_t offset, length;
        if (!range_to_write(&offset, &length)) return;
        const unsigned kind = writer();
        static constexpr std::array kFlags = {0, RWF_DSYNC, RWF_SYNC, RWF_HIPRI};
        const int flags = kFlags[below(kFlags.size())];
        Buffer data = fresh(length);
        const std::size_t first = below(length), second = below(length - first);
        iovec pieces[3] = {{data.data(), first},
                           {data.data() + first, second},
                           {data.data() + first + second, length - first - second}};
        did("pwritev2 %s %zu + %zu flags %d", kKinds[kind].name, offset, length, flags);
        doubt_range(offset, length);
        expect(pwritev2(fds_[kind], pieces, 3, place(offset), flags), length, "pwritev2");
        put(offset, data.data(), length);
        look(offset, length);
    }
    void append() {
        if (!alone_) return;
        const std::size_t length = length_upto(words_.room - bytes_.size());
        if (length == 0) return;
        Buffer data = fresh(length);
        const std::size_t end = bytes_.size();
        const bool by_flag = one_in(2);
        did("append %zu%s", length, by_flag ? " (RWF_APPEND)" : "");
        doubt_range(end, length);
        iovec piece{data.data(), length};
        const ssize_t result = by_flag     ? pwritev2(fds_[writer()], &piece, 1,
                                                      static_cast<off_t>(below(end + 1)), RWF_APPEND)
                               : one_in(2) ? pwrite(fds_[kAppend], data.data(), length,
                                                    static_cast<off_t>(below(end + 1)))
                                           : write(fds_[kAppend], data.data(), length);
        expect(result, length, "append");
        put(end, data.data(), length);
        look(end, length);
    }
    void read_some() {
        std::size_t offset, length;
        if (range_inside(&offset, &length)) {
            did("read %zu + %zu", offset, length);
            look(offset, length);
        }
    }
    void map_store() {
        if (!maps()) return;
        std::size_t offset, length;
        if (!range_inside(&offset, &length)) return;
        Buffer data = fresh(length);
        did("store %zu + %zu", offset, length);
        std::uint8_t *map = one_in(2) ? lasting_map() : nullptr;
        std::uint8_t *own = map != nullptr ? map : map_now(PROT_READ | PROT_WRITE, MAP_SHARED);
        std::memcpy(own + offset, data.data(), length);
        put(offset, data.data(), length);
        if (one_in(2)) look(offset, length);
        if (one_in(3) && msync(own, map_size(), one_in(2) ? MS_SYNC : MS_ASYNC) != 0)
            fail("msync: %s", std::strerror(errno));
        if (map == nullptr) munmap(own, map_size());
        look(offset, length);
    }
    void map_load() {
        if (!maps()) return;
        std::size_t offset, length;
        if (!range_inside(&offset, &length)) return;
        did("load %zu + %zu", offset, length);
        const int kind = one_in(2) ? MAP_SHARED : MAP_PRIVATE;
        std::uint8_t *map = map_now(PROT_READ, kind);
        if (std::memcmp(map + offset, bytes_.data() + offset, length) != 0)
            differs("a mapping", map + offset, offset, length);
        // What is behind the end in its page reads as zero.
        if (alone_ && !stored_behind_)
            for (std::size_t at = bytes_.size(); at % kPage != 0; ++at)
                if (map[at] != 0) fail("behind the end at %zu a mapping has %u", at, map[at]);
        if (one_in(4)) madvise(map, map_size(), MADV_DONTNEED);
        munmap(map, map_size());
    }
    // A mapping stores behind the end, in its page: that must never be seen.
    void store_behind_end() {
        if (!maps() || !words_.behind_end || !alone_ || bytes_.size() % kPage == 0) return;
        did("store behind the end at %zu", bytes_.size());
        std::uint8_t *map = map_now(PROT_READ | PROT_WRITE, MAP_SHARED);
        map[bytes_.size()] = 0xee;
        stored_behind_ = true;
        if (one_in(2)) msync(map, map_size(), MS_SYNC);
        munmap(map, map_size());
    }
    void resize() {
        if (!alone_) return;
        std::size_t size = below(words_.room + 1);
        if (one_in(3)) size = size / kPage * kPage;
        if (one_in(12)) size = 0;
        if (one_in(4)) size = std::min(words_.room, bytes_.size() + below(3 * kPage));
        did("truncate to %zu", size);
        const std::size_t less = std::min(size, bytes_.size());
        const std::size_t more = std::max(size, bytes_.size());
        doubt(less, more, less, more);
        int result;
        if (size == 0 && one_in(2)) {
            const int fd = open(path_.c_str(), O_WRONLY | O_TRUNC);
            result = fd < 0 ? -1 : close(fd);
        } else {
            result = one_in(2) ? truncate(path_.c_str(), static_cast<off_t>(size))
                               : ftruncate(fds_[writer()], static_cast<off_t>(size));
        }
        if (result != 0) fail("truncate: %s", std::strerror(errno));
        if (size < bytes_.size()) drop_lasting_map();
        bytes_.resize(size);
    }
    void allocate() {
        std::size_t offset, length;
        if (!range_to_write(&offset, &length)) return;
        static constexpr std::array kModes = {0,
                                              FALLOC_FL_KEEP_SIZE,
                                              FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                              FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                              FALLOC_FL_ZERO_RANGE,
                                              FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
        const int mode = kModes[below(kModes.size())];
        did("fallocate mode %d %zu + %zu", mode, offset, length);
        doubt_range(offset, length);
        if (fallocate(fds_[writer()], mode, place(offset), static_cast<off_t>(length)) != 0) {
            if (errno == EOPNOTSUPP) return;
            fail("fallocate: %s", std::strerror(errno));
        }
        if ((mode & FALLOC_FL_KEEP_SIZE) == 0 && bytes_.size() < offset + length)
            bytes_.resize(offset + length);
        if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0) zero(offset, length);
        look(offset, length);
    }
    void copy_inside() {
        std::size_t from, length;
        if (!range_inside(&from, &length)) return;
        const std::size_t to = offset_below(words_.room);
        length = std::min(length, words_.room - to);
        if (from < to + length && to < from + length) return;  // EINVAL
        did("copy_file_range %zu to %zu + %zu", from, to, length);
        doubt_range(to, length);
        off_t in = place(from), out = place(to);
        for (std::size_t done = 0; done < length;) {
            const ssize_t result =
                copy_file_range(fds_[reader()], &in, fds_[writer()], &out, length - done, 0);
            if (result <= 0)
                fail("copy_file_range after %zu: %zd, %s", done, result, std::strerror(errno));
            done += static_cast<std::size_t>(result);
        }
        const std::vector<std::uint8_t> moved(bytes_.begin() + static_cast<long>(from),
                                              bytes_.begin() + static_cast<long>(from + length));
        put(to, moved.data(), length);
        look(to, length);
    }
    // Out to another file by sendfile or copy_file_range, and back by splice through a pipe.
    void there_and_back() {
        std::size_t from, length;
        if (!range_inside(&from, &length)) return;
        length = std::min<std::size_t>(length, 60 << 10);
        const std::size_t to = offset_below(words_.room - length + 1);
        did("sendfile %zu + %zu out, splice back to %zu", from, length, to);
        off_t in = place(from);
        if (ftruncate(other_, 0) != 0 || lseek(other_, 0, SEEK_SET) != 0)
            fail("other file: %s", std::strerror(errno));
        for (std::size_t done = 0; done < length;) {
            const ssize_t result = sendfile(other_, fds_[reader()], &in, length - done);
            if (result <= 0)
                fail("sendfile after %zu: %zd, %s", done, result, std::strerror(errno));
            done += static_cast<std::size_t>(result);
        }
        doubt_range(to, length);
        int ends[2];
        if (pipe(ends) != 0) fail("pipe");
        off_t back = 0, out = place(to);
        const unsigned kind = writer();
        for (std::size_t done = 0; done < length;) {
            const ssize_t filled = splice(other_, &back, ends[1], nullptr, length - done, 0);
            if (filled <= 0) fail("splice in: %s", std::strerror(errno));
            for (ssize_t moved = 0; moved < filled;) {
                const ssize_t result =
                    splice(ends[0], nullptr, fds_[kind], &out,
                           static_cast<std::size_t>(filled - moved), SPLICE_F_MOVE);
                if (result <= 0) fail("splice out: %zd %s", result, std::strerror(errno));
                moved += result;
            }
            done += static_cast<std::size_t>(filled);
        }
        close(ends[0]);
        close(ends[1]);
        const std::vector<std::uint8_t> moved(bytes_.begin() + static_cast<long>(from),
                                              bytes_.begin() + static_cast<long>(from + length));
        put(to, moved.data(), length);
        look(to, length);
    }
    void settle() {
        const unsigned kind = reader();
        static constexpr const char *kHow[] = {"fsync", "fdatasync", "fadvise",  "sync_file_range",
                                               "close", "drop map",  "readahead"};
        const std::size_t how = below(std::size(kHow));
        did("%s %s", kHow[how], kKinds[kind].name);
        int result = 0;
        switch (how) {
            case 0:
                result = fsync(fds_[kind]);
                break;
            case 1:
                result = fdatasync(fds_[kind]);
                break;
            case 2:
                result = posix_fadvise(fds_[kind], 0, 0, POSIX_FADV_DONTNEED);
                break;
            case 3:
                result = sync_file_range(fds_[kind], 0, 0, 7);
                break;
            case 4:
                open_again(kind);
                break;
            case 5:
                drop_lasting_map();
                break;
            case 6:
                result = kind == kDirect
                             ? 0
                             : static_cast<int>(readahead(fds_[kind], place(0), words_.room));
                break;
        }
        if (result != 0) fail("%s: %s", kHow[how], std::strerror(errno));
    }
    void seek_holes() {
        if (bytes_.empty()) return;
        const std::size_t from = below(bytes_.size());
        did("seek from %zu", from);
        const off_t data = lseek(fds_[kBuffered], place(from), SEEK_DATA);
        if (data < 0 && errno != ENXIO) fail("SEEK_DATA: %s", std::strerror(errno));
        const std::size_t upto =
            data < 0 ? bytes_.size()
                     : std::min(bytes_.size(), static_cast<std::size_t>(data) - base_);
        for (std::size_t at = from; at < upto; ++at)
            if (bytes_[at] != 0) fail("SEEK_DATA from %zu passes over byte %zu", from, at);
        const off_t hole = lseek(fds_[reader()], place(from), SEEK_HOLE);
        if (hole < place(from))
            fail("SEEK_HOLE from %zu: %lld", from, static_cast<long long>(hole));
        if (alone_ && static_cast<std::size_t>(hole) > bytes_.size())
            fail("SEEK_HOLE: %lld is behind the end", static_cast<long long>(hole));
        const std::size_t in_hole = static_cast<std::size_t>(hole) - base_;
        if (in_hole < bytes_.size() && bytes_[in_hole] != 0)
            fail("SEEK_HOLE: there is data at %zu", in_hole);
    }

    // --- several at once

    struct Request {
        bool writes;
        unsigned kind;
        std::size_t offset, length;
        Buffer data;
        ssize_t result = -1;
    };
    // Requests that share no page, and none makes the file longer but one.
    std::vector<Request> batch() {
        std::vector<Request> made;
        doubt_range(0, bytes_.size());
        std::size_t at = below(4) * kPage;
        const std::size_t limit = bytes_.size() / kPage * kPage;
        while (made.size() < 12 && at < limit) {
            const std::size_t pages = 1 + below(std::min<std::size_t>(8, (limit - at) / kPage));
            const std::size_t shift = one_in(2) ? 0 : below(kPage);
            const std::size_t length =
                one_in(2) ? pages * kPage - shift : 1 + below(pages * kPage - shift);
            const bool writes = one_in(2);
            const unsigned kind = writes ? writer() : reader();
            made.push_back(
                {writes, kind, at + shift, length, writes ? fresh(length) : Buffer(length)});
            at += (pages + below(3)) * kPage;
        }
        return made;
    }
    void finish(std::vector<Request> &requests, const char *how) {
        for (Request &request : requests) {
            if (request.result < 0) errno = static_cast<int>(-request.result);
            if (request.result != static_cast<ssize_t>(request.length))
                fail("%s %s %s %zu + %zu: %zd", how, request.writes ? "write" : "read",
                     kKinds[request.kind].name, request.offset, request.length, request.result);
            if (request.writes)
                put(request.offset, request.data.data(), request.length);
            else if (std::memcmp(request.data.data(), bytes_.data() + request.offset,
                                 request.length) != 0)
                differs(how, request.data.data(), request.offset, request.length);
        }
        for (const Request &request : requests) look(request.offset, request.length);
    }
    void by_ring() {
        std::vector<Request> requests = batch();
        if (requests.empty()) return;
        const bool fixed = one_in(2), files = one_in(2);
        did("%zu requests by io_uring%s%s", requests.size(), fixed ? ", registered buffers" : "",
            files ? ", registered files" : "");
        std::vector<iovec> buffers;
        for (Request &request : requests) buffers.push_back({request.data.data(), request.length});
        if (fixed && io_uring_register_buffers(&ring_, buffers.data(),
                                               static_cast<unsigned>(buffers.size())) != 0)
            fail("register buffers");
        if (files &&
            io_uring_register_files(&ring_, fds_.data(), static_cast<unsigned>(fds_.size())) != 0)
            fail("register files");
        for (std::size_t i = 0; i < requests.size(); ++i) {
            Request &r = requests[i];
            did("  %s %s %zu + %zu", r.writes ? "write" : "read", kKinds[r.kind].name, r.offset,
                r.length);
            io_uring_sqe *sqe = io_uring_get_sqe(&ring_);
            const int fd = files ? static_cast<int>(r.kind) : fds_[r.kind];
            const auto length = static_cast<unsigned>(r.length);
            const auto at = static_cast<std::uint64_t>(place(r.offset));
            const int number = static_cast<int>(i);
            if (r.writes && fixed)
                io_uring_prep_write_fixed(sqe, fd, r.data.data(), length, at, number);
            else if (r.writes)
                io_uring_prep_write(sqe, fd, r.data.data(), length, at);
            else if (fixed)
                io_uring_prep_read_fixed(sqe, fd, r.data.data(), length, at, number);
            else
                io_uring_prep_read(sqe, fd, r.data.data(), length, at);
            if (files)
                io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE | (one_in(2) ? IOSQE_ASYNC : 0u));
            io_uring_sqe_set_data64(sqe, i);
        }
        if (io_uring_submit_and_wait(&ring_, static_cast<unsigned>(requests.size())) < 0)
            fail("submit");
        for (std::size_t i = 0; i < requests.size(); ++i) {
            io_uring_cqe *cqe;
            if (io_uring_wait_cqe(&ring_, &cqe) != 0) fail("wait");
            requests[io_uring_cqe_get_data64(cqe)].result = cqe->res;
            io_uring_cqe_seen(&ring_, cqe);
        }
        if (fixed) io_uring_unregister_buffers(&ring_);
        if (files) io_uring_unregister_files(&ring_);
        finish(requests, "io_uring");
    }
    void by_aio() {
        std::vector<Request> requests = batch();
        if (requests.empty()) return;
        did("%zu requests by io_submit", requests.size());
        std::vector<iocb> blocks(requests.size());
        std::vector<iocb *> list;
        for (std::size_t i = 0; i < requests.size(); ++i) {
            Request &r = requests[i];
            did("  %s %s %zu + %zu", r.writes ? "write" : "read", kKinds[r.kind].name, r.offset,
                r.length);
            iocb &block = blocks[i];
            block.aio_data = i;
            block.aio_fildes = static_cast<std::uint32_t>(fds_[r.kind]);
            block.aio_lio_opcode = r.writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
            block.aio_buf = reinterpret_cast<std::uint64_t>(r.data.data());
            block.aio_nbytes = r.length;
            block.aio_offset = place(r.offset);
            list.push_back(&block);
        }
        const auto count = static_cast<long>(list.size());
        if (syscall(SYS_io_submit, aio_, count, list.data()) != count)
            fail("io_submit: %s", std::strerror(errno));
        std::vector<io_event> events(list.size());
        if (syscall(SYS_io_getevents, aio_, count, count, events.data(), nullptr) != count)
            fail("io_getevents");
        for (const io_event &event : events) requests[event.data].result = event.res;
        finish(requests, "io_submit");
    }

    void one() {
        static constexpr std::array<Step, 20> kSteps = {
            &Torture::write_some,       &Torture::write_some, &Torture::write_pieces,
            &Torture::append,           &Torture::read_some,  &Torture::read_some,
            &Torture::map_store,        &Torture::map_store,  &Torture::map_load,
            &Torture::store_behind_end, &Torture::resize,     &Torture::resize,
            &Torture::allocate,         &Torture::allocate,   &Torture::copy_inside,
            &Torture::there_and_back,   &Torture::settle,     &Torture::seek_holes,
            &Torture::by_ring,          &Torture::by_aio};
        (this->*kSteps[below(kSteps.size())])();
    }

    io_uring ring_{};
    aio_context_t aio_ = 0;
};

// Compares a file with what write_known() wrote when its server went.
int check_known(const std::string &path, const std::string &known) {
    FILE *file = fopen(known.c_str(), "r");
    std::size_t numbers[6];
    if (file == nullptr || fread(numbers, sizeof numbers, 1, file) != 1) return 2;
    const auto [step, from, upto, size_min, size_max, length] = std::to_array(numbers);
    std::vector<std::uint8_t> wanted(length), found(size_max + 1);
    if (fread(wanted.data(), 1, length, file) != length) return 2;
    fclose(file);
    const int fd = open(path.c_str(), O_RDONLY);
    const ssize_t size = fd < 0 ? -1 : pread(fd, found.data(), found.size(), 0);
    if (size < static_cast<ssize_t>(size_min) || size > static_cast<ssize_t>(size_max)) {
        printf("step %zu: the file has %zd bytes, not %zu to %zu\n", step, size, size_min,
               size_max);
        return 1;
    }
    for (std::size_t at = 0; at < std::min(length, static_cast<std::size_t>(size)); ++at) {
        if ((at >= from && at < upto) || found[at] == wanted[at]) continue;
        printf("step %zu: byte %zu is %u, not %u, and nobody was writing there\n", step, at,
               found[at], wanted[at]);
        return 1;
    }
    close(fd);
    return 0;
}

int run_workers(const Words &words, const std::string &path) {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    const std::size_t part = (words.room + kPage - 1) / kPage * kPage;
    if (fd < 0 ||
        (words.workers > 1 && ftruncate(fd, static_cast<off_t>(part * words.workers)) != 0)) {
        perror(path.c_str());
        return 2;
    }
    close(fd);
    std::vector<pid_t> children;
    for (unsigned n = 0; n < words.workers; ++n) {
        const pid_t child = fork();
        if (child == 0) {
            Torture(words, path, words.seed + n * 1000003, n * part, words.workers == 1).run();
            fflush(stdout);
            _exit(0);
        }
        children.push_back(child);
    }
    int code = 0;  // the worst
    for (const pid_t child : children) {
        int status = 0;
        waitpid(child, &status, 0);
        if (!WIFEXITED(status))
            printf("seed %llu: a worker died of signal %d\n",
                   static_cast<unsigned long long>(words.seed), WTERMSIG(status));
        code = std::max(code, WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    }
    return code;
}

}  // namespace
}  // namespace torture

int main(int count, char **words) {
    using namespace torture;
    Words asked;
    std::string known;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        const auto number = [&] {
            return i + 1 < count ? std::strtoull(words[++i], nullptr, 0) : 0;
        };
        if (word == "--seed")
            asked.seed = number();
        else if (word == "--steps")
            asked.steps = static_cast<unsigned>(number());
        else if (word == "--workers")
            asked.workers = static_cast<unsigned>(number());
        else if (word == "--room")
            asked.room = number();
        else if (word == "--survive" || word == "--check")
            (word == "--check" ? known : asked.survive) = i + 1 < count ? words[++i] : "";
        else if (word == "--behind-end")
            asked.behind_end = true;
        else if (word == "--trace")
            asked.trace = true;
        else
            asked.directory = word;
    }
    if (asked.directory.empty() || asked.workers == 0 || asked.room < kPage) {
        fprintf(stderr,
                "usage: torture DIRECTORY [--seed N] [--steps N] [--workers N] [--room BYTES] "
                "[--behind-end] [--trace] [--survive FILE | --check FILE]\n");
        return 2;
    }
    const std::string path = asked.directory + "/torture" + std::to_string(asked.workers);
    return known.empty() ? run_workers(asked, path) : check_known(path, known);
}
