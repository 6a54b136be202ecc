// Sweeps: see sweep.h.
#include "sweep.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>

#include "fsck/check.h"
#include "mkfs/make.h"

namespace pmfs::test {

namespace {

constexpr std::array<std::uint8_t, 16> kBootA{0xa}, kBootB{0xb};
constexpr Caller kUser{1000, 1000, 1};

MountOptions mount_options(const std::array<std::uint8_t, 16> &boot) {
    MountOptions o;
    o.no_background = true;
    o.boot_id = boot;
    return o;
}

template <class T>
auto must(T result) {
    if (!result.ok()) INFO(result.error().what());
    REQUIRE_MESSAGE(result.ok(), std::string(result.ok() ? "" : result.error().what()));
    return std::move(result).take();
}

}  // namespace

std::size_t shortened() {
    const char *given = std::getenv("PMFS_CRASH_SHORT");
    return given != nullptr ? std::max(std::strtoul(given, nullptr, 10), 1ul) : 0;
}

std::size_t times(std::size_t whole, std::size_t brief) {
    const std::size_t shorter = shortened();
    return shorter == 0 ? whole : std::max(brief / shorter, std::size_t{1});
}

std::pair<InodeNo, std::string> User::split(const std::string &path) {
    const std::size_t slash = path.rfind('/');
    return {slash == std::string::npos ? InodeNo(media::kRootIno) : find(path.substr(0, slash)),
            path.substr(slash == std::string::npos ? 0 : slash + 1)};
}

Caller User::caller() {
    Caller caller = kUser;
    if (keeps_places_) caller.progress = &progress_;
    return caller;
}

InodeNo User::find(const std::string &path) {
    InodeNo at(media::kRootIno);
    for (std::size_t from = 0; from < path.size();) {
        const std::size_t slash = std::min(path.find('/', from), path.size());
        const Attr a = must(volume_.lookup(at, path.substr(from, slash - from)));
        volume_.forget(a.ino, 1);
        at = a.ino;
        from = slash + 1;
    }
    return at;
}

void User::make(const std::string &path, std::uint32_t mode) {
    const auto [dir, name] = split(path);
    volume_.forget(must(retry([&, dir = dir, name = name] {
                       return volume_.make(dir, name, mode, 0, caller());
                   })).ino,
                   1);
}
Result<std::size_t> User::try_write(const std::string &path, std::uint64_t offset, std::size_t size,
                                    unsigned char fill) {
    std::vector<std::byte> bytes(size);
    for (std::size_t i = 0; i < size; ++i)  // every word says where it belongs
        bytes[i] = static_cast<std::byte>(i % 8 < 4 ? fill : (offset + i) >> (8 * (i % 4) + 3));
    const InodeNo ino = find(path);
    return retry([&] { return volume_.write(ino, offset, bytes, false, caller()); });
}
void User::write(const std::string &path, std::uint64_t offset, std::size_t size,
                 unsigned char fill) {
    REQUIRE(must(try_write(path, offset, size, fill)) == size);
}
void User::truncate(const std::string &path, std::uint64_t size) {
    SetAttr set;
    set.size = size;
    const InodeNo ino = find(path);
    must(retry([&] { return volume_.setattr(ino, set, caller()); }));
}
void User::allocate(const std::string &path, unsigned mode, std::uint64_t offset,
                    std::uint64_t size) {
    const InodeNo ino = find(path);
    must(retry([&] { return volume_.fallocate(0, ino, mode, offset, size, caller()); }));
}
void User::symlink(const std::string &path, const std::string &target) {
    const auto [dir, name] = split(path);
    volume_.forget(must(retry([&, dir = dir, name = name] {
                       return volume_.symlink(dir, name, target, caller());
                   })).ino,
                   1);
}
void User::link(const std::string &old_path, const std::string &new_path) {
    const InodeNo ino = find(old_path);
    const auto [dir, name] = split(new_path);
    must(retry([&, dir = dir, name = name] { return volume_.link(ino, dir, name); }));
    volume_.forget(ino, 1);
}
void User::unlink(const std::string &path) {
    const auto [dir, name] = split(path);
    must(retry([&, dir = dir, name = name] { return volume_.unlink(dir, name); }));
}
void User::rmdir(const std::string &path) {
    const auto [dir, name] = split(path);
    must(retry([&, dir = dir, name = name] { return volume_.rmdir(dir, name); }));
}
void User::rename(const std::string &from, const std::string &to, unsigned flags) {
    const auto [from_dir, from_name] = split(from);
    const auto [to_dir, to_name] = split(to);
    must(retry([&, from_dir = from_dir, from_name = from_name, to_dir = to_dir, to_name = to_name] {
        return volume_.rename(from_dir, from_name, to_dir, to_name, flags);
    }));
}
void User::set_xattr(const std::string &path, const std::string &name, std::size_t size,
                     char fill) {
    const std::string value(size, fill);
    const InodeNo ino = find(path);
    must(retry(
        [&] { return volume_.setxattr(ino, name, std::as_bytes(std::span(value)), 0, caller()); }));
}
void User::set_acl(const std::string &path, std::string_view name, const core::Acl &acl) {
    const auto value = core::bytes_of_acl(acl);
    const InodeNo ino = find(path);
    must(retry([&] { return volume_.setxattr(ino, name, value, 0, caller()); }));
}
void User::chmod(const std::string &path, std::uint32_t mode) {
    SetAttr set;
    set.mode = mode;
    const InodeNo ino = find(path);
    must(retry([&] { return volume_.setattr(ino, set, caller()); }));
}
void User::remove_xattr(const std::string &path, const std::string &name) {
    const InodeNo ino = find(path);
    must(retry([&] { return volume_.removexattr(ino, name, caller()); }));
}
void User::seal(const std::string &path, SealLevel level) {
    const InodeNo ino = find(path);
    std::uint64_t bad = 0;
    must(retry([&] { return volume_.seal(ino, level, caller(), true, &bad); }));
}
void User::unseal(const std::string &path) {
    const InodeNo ino = find(path);
    must(retry([&] { return volume_.unseal(ino, caller(), true); }));
}
void User::open(const std::string &path, bool truncate) {
    OpenRequest request;
    request.write = true;
    request.truncate = truncate;
    request.caller = caller();
    const InodeNo ino = find(path);
    open_[path] = must(retry([&] { return volume_.open_file(ino, request); })).handle;
}
void User::close(const std::string &path) {
    volume_.release(open_[path]);
}
void User::make_nameless(const std::string &word) {
    OpenRequest request;
    request.write = true;
    request.caller = caller();
    OpenReply opened;
    nameless_[word] = must(retry([&] {
                          return volume_.create_nameless(InodeNo(media::kRootIno), S_IFREG | 0600,
                                                         true, request, &opened);
                      })).ino;
    open_[word] = opened.handle;
}
void User::write_nameless(const std::string &word, std::size_t size, unsigned char fill) {
    const std::vector<std::byte> bytes(size, std::byte{fill});
    REQUIRE(must(retry([&] {
                return volume_.write(nameless_[word], 0, bytes, false, caller());
            })) == size);
}
void User::name(const std::string &word, const std::string &path) {
    const auto [dir, text] = split(path);
    must(retry([&, dir = dir, text = text] { return volume_.link(nameless_[word], dir, text); }));
    volume_.forget(nameless_[word], 1);
}
void User::close_nameless(const std::string &word) {
    close(word);
    volume_.forget(nameless_[word], 1);
}
void User::take(const std::string &path, GrantKind kind) {
    GrantRequest asked;
    asked.kind = kind;
    hold(path, asked);
}
void User::bind(const std::string &path, std::uint64_t offset, std::uint64_t length) {
    GrantRequest asked;
    asked.kind = GrantKind::pin;
    asked.bound = true;
    asked.offset = offset;
    asked.length = length;
    hold(path, asked);
}
void User::hold(const std::string &path, GrantRequest asked) {
    OpenRequest request;
    request.write = request.direct = true;
    request.caller = caller();
    const auto opened = volume_.open_file(find(path), request);
    must(opened);
    asked.may_store = asked.maps = true;
    std::uint64_t bad = 0;
    const auto grant =
        retry([&] { return volume_.take_grant(opened.value().handle, asked, caller(), &bad); });
    must(grant);
    held_[path] = {opened.value().handle, grant.value()};
}
void User::drop(const std::string &path) {
    const auto [handle, grant] = held_[path];
    must(retry([&, handle = handle, grant = grant] { return volume_.drop_grant(handle, grant); }));
    volume_.release(handle);
}
void User::lose(const std::string &path) {
    const auto [handle, grant] = held_[path];
    volume_.lose_grant(handle, grant);
    for (int i = 0; i < 100 && !must(volume_.holders(find(path))).empty(); ++i) {  // it parked
        (void)volume_.commit_group().ok();
        volume_.tend(0);
    }
    volume_.release(handle);
}
void User::compact() {
    for (GroupNo from;;) {
        const auto done = retry([&] {
            Caller root = caller();
            root.uid = 0;
            return volume_.compact(from, root);
        });
        if (!must(done).more) return;
        from = done.value().next;
    }
}
void User::prepare(const std::string &path, std::uint64_t unit) {
    const InodeNo ino = find(path);
    must(retry([&] { return volume_.prepare(ino, 0, 0, unit, caller()); }));
}
void User::prepare_contiguous(const std::string &path) {
    const InodeNo ino = find(path);
    must(retry([&] { return volume_.prepare_contiguous(ino, 0, 0, caller()); }));
}

namespace {

// A volume on which `before` was done, unmounted.  Free space holds 0xEE, so that a byte that was
// never written shows when it can be read.
MediaImage base_image(const Sweep &sweep, SimMedia::Flavour flavour) {
    SimMedia media(flavour, MediaImage(std::vector<std::byte>(sweep.size, std::byte{0xee})));
    const auto region = media.lend();
    mkfs::MakeOptions options;
    options.journal_size = sweep.journal_size;
    options.mapping_unit = 4096;
    must(mkfs::make(*region, options));
    auto volume = must(Volume::open(media.lend(), mount_options(kBootA)));
    User user(*volume);
    if (sweep.before) sweep.before(user);
    must(volume->close());
    volume.reset();
    REQUIRE(media.sync().ok());
    return media.after_kill();
}

// What the acts made of the volume, and when.
struct Story {
    std::vector<World> worlds;          // before the acts, and after each
    std::vector<std::size_t> returned;  // events when worlds[i] had returned
    std::vector<std::size_t> synced;    // image: events when it was synced; else as returned
};

class Judge {
public:
    Judge(const Sweep &sweep, SimMedia::Flavour flavour, const Story &story, Swept &swept)
        : sweep_(sweep), flavour_(flavour), story_(story), swept_(swept) {}

