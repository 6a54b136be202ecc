// Torture of one file: random reads, writes, mappings, asynchronous requests, holes and sizes,
// through several descriptors of each kind at once, against a copy in memory.  After every step
// what was touched is compared, and now and then all of it, in every way that there is to read it.
//
//   torture DIRECTORY [--seed N] [--steps N] [--workers N] [--room BYTES] [--trace]
//           [--behind-end]     mappings also store behind the end, in its page; that must not show
//           [--survive FILE]   without mappings; says "begun" before the first step; when the
//                              server goes, what is known goes to FILE
//           [--check FILE]     does nothing but compare the file with that
//           [--frozen]         the file is there, and has a block map that cannot change: what
//           needs
//                              another one is to be refused, and nothing else
//           [--uncached]       nor can it be mapped
//           [--pinned FROM UPTO]  the file is there, and these bytes of it stay where they are
//           [--refusals]       the file is there, and what needs another block map may be refused
//                              any time
//
// A call that is refused gives ETXTBSY and has changed nothing.  With more than one worker there is
// a process for each, in pages of its own of the same file, whose size none of them changes.  Knows
// nothing of pmfs: runs on any filesystem.  Exit code 1: a byte, a size or a result is wrong; the
// seed, the step and the last operations are printed. 3: the server went.
#include <linux/falloc.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "torture/several.h"

namespace torture {
namespace {

class Torture : public Several {
public:
    using Several::Several;

