// Power cuts and kills before every event of an operation: what must hold after each.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "core/acl.h"
#include "support/sim_media.h"
#include "volume/volume.h"
#include "world.h"

namespace pmfs::test {

// A user of a volume who goes by paths.  Each call asserts that it succeeds, unless it says try_.
class User {
public:
    // keeps_places: an operation that has to wait is continued, as a front end does it; else it is
    // started over.
    explicit User(Volume &volume, bool keeps_places = true)
        : volume_(volume), keeps_places_(keeps_places) {}
    Volume &volume() { return volume_; }

    InodeNo find(const std::string &path);  // counts no reference
    void make(const std::string &path, std::uint32_t mode);
    void write(const std::string &path, std::uint64_t offset, std::size_t size, unsigned char fill);
    Result<std::size_t> try_write(const std::string &path, std::uint64_t offset, std::size_t size,
                                  unsigned char fill);
    void truncate(const std::string &path, std::uint64_t size);
    void allocate(const std::string &path, unsigned mode, std::uint64_t offset, std::uint64_t size);
    void symlink(const std::string &path, const std::string &target);
    void link(const std::string &old_path, const std::string &new_path);
    void unlink(const std::string &path);
    void rmdir(const std::string &path);
    void rename(const std::string &from, const std::string &to, unsigned flags = 0);
    void set_xattr(const std::string &path, const std::string &name, std::size_t size, char fill);
    void set_acl(const std::string &path, std::string_view name, const core::Acl &acl);
    void chmod(const std::string &path, std::uint32_t mode);
    void remove_xattr(const std::string &path, const std::string &name);
    void seal(const std::string &path, SealLevel level);
    void unseal(const std::string &path);
    void prepare(const std::string &path, std::uint64_t unit = 0);
    void prepare_contiguous(const std::string &path);
    void compact();  // all of the volume
    // An open handle, until it is closed: also of a file that has no name any more.
    void open(const std::string &path, bool truncate = false);
    void close(const std::string &path);
    // A file without a name, open under a word of ours; it may get one.
    void make_nameless(const std::string &word);
    void write_nameless(const std::string &word, std::size_t size, unsigned char fill);
    void name(const std::string &word, const std::string &path);
    void close_nameless(const std::string &word);
    // A grant that maps the device, by process 1, which is always alive; held until it is dropped
    // (its holder has unmapped) or lost (it has not).
    void take(const std::string &path, GrantKind kind);
    // A pin that binds the blocks to their place.
    void bind(const std::string &path, std::uint64_t offset, std::uint64_t length);
    void drop(const std::string &path);
    void lose(const std::string &path);

    // Runs an operation that may ask to park, as a front end does.
    template <class F>
    auto retry(F operation) {
        for (int i = 0;; ++i) {
            const pm::NoWaiting absent(i < 100);
            auto done = operation();
            if (const pm::Absent page = pm::NoWaiting::take()) {
                page.read_in();
                continue;
            }
            if (i == 100 || done.ok() || !must_park(done.error())) return done;
            (void)volume_.commit_group().ok();
        }
    }

private:
    std::pair<InodeNo, std::string> split(const std::string &path);
    Caller caller();
    void hold(const std::string &path, GrantRequest asked);
    Volume &volume_;
    const bool keeps_places_;
    Progress progress_;  // of the one operation that is under way
    std::map<std::string, std::pair<HandleId, GrantId>> held_;
    std::map<std::string, HandleId> open_;
    std::map<std::string, InodeNo> nameless_;
};

using Act = std::function<void(User &)>;

struct Sweep {
    std::string name;
    Act before;             // builds what the operation works on
    std::vector<Act> acts;  // the operations, each atomic
    bool prefix = false;    // a growing file may be found at a size in between
    std::uint64_t size = 4 << 20;
    std::uint64_t journal_size = media::kJournalSizeMin;
    unsigned seeds = 6;
    Plant plant = Plant::none;  // from the first act on
    std::size_t plant_nth = SimMedia::kEvery;
    std::size_t step = 1;  // try every step-th event only
};

struct Swept {
    std::size_t cuts = 0;                 // states that were recovered and judged
    std::vector<std::string> violations;  // the first few; each says how to run it again
};

// Recovers from every state that `sweep` may leave, on DAX or image semantics, by power cut and by
// kill; each must mount, be one of the worlds that it may be, and be clean for fsck, then and after
// a mount.
Swept run(const Sweep &sweep, SimMedia::Flavour flavour);

// Runs the acts on an image for each transaction that they make, and lets that one wait for a
// checkpoint (and the one after it, when it is tried again, for every second run); once with a
// place where the operation is kept, and once without.  What comes of it must be the same world,
// and clean for fsck.  So must what a power cut or a kill leaves while it waits, as in run().
Swept run_parked(const Sweep &sweep);

// PMFS_CRASH_SHORT: how much shorter than the whole form sweeps are; 0: they are whole.
std::size_t shortened();
// `whole`, or in a short form `brief` divided by shortened(): how often something is done.
std::size_t times(std::size_t whole, std::size_t brief);

}  // namespace pmfs::test