    void power_cut(const SimMedia &media, std::size_t cut, unsigned seed) {
        const bool image = flavour_ == SimMedia::Flavour::image;
        const auto &safe = image ? story_.synced : story_.returned;
        judge(media.after_power_cut(cut, seed), cut, safe, kBootB,
              "power cut, " + media.describe(cut, seed));
    }
    void kill(const SimMedia &media, std::size_t cut) {
        judge(media.after_kill(cut), cut, story_.returned, kBootA,
              "killed, " + media.describe(cut, 1));
    }

private:
    void judge(const MediaImage &image, std::size_t cut, const std::vector<std::size_t> &safe,
               const std::array<std::uint8_t, 16> &boot, const std::string &where) {
        ++swept_.cuts;
        const std::string bad = recover_and_look(image, cut, safe, boot);
        if (!bad.empty() && swept_.violations.size() < 5)
            swept_.violations.push_back(sweep_.name + ": " + where + ": " + bad);
        else if (!bad.empty())
            swept_.violations.push_back("...");
    }

    std::string recover_and_look(const MediaImage &image, std::size_t cut,
                                 const std::vector<std::size_t> &safe,
                                 const std::array<std::uint8_t, 16> &boot) {
        SimMedia found(flavour_, image);
        World world;
        {
            auto volume = Volume::open(found.lend(), mount_options(boot));
            if (!volume.ok()) return std::string("does not mount: ") + volume.error().what();
            auto seen = look_at(*volume.value());
            if (!seen.ok()) return std::string("cannot be read: ") + seen.error().what();
            world = std::move(seen).take();
            if (auto closed = volume.value()->close(); !closed.ok())
                return std::string("does not close: ") + closed.error().what();
        }
        // Worlds from the last one that is safe to the one under way.
        std::size_t first = 0, last = 0;
        for (std::size_t i = 0; i < story_.worlds.size(); ++i) {
            if (safe[i] <= cut) first = i;
            if (i == 0 || story_.returned[i - 1] <= cut) last = i;
        }
        std::vector<const World *> states;
        for (std::size_t i = first; i <= last; ++i) states.push_back(&story_.worlds[i]);
        if (auto bad = test::judge(world, states, states, sweep_.prefix); !bad.empty()) return bad;
        const auto region = found.lend();
        const auto report = fsck::check(*region);
        if (!report.ok()) return std::string("fsck cannot run: ") + report.error().what();
        if (!report.value().clean()) {
            const fsck::Problem &p = report.value().problems.front();
            return "fsck: " + fsck::id_of(p.code) + " " + fsck::info_of(p.code).sentence + " " +
                   p.detail + " inode " + std::to_string(p.inode) + " block " +
                   std::to_string(p.block);
        }
        return "";
    }