    void run() {
        doubt(0, 0, bytes_.size(), bytes_.size());
        if (!words_.survive.empty()) {
            printf("begun\n");
            fflush(stdout);
        }
        for (step_ = 0; step_ < words_.steps; ++step_) {
            one();
            doubt(0, 0, bytes_.size(), bytes_.size());
            if (alone_ || words_.frozen) check_size();
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
        settle_for(offset + length);
        doubt_range(offset, length);
        const ssize_t result = pwrite(fds_[kind], data.data(), length, place(offset));
        if (refused(result, fate_of_write(offset, length), "pwrite")) return look(offset, length);
        put(offset, data.data(), written(result, length, "pwrite"));
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
        settle_for(offset + length);
        doubt_range(offset, length);
        const ssize_t result = pwritev2(fds_[kind], pieces, 3, place(offset), flags);
        if (refused(result, fate_of_write(offset, length), "pwritev2")) return look(offset, length);
        put(offset, data.data(), written(result, length, "pwritev2"));
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
        settle_for(end + length);
        doubt_range(end, length);
        iovec piece{data.data(), length};
        const ssize_t result = by_flag     ? pwritev2(fds_[writer()], &piece, 1,
                                                      static_cast<off_t>(below(end + 1)), RWF_APPEND)
                               : one_in(2) ? pwrite(fds_[kAppend], data.data(), length,
                                                    static_cast<off_t>(below(end + 1)))
                                           : write(fds_[kAppend], data.data(), length);
        if (refused(result, fate_of_write(end, length), "append")) return;
        put(end, data.data(), written(result, length, "append"));
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
        if (words_.frozen) return no_map();
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
    // Whoever may write to a file whose map is frozen goes past the cache.
    void no_map() {
        const unsigned kind = words_.uncached ? reader() : writer();
        did("no mapping %s", kKinds[kind].name);
        const void *map = mmap(nullptr, map_size(), PROT_READ, MAP_SHARED, fds_[kind], place(0));
        if (map != MAP_FAILED || errno != ENODEV)
            fail("a shared mapping %s: %s", kKinds[kind].name,
                 map == MAP_FAILED ? std::strerror(errno) : "is there");
    }
    void map_load() {
        if (!maps()) return;
        std::size_t offset, length;
        if (!range_inside(&offset, &length)) return;
        did("load %zu + %zu", offset, length);
        const int kind = one_in(2) && !words_.uncached ? MAP_SHARED : MAP_PRIVATE;
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
    // The whole file, whose size cannot change.
    void resize_frozen() {
        std::size_t size = one_in(2) ? file_size_ + 1 + below(3 * kPage) : below(file_size_);
        if (one_in(4)) size = 0;
        Buffer data = fresh(3 * kPage);
        const std::size_t before = std::min(file_size_, one_in(2) ? 0 : below(kPage));
        const unsigned how = static_cast<unsigned>(below(5)), kind = writer();
        did("resize to %zu, way %u, which is refused", size, how);
        iovec piece{data.data(), 3 * kPage};
        const auto end = static_cast<off_t>(file_size_ - before);
        const ssize_t result = how == 0   ? truncate(path_.c_str(), static_cast<off_t>(size))
                               : how == 1 ? ftruncate(fds_[kind], static_cast<off_t>(size))
                               : how == 2 ? open(path_.c_str(), O_WRONLY | O_TRUNC)
                               : how == 3 ? pwritev2(fds_[kind], &piece, 1, end, 0)
                                          : write(fds_[kAppend], data.data(), 3 * kPage);
        if (!refused(result, Fate::refused, "a change of size")) fail("it was not refused");
    }
    void resize() {
        if (words_.frozen) return resize_frozen();
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
        if (refused(result, fate_of_size(size), "truncate")) return;
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
        const int result =
            fallocate(fds_[writer()], mode, place(offset), static_cast<off_t>(length));
        if (result != 0 && errno == EOPNOTSUPP) return;
        if (refused(result, fate_of_allocation(offset, length), "fallocate"))
            return look(offset, length);
        if (result != 0) fail("fallocate: %s", std::strerror(errno));
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
        std::size_t done = 0;
        while (done < length) {
            const ssize_t result =
                copy_file_range(fds_[reader()], &in, fds_[writer()], &out, length - done, 0);
            if (result < 0 && refused(result, fate_of_write(to + done, length - done), "copy"))
                break;
            if (result <= 0)
                fail("copy_file_range after %zu: %zd, %s", done, result, std::strerror(errno));
            done += static_cast<std::size_t>(result);
        }
        moved(from, to, done);
        look(to, length);
    }
    void moved(std::size_t from, std::size_t to, std::size_t length) {
        if (length == 0) return;
        if (fate_of_write(to, length) == Fate::refused)
            fail("%zu + %zu was written, and was to be refused", to, length);
        const std::vector<std::uint8_t> copy(bytes_.begin() + static_cast<long>(from),
                                             bytes_.begin() + static_cast<long>(from + length));
        put(to, copy.data(), length);
    }
    // Out to another file by sendfile or copy_file_range, and back by splice through a pipe.
    void there_and_back() {
        std::size_t from, length;
        if (!range_inside(&from, &length)) return;
        length = std::min<std::size_t>(length, 60 << 10);
        const std::size_t to = place_for(length);
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
        settle_for(to + length);
        doubt_range(to, length);
        int ends[2];
        if (pipe(ends) != 0) fail("pipe");
        off_t back = 0, out = place(to);
        const unsigned kind = writer();
        std::size_t done = 0, filled = 0;
        while (done < length) {
            if (done == filled) {
                const ssize_t result = splice(other_, &back, ends[1], nullptr, length - done, 0);
                if (result <= 0) fail("splice in: %s", std::strerror(errno));
                filled += static_cast<std::size_t>(result);
            }
            const ssize_t result =
                splice(ends[0], nullptr, fds_[kind], &out, filled - done, SPLICE_F_MOVE);
            if (result < 0 && refused(result, fate_of_write(to + done, length - done), "splice"))
                break;
            if (result <= 0) fail("splice out: %zd %s", result, std::strerror(errno));
            done += static_cast<std::size_t>(result);
        }
        close(ends[0]);
        close(ends[1]);
        moved(from, to, done);
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

    void one() {
        static constexpr std::array<Step, 21> kSteps = {
            &Torture::write_some,       &Torture::write_some, &Torture::write_pieces,
            &Torture::append,           &Torture::read_some,  &Torture::read_some,
            &Torture::map_store,        &Torture::map_store,  &Torture::map_load,
            &Torture::store_behind_end, &Torture::resize,     &Torture::resize,
            &Torture::allocate,         &Torture::allocate,   &Torture::copy_inside,
            &Torture::there_and_back,   &Torture::settle,     &Torture::seek_holes,
            &Torture::by_ring,          &Torture::by_aio,     &Torture::count_under_lock};
        (this->*kSteps[below(kSteps.size())])();
    }
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

// What is in the file of the counters, and in our memory.
bool counted_all(const std::string &path, const Counted &counted) {
    bool all = true;
    const int fd = open(path.c_str(), O_RDONLY);
    for (const std::size_t kind : {0, 1}) {
        std::uint64_t count = 0;
        const std::uint64_t wanted = counted.by_kind[kind].load();
        if (pread(fd, &count, sizeof count, static_cast<off_t>(kind * kPage)) >= 0 &&
            count == wanted)
            continue;
        printf("under %s a counter came to %zu, not %zu\n", kind == 0 ? "flock" : "fcntl locks",
               static_cast<std::size_t>(count), static_cast<std::size_t>(wanted));
        all = false;
    }
    close(fd);
    return all;
}

int run_workers(const Words &words, const std::string &path) {
    const int flags = words.is_there() ? O_RDONLY : O_RDWR | O_CREAT | O_TRUNC;
    const int fd = open(path.c_str(), flags, 0600);
    const std::string count = path + ".count";
    const int count_fd = open(count.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    const std::size_t part = (words.room + kPage - 1) / kPage * kPage;
    void *shared =
        mmap(nullptr, sizeof(Counted), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (fd < 0 || count_fd < 0 || shared == MAP_FAILED ||
        (words.workers > 1 && !words.is_there() &&
         ftruncate(fd, static_cast<off_t>(part * words.workers)) != 0)) {
        perror(path.c_str());
        return 2;
    }
    close(fd);
    close(count_fd);
    auto &counted = *new (shared) Counted;
    std::vector<pid_t> children;
    for (unsigned n = 0; n < words.workers; ++n) {
        const pid_t child = fork();
        if (child == 0) {
            const bool alone = words.workers == 1 && !words.frozen;
            Torture(words, path, words.seed + n * 1000003, n * part, alone, counted).run();
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
    return code == 0 && !counted_all(count, counted) ? 1 : code;
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
        else if (word == "--frozen")
            asked.frozen = true;
        else if (word == "--uncached")
            asked.uncached = true;
        else if (word == "--pinned") {
            asked.pinned_from = number();
            asked.pinned_upto = number();
        } else if (word == "--refusals")
            asked.refusals = true;
        else if (word == "--trace")
            asked.trace = true;
        else
            asked.directory = word;
    }
    if (asked.directory.empty() || asked.workers == 0 || asked.room < kPage) {
        fprintf(stderr,
                "usage: torture DIRECTORY [--seed N] [--steps N] [--workers N] [--room BYTES] "
                "[--behind-end] [--frozen] [--uncached] [--pinned FROM UPTO] [--refusals] "
                "[--trace] [--survive FILE | --check FILE]\n");
        return 2;
    }
    const std::string path = asked.directory + "/torture" + std::to_string(asked.workers);
    return known.empty() ? run_workers(asked, path) : check_known(path, known);
}