    const Sweep &sweep_;
    SimMedia::Flavour flavour_;
    const Story &story_;
    Swept &swept_;
};

}  // namespace

Swept run(const Sweep &sweep, SimMedia::Flavour flavour) {
    const MediaImage base = base_image(sweep, flavour);
    SimMedia media(flavour, base);
    Story story;
    std::size_t begin;
    {
        auto volume = must(Volume::open(media.lend(), mount_options(kBootA)));
        User user(*volume);
        begin = media.events();
        const auto note = [&] {
            story.worlds.push_back(must(look_at(*volume)));
            story.returned.push_back(media.events());
        };
        note();
        story.synced.push_back(begin);
        media.plant(sweep.plant, sweep.plant_nth);
        for (std::size_t i = 0; i < sweep.acts.size(); ++i) {
            sweep.acts[i](user);
            note();
            // Every second act is followed by a group commit, so that both kinds of cut are met.
            if (flavour == SimMedia::Flavour::image && (i % 2 == 1 || i + 1 == sweep.acts.size())) {
                must(volume->commit_group());
                while (story.synced.size() < story.worlds.size())
                    story.synced.push_back(media.events());
            }
        }
        while (story.synced.size() < story.worlds.size()) story.synced.push_back(media.events());
    }
    Swept swept;
    Judge judge(sweep, flavour, story, swept);
    const std::size_t end = media.events();
    const unsigned seeds = shortened() == 0 ? sweep.seeds : 3;
    // An odd one, so that it meets every kind of event.
    const std::size_t step =
        std::max(sweep.step, (end - begin) / times(end - begin + 1, 200) * 2 + 1);
    for (std::size_t cut = begin; cut <= end; cut += step) {
        for (unsigned seed = 0; seed < seeds; ++seed) judge.power_cut(media, cut, seed);
        judge.kill(media, cut);
    }
    return swept;
}

namespace {

// The worlds after the acts when what `waits` says of the transactions, or of the reads, has to
// wait.
enum class Waits { transactions, reads };
struct Parked {
    std::string broken;  // what does not hold
    Story story;
    std::vector<std::size_t> cuts;  // events when one had to wait
    std::size_t begun = 0;          // transactions, or reads
    std::uint64_t inodes_used = 0;  // (fsck counts the blocks; trees may be merged or not)
};
Parked act_parked(const Sweep &sweep, SimMedia &media, bool keeps_places, Waits which,
                  const std::function<bool(std::size_t)> &waits) {
    Parked parked;
    bool acting = false;
    MountOptions options = mount_options(kBootA);
    const auto hook = [&] {
        if (!acting || !waits(parked.begun++)) return false;
        parked.cuts.push_back(media.events());
        return true;
    };
    if (which == Waits::transactions) options.park_hook = hook;
    if (which == Waits::reads) options.absent_hook = [&](BlockNo) { return hook(); };
    {
        auto volume = must(Volume::open(media.lend(), options));
        User user(*volume, keeps_places);
        const auto note = [&] {
            parked.story.worlds.push_back(must(look_at(*volume)));
            parked.story.returned.push_back(media.events());
            parked.story.synced.push_back(parked.story.synced.empty() ? media.events()
                                                                      : ~std::size_t{0});
        };
        note();
        for (const Act &act : sweep.acts) {
            acting = true;
            act(user);
            acting = false;
            note();
        }
        acting = true;
        for (int i = 0; i < 4; ++i) {  // what was put off
            must(volume->commit_group());
            volume->tend(0);
        }
        acting = false;
        parked.story.worlds.back() = must(look_at(*volume));
        parked.inodes_used = volume->info().inodes_used;
        must(volume->close());
    }
    const auto region = media.lend();
    const auto report = must(fsck::check(*region));
    if (!report.clean()) parked.broken = "fsck: " + fsck::text_of(report.problems.front());
    return parked;
}

// What is wrong with a run that had to wait here and there.
std::string compare(const Parked &parked, const Parked &straight) {
    if (!parked.broken.empty()) return parked.broken;
    const World &wanted = straight.story.worlds.back();
    std::string broken = judge(parked.story.worlds.back(), {&wanted}, {&wanted}, false);
    if (!broken.empty()) return broken;
    return parked.inodes_used == straight.inodes_used ? "" : "an inode was not given back";
}

bool never(std::size_t) {
    return false;
}

// A transaction waits for room in the journal, and the power goes just then.
void park_transactions(const Sweep &sweep, const MediaImage &base, Swept &swept) {
    SimMedia undisturbed(SimMedia::Flavour::image, base);
    const Parked straight = act_parked(sweep, undisturbed, true, Waits::transactions, never);
    // An odd one, so that it meets both.
    const std::size_t step = straight.begun / times(straight.begun + 1, 20) * 2 + 1;
    for (std::size_t run = 0; run < 2 * straight.begun; run += step) {
        const std::size_t nth = run / 2;
        const bool keeps_places = run % 2 == 0;
        const auto waits = [nth](std::size_t number) {
            return number == nth || (nth % 2 == 1 && number == nth + 2);
        };
        SimMedia media(SimMedia::Flavour::image, base);
        const Parked parked = act_parked(sweep, media, keeps_places, Waits::transactions, waits);
        std::string broken = compare(parked, straight);
        ++swept.cuts;
        const std::string where = "transaction " + std::to_string(nth) + " of " +
                                  std::to_string(straight.begun) + " had to wait, " +
                                  (keeps_places ? "kept" : "started over") + ": ";
        if (!broken.empty()) swept.violations.push_back(sweep.name + ": " + where + broken);
        const std::size_t before = swept.violations.size();
        Judge judge(sweep, SimMedia::Flavour::image, parked.story, swept);
        for (const std::size_t cut : parked.cuts) {
            for (unsigned seed = 0; seed < 2; ++seed) judge.power_cut(media, cut, seed);
            judge.kill(media, cut);
        }
        if (swept.violations.size() != before)
            swept.violations.push_back(sweep.name + ": cut while " + where);
    }
}

// A block of metadata is not in memory when it is read (pm/no_waiting.h).
void page_in(const Sweep &sweep, const MediaImage &base, Swept &swept) {
    SimMedia undisturbed(SimMedia::Flavour::image, base);
    const Parked straight = act_parked(sweep, undisturbed, true, Waits::reads, never);
    const std::size_t runs = std::min<std::size_t>(straight.begun, times(400, 20));
    for (std::size_t run = 0; run < runs; ++run) {
        const std::size_t nth = run * straight.begun / runs;
        const auto waits = [nth](std::size_t number) {
            return number == nth || (nth % 2 == 1 && number == nth + 7);
        };
        SimMedia media(SimMedia::Flavour::image, base);
        const Parked parked = act_parked(sweep, media, true, Waits::reads, waits);
        const std::string broken = compare(parked, straight);
        if (parked.cuts.empty()) continue;  // (another thread's work came between)
        ++swept.cuts;
        if (!broken.empty())
            swept.violations.push_back(sweep.name + ": read " + std::to_string(nth) + " of " +
                                       std::to_string(straight.begun) +
                                       " was not in memory: " + broken);
    }
}

}  // namespace

Swept run_parked(const Sweep &sweep) {
    const MediaImage base = base_image(sweep, SimMedia::Flavour::image);
    Swept swept;
    park_transactions(sweep, base, swept);
    page_in(sweep, base, swept);
    return swept;
}

}  // namespace pmfs::test
